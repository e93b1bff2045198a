import CLinux
import Glibc
import System
import Testing

/// A VMM's end of the attach socket.
final class HandOffClient: Sendable {
  private let number: Int32
  private let isOpen = Lock(true)

  init(path: String) throws {
    let number = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    try #require(number >= 0)
    self.number = number
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe connect(number, .init(__sockaddr__: $0), socklen_t(length))
      }
    }
    try #require(result == 0, "the attach socket takes connections")
  }

  func send(_ text: String, _ descriptors: [Int32] = []) throws {
    let bytes = Array(text.utf8)
    let sent = unsafe bytes.withUnsafeBytes { bytes in
      unsafe descriptors.withUnsafeBufferPointer { descriptors in
        unsafe clinux_send_with_descriptors(
          number, bytes.baseAddress, bytes.count, descriptors.baseAddress,
          Int32(descriptors.count))
      }
    }
    try #require(sent == bytes.count)
  }

  func close() {
    isOpen.withLock { isOpen in
      if isOpen { _ = Glibc.close(number) }
      isOpen = false
    }
  }

  deinit { close() }
}

/// A directory of its own for each test, removed at the end.
final class TemporaryDirectory {
  let path: String

  init() throws {
    var template = Array("/tmp/fault-handler-XXXXXX".utf8CString)
    let made = unsafe template.withUnsafeMutableBufferPointer { unsafe mkdtemp($0.baseAddress!) }
    try #require(unsafe made != nil)
    path = unsafe template.withUnsafeBufferPointer { unsafe String(cString: $0.baseAddress!) }
  }

  deinit {
    for name in ["attach.sock", "states"] { _ = unsafe unlink("\(path)/\(name)") }
    _ = unsafe rmdir(path)
  }

  func file(_ name: String) -> String { "\(path)/\(name)" }
}
