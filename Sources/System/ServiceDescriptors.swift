internal import CLinux
internal import Glibc

/// The descriptor store of a service manager, as systemd has it: what it holds for us outlives all
/// our processes and comes back with the next start. Its protocol is two variables of the
/// environment and plain datagrams (sd_listen_fds(3), sd_notify(3)), so no library is needed.
public enum ServiceDescriptors {
  /// A descriptor that the service manager passed, with the name under which it was stored.
  public struct Passed: Hashable, Sendable {
    /// Its number here. Whoever takes it adopts it once.
    public let number: Int32
    /// The name; "unknown" when none was given.
    public let name: String
  }

  /// The first number that is passed (SD_LISTEN_FDS_START).
  static let firstNumber: Int32 = 3
  /// Above anything that a unit of ours stores.
  static let maximumCount = 64
  /// What a stored name may have (sd_notify(3)).
  static let maximumNameByteCount = 255

  /// What was passed to this process; empty when nothing was, or it was meant for another process:
  /// a child inherits the variables. `environment` gives a variable's value.
  public static func passed(
    processID: Int32? = nil,
    environment: (String) -> String? = { ProcessEnvironment.value(of: $0) }
  ) -> [Passed] {
    guard environment("LISTEN_PID").flatMap({ Int32($0) }) == processID ?? getpid(),
      let count = environment("LISTEN_FDS").flatMap({ Int($0) }), (1...maximumCount).contains(count)
    else { return [] }
    let names = (environment("LISTEN_FDNAMES") ?? "")
      .split(separator: ":", omittingEmptySubsequences: false)
    return (0..<count).map { position in
      let name = position < names.count && !names[position].isEmpty ? names[position] : "unknown"
      return Passed(number: firstNumber + Int32(position), name: String(name))
    }
  }

  /// Takes a passed descriptor over, close-on-exec from now on. EBADF when there is none of that
  /// number: the variables lied.
  public static func take(_ passed: Passed) throws(SystemError) -> OwnedDescriptor {
    try InheritedDescriptor.take(passed.number)
  }

  /// Where the service manager takes messages; nil when there is none.
  public static func address() -> String? { ProcessEnvironment.value(of: "NOTIFY_SOCKET") }

  /// Has the service manager keep a duplicate. It drops one by itself when polling it shows an
  /// error: told not to look (FDPOLL=0), it keeps what we say until we say otherwise.
  public static func store(
    _ descriptor: Int32, name: String, at address: String
  ) throws(SystemError) {
    try send("FDSTORE=1\nFDNAME=\(name)\nFDPOLL=0\n", [descriptor], name: name, to: address)
  }

  /// Has the service manager close all that it keeps under that name.
  public static func remove(name: String, at address: String) throws(SystemError) {
    try send("FDSTOREREMOVE=1\nFDNAME=\(name)\n", [], name: name, to: address)
  }

  private static func send(
    _ text: String, _ descriptors: [Int32], name: String, to address: String
  ) throws(SystemError) {
    // A line end or colon in a name would be another message, or another name.
    guard (1...maximumNameByteCount).contains(name.utf8.count),
      name.utf8.allSatisfy({ (0x21...0x7E).contains($0) && $0 != UInt8(ascii: ":") })
    else { throw SystemError("sendmsg", name, .invalidArgument) }
    try connect(to: address).send(Array(text.utf8), descriptors: descriptors)
  }

  private static func connect(to address: String) throws(SystemError) -> DescriptorStream {
    let kind =
      Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let number = socket(AF_UNIX, kind, 0)
    guard number >= 0 else { throw SystemError("socket", address) }
    let stream = DescriptorStream(adopting: OwnedDescriptor(adopting: number))
    var name = sockaddr_un()
    // "@name" stands for the abstract namespace.
    let length =
      address.hasPrefix("@")
      ? unsafe clinux_abstract_address(String(address.dropFirst()), &name)
      : unsafe clinux_unix_address(address, &name)
    guard length > 0 else { throw SystemError("connect", address) }
    // unsafe: the address lives through the call, and its length is what was filled in.
    let result = unsafe withUnsafePointer(to: &name) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe Glibc.connect(number, .init(__sockaddr__: $0), socklen_t(length))
      }
    }
    guard result == 0 else { throw SystemError("connect", address) }
    return stream
  }
}
