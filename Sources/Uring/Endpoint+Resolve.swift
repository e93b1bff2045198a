internal import CLinux
internal import Glibc
internal import System

/// One address that the kernel understands.
struct SocketAddress {
  var storage: sockaddr_storage
  var byteCount: socklen_t
  var family: Int32 { Int32(storage.ss_family) }

  /// Runs `body` with the address in the form that bind, connect and getsockname take.
  mutating func withPointer<Result>(
    _ body: (UnsafeMutablePointer<sockaddr>, inout socklen_t) -> Result
  ) -> Result {
    var length = byteCount
    // unsafe: sockaddr_storage is made to be read as any sockaddr; it lives during the call.
    let result = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        unsafe body(address, &length)
      }
    }
    byteCount = length
    return result
  }

  /// An address to be filled by accept or getsockname.
  static var unset: SocketAddress {
    SocketAddress(
      storage: sockaddr_storage(), byteCount: socklen_t(MemoryLayout<sockaddr_storage>.size))
  }
}

extension Endpoint {
  /// Addresses of one name that are tried in turn. More only make a failure slow.
  static let maximumAddressCount = 8

  /// The addresses behind this endpoint. Asks the resolver for names, which may take its time.
  func addresses(forListening: Bool) throws(ConnectionError) -> [SocketAddress] {
    switch self {
    case .unix(let path): [try unixAddress(path)]
    case .internet(let host, let port):
      try internetAddresses(host: host, port: port, forListening: forListening)
    }
  }

  private func unixAddress(_ path: String) throws(ConnectionError) -> SocketAddress {
    var address = SocketAddress.unset
    // unsafe: sockaddr_storage has room for a sockaddr_un, and lives during the call.
    let length = unsafe withUnsafeMutablePointer(to: &address.storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr_un.self, capacity: 1) { unix in
        unsafe clinux_unix_address(path, unix)
      }
    }
    guard length > 0 else {
      throw ConnectionError(.failed, "socket address", peer: description, errno: .current)
    }
    address.byteCount = socklen_t(length)
    return address
  }

  private func internetAddresses(
    host: String, port: UInt16, forListening: Bool
  ) throws(ConnectionError) -> [SocketAddress] {
    var hints = unsafe addrinfo()
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    unsafe hints.ai_flags = AI_NUMERICSERV | (forListening ? AI_PASSIVE : 0)
    var list: UnsafeMutablePointer<addrinfo>?
    let result = unsafe getaddrinfo(host, String(port), &hints, &list)
    guard result == 0 else {
      let reason = unsafe String(cString: gai_strerror(result))
      throw ConnectionError(.nameNotFound(reason), "resolve", peer: description)
    }
    // unsafe: getaddrinfo's list is ours until it is freed here, once; each entry's address has
    // ai_addrlen bytes, which are checked against the room in sockaddr_storage.
    defer { unsafe freeaddrinfo(list) }
    var addresses: [SocketAddress] = []
    var entry = unsafe list
    while let current = unsafe entry, addresses.count < Self.maximumAddressCount {
      var address = SocketAddress.unset
      let length = unsafe current.pointee.ai_addrlen
      if length <= address.byteCount {
        unsafe memcpy(&address.storage, current.pointee.ai_addr, Int(length))
        address.byteCount = length
        addresses.append(address)
      }
      unsafe entry = current.pointee.ai_next
    }
    return addresses
  }

  /// The endpoint of an address that the kernel filled in; nil for a family that is not ours.
  init?(_ address: SocketAddress) {
    var address = address
    switch address.family {
    case AF_UNIX: self = .unix(path: "")
    case AF_INET, AF_INET6:
      var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
      var service = [CChar](repeating: 0, count: Int(NI_MAXSERV))
      let result = unsafe address.withPointer { pointer, length in
        // unsafe: the address and both buffers live during the call, with their true sizes.
        unsafe getnameinfo(
          pointer, length, &host, socklen_t(host.count), &service, socklen_t(service.count),
          NI_NUMERICHOST | NI_NUMERICSERV)
      }
      guard result == 0, let port = UInt16(Self.text(service)) else { return nil }
      self = .internet(host: Self.text(host), port: port)
    default: return nil
    }
  }

  private static func text(_ characters: [CChar]) -> String {
    String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
