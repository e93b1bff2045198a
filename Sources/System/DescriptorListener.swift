internal import CLinux
internal import Glibc
public import Pages

/// A UNIX stream socket that only this user may connect to, for peers that pass descriptors.
public struct DescriptorListener: ~Copyable, Sendable {
  /// Where it listens.
  public let path: String
  private let descriptor: OwnedDescriptor
  /// The number to wait on: readable while a peer waits to be accepted. Never close it.
  public var rawValue: Int32 { descriptor.rawValue }

  /// Peers that may wait to be accepted; the one VMM that attaches may try again quickly.
  private static let backlog: Int32 = 8

  /// Listens at `path` (mode 0600 from the first moment). A stale socket of an earlier process is
  /// replaced; one that lives stays, as does whatever is no socket, and is EADDRINUSE.
  public init(path: String) throws(SystemError) {
    descriptor = try Self.listen(at: path)
    self.path = path
  }

  deinit { _ = unsafe unlink(path) }

  private static func listen(at path: String) throws(SystemError) -> OwnedDescriptor {
    let number = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard number >= 0 else { throw SystemError("socket", path) }
    let descriptor = OwnedDescriptor(adopting: number)
    // The mode of the socket's inode is what bind gives the path: no moment with another one.
    guard fchmod(number, 0o600) == 0 else { throw SystemError("fchmod", path) }
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    guard length >= 0 else { throw SystemError("bind", path) }
    removeStaleSocketFile(path, address, socklen_t(length))
    // unsafe: the address is a local variable of the length that was just filled in.
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(number, .init(__sockaddr__: $0), socklen_t(length))
      }
    }
    guard result == 0 else { throw SystemError("bind", path) }
    guard Glibc.listen(number, Self.backlog) == 0 else { throw SystemError("listen", path) }
    return descriptor
  }

  /// Whether a listener would find the path free, as far as can be seen without making one: nothing
  /// is there, or what a killed process left, in a directory that is there.
  public static func isFree(_ path: String) -> Bool {
    var status = stat()
    // unsafe: path and status live during the call.
    guard unsafe lstat(path, &status) != 0 else {
      var address = sockaddr_un()
      let length = unsafe clinux_unix_address(path, &address)
      return length >= 0 && isStaleSocketFile(path, address, socklen_t(length))
    }
    let directory = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
    return Errno.current == .noSuchEntry
      && (try? FileStatus.of(path: directory.isEmpty ? "/" : directory))?.isDirectory == true
  }

  /// Removes what a killed process left behind: a socket file that is nobody's any more. A live one
  /// stays, and so does anything that is no socket: bind then says that the address is in use.
  private static func removeStaleSocketFile(
    _ path: String, _ address: sockaddr_un, _ length: socklen_t
  ) {
    if isStaleSocketFile(path, address, length) { _ = unsafe unlink(path) }
  }

  private static func isStaleSocketFile(
    _ path: String, _ address: sockaddr_un, _ length: socklen_t
  ) -> Bool {
    var status = stat()
    // unsafe: path and status live during the call.
    guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else {
      return false
    }
    // A datagram socket asks without disturbing: a stream socket that lives answers EPROTOTYPE, and
    // its owner, who takes the first connection for the VMM's, sees nothing.
    let number = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    // No answer means that nothing is removed; what is wrong, bind will meet too.
    guard number >= 0 else { return false }
    let probe = OwnedDescriptor(adopting: number)
    // unsafe: the address is a parameter of the length that it was made with.
    let result = unsafe withUnsafePointer(to: address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe connect(number, .init(__sockaddr__: $0), length)
      }
    }
    let errno = Errno.current
    _ = consume probe
    return result != 0 && errno.rawValue == ECONNREFUSED
  }

  /// Waits for a peer. nil when `stop` is signalled or the deadline passes first.
  public borrowing func accept(
    or stop: WakeEvent? = nil, until deadline: Instant? = nil
  ) throws(SystemError) -> DescriptorStream? {
    while true {
      guard try DescriptorStream.waitReadable(descriptor.rawValue, or: stop, until: deadline)
      else { return nil }
      let number = unsafe accept4(
        descriptor.rawValue, .init(__sockaddr__: nil), nil, Int32(SOCK_CLOEXEC.rawValue))
      if number >= 0 { return DescriptorStream(adopting: OwnedDescriptor(adopting: number)) }
      switch Errno.current.rawValue {
      // The peer has given up again, or a signal came: wait for the next one.
      case ECONNABORTED, EINTR, EAGAIN: continue
      default: throw SystemError("accept", path)
      }
    }
  }
}

/// One end of a connected UNIX socket over which descriptors come.
public struct DescriptorStream: ~Copyable, Sendable {
  let descriptor: OwnedDescriptor

  /// Descriptors taken from one message. More than any dialect sends, so that a peer that sends
  /// too many is told so rather than cut short.
  public static let descriptorCapacity = 8

  /// Takes over a connected UNIX stream socket.
  public init(adopting descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }

  /// What one receive brought.
  public enum Received: Hashable, Sendable {
    /// That many bytes (at least one).
    case bytes(Int)
    /// The peer closed its end.
    case endOfStream
    /// The stop event was signalled first.
    case stopped
    /// Nothing came in time.
    case timedOut
  }

  /// Receives bytes, and appends the descriptors that came with them to `descriptors`: the caller
  /// adopts each. Throws EMFILE when the kernel had to drop some (MSG_CTRUNC): this process's
  /// limit of open files is reached, or more came than anybody sends.
  public borrowing func receive(
    into bytes: inout [UInt8], descriptors: inout DescriptorList,
    or stop: WakeEvent? = nil, until deadline: Instant? = nil
  ) throws(SystemError) -> Received {
    var numbers = [8 of Int32](repeating: -1)
    while true {
      switch try Self.wait(descriptor.rawValue, or: stop, until: deadline) {
      case .readable: break
      case .stopped: return .stopped
      case .timedOut: return .timedOut
      }
      var count: Int32 = 0
      var isTruncated: Int32 = 0
      var slots = numbers.mutableSpan
      var room = bytes.mutableSpan
      // unsafe: both buffers are valid during the call and as long as the call is told.
      let result = unsafe room.withUnsafeMutableBytes { buffer in
        unsafe slots.withUnsafeMutableBufferPointer { slots in
          unsafe clinux_receive_with_descriptors(
            descriptor.rawValue, buffer.baseAddress, buffer.count, slots.baseAddress,
            Int32(slots.count), &count, &isTruncated)
        }
      }
      if result >= 0 {
        for position in 0..<Int(count) {
          descriptors.append(OwnedDescriptor(adopting: numbers[position]))
        }
        if isTruncated != 0 {
          throw SystemError("recvmsg", "descriptors were dropped", Errno(rawValue: EMFILE))
        }
        return result == 0 ? .endOfStream : .bytes(result)
      }
      switch Errno.current {
      case .interrupted, .tryAgain: continue
      // The peer closed with our bytes unread: to the reader that is an end like any other.
      case .connectionReset: return .endOfStream
      default: throw SystemError("recvmsg")
      }
    }
  }

  /// The process at the other end when it connected (SO_PEERCRED).
  public borrowing func peerProcessID() throws(SystemError) -> Int32 { try peer().processID }

  /// The process and the user at the other end, as they were when it connected or listened.
  public borrowing func peer() throws(SystemError) -> PeerCredentials {
    var credentials = ucred()
    var length = socklen_t(MemoryLayout<ucred>.size)
    // unsafe: the option is read into a variable of exactly its type.
    let result = unsafe getsockopt(
      descriptor.rawValue, SOL_SOCKET, SO_PEERCRED, &credentials, &length)
    guard result == 0 else { throw SystemError("getsockopt(SO_PEERCRED)") }
    return PeerCredentials(processID: credentials.pid, user: credentials.uid)
  }

  /// Whether the peer has closed its end. Does not wait.
  public borrowing func hasEnded() -> Bool {
    var byte: UInt8 = 0
    // unsafe: one byte is peeked into one byte.
    let result = unsafe recv(
      descriptor.rawValue, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
    return result == 0 || (result < 0 && Errno.current == .connectionReset)
  }

  private enum Wait { case readable, stopped, timedOut }

  static func waitReadable(
    _ descriptor: Int32, or stop: WakeEvent?, until deadline: Instant?
  ) throws(SystemError) -> Bool {
    try wait(descriptor, or: stop, until: deadline) == .readable
  }

  private static func wait(
    _ descriptor: Int32, or stop: WakeEvent?, until deadline: Instant?
  ) throws(SystemError) -> Wait {
    while true {
      var timeout: Int32 = -1
      if let deadline {
        // Rounded up, so that the last wait does not spin through the final millisecond.
        let left = deadline.nanoseconds(since: MonotonicClock.now())
        timeout = Int32(clamping: (left + 999_999) / 1_000_000)
      }
      var entries: [2 of pollfd] = [
        pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0),
        // poll ignores a negative descriptor.
        pollfd(fd: stop?.rawValue ?? -1, events: Int16(POLLIN), revents: 0),
      ]
      var span = entries.mutableSpan
      // unsafe: two entries, as the call is told.
      let result = unsafe span.withUnsafeMutableBufferPointer {
        unsafe poll($0.baseAddress, 2, timeout)
      }
      if result < 0 {
        if Errno.current == .interrupted { continue }
        throw SystemError("poll")
      }
      if entries[1].revents != 0 { return .stopped }
      if entries[0].revents != 0 { return .readable }
      if deadline != nil, result == 0, timeout == 0 { return .timedOut }
    }
  }
}

/// A few descriptors, each closed once unless taken.
public struct DescriptorList: ~Copyable {
  private var numbers: [Int32] = []

  /// No descriptors.
  public init() {}

  deinit { for number in numbers { _ = close(number) } }

  /// How many it holds.
  public var count: Int { numbers.count }

  /// The number at a position, to look at. It stays the list's.
  public subscript(position: Int) -> Int32 { numbers[position] }

  /// Adds one.
  public mutating func append(_ descriptor: consuming OwnedDescriptor) {
    numbers.append(descriptor.release())
  }

  /// Takes the first one out; nil when there is none.
  public mutating func takeFirst() -> OwnedDescriptor? {
    numbers.isEmpty ? nil : OwnedDescriptor(adopting: numbers.removeFirst())
  }
}
