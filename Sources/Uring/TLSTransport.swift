internal import Glibc

/// Where a TLS session's sealed bytes come from and go to, beneath OpenSSL: the socket itself, or,
/// once a ring does the input and output, the ring's memory. Never blocks.
///
/// OpenSSL's own socket layer would raise SIGPIPE, and its memory layer would copy once more. And
/// OpenSSL must never find its output full: when it has a record half sent, and reads a second
/// change of keys before it has answered the first, it tries to send the answer inside that record
/// and gives the session up ("bad length", 3.0.19). So what finds no room waits here.
@safe
struct TLSTransport {
  /// Most sealed bytes that a peer may send before it has proved who it is: a chain of certificates
  /// takes a few KiB.
  static let handshakeLimitByteCount = 65_536

  let descriptor: Int32
  /// A ring moves the bytes: `input` and `output` are what there is.
  var isOnRing = false
  var input = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
  var output = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
  var outputByteCount = 0
  /// More is to be sent at once: the kernel may wait for it before it fills a packet.
  var hasMore = false
  /// What OpenSSL has sent and the socket has not taken yet: the rest of one record, and what is
  /// said about keys meanwhile.
  private var backlog: UnsafeMutableRawBufferPointer
  private var backlogStart = 0
  private var backlogEnd = 0
  /// Nothing is sealed before the backlog is gone, so one record with room for some 300 changes of
  /// keys: a peer that asks for more, and takes no answer, is cut off.
  private static let backlogByteCount = 24_576
  /// Why a call on the socket failed for good; 0 while none has.
  var errno: Int32 = 0
  /// The peer has closed its side.
  var isAtEnd = false
  var firstByte: UInt8?
  /// What may still come before the handshake has to be over.
  var remainingByteCount = handshakeLimitByteCount
  var isOverLimit: Bool { remainingByteCount < 0 }

  init(descriptor: Int32) {
    self.descriptor = descriptor
    unsafe backlog = .allocate(byteCount: Self.backlogByteCount, alignment: 16)
  }

  /// Gives the backlog's memory back; the owner calls it last of all, once.
  func deallocate() { unsafe backlog.deallocate() }

  /// What a callback answers: bytes moved, or why not.
  enum Step {
    case moved(Int)
    case retry
    case failed
  }

  mutating func receive(into buffer: UnsafeMutableRawBufferPointer) -> Step {
    guard !isOverLimit, buffer.count > 0 else { return .failed }
    if isOnRing {
      guard unsafe input.count > 0 else { return .retry }
      let count = unsafe min(buffer.count, input.count)
      unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: input[..<count]))
      unsafe input = UnsafeRawBufferPointer(rebasing: input[count...])
      return .moved(count)
    }
    while true {
      // unsafe: OpenSSL's buffer is valid during its callback, with that length.
      let result = unsafe recv(descriptor, buffer.baseAddress, buffer.count, SocketFlags.dontWait)
      if result > 0 {
        if firstByte == nil { unsafe firstByte = buffer[0] }
        remainingByteCount -= result
        return isOverLimit ? .failed : .moved(result)
      }
      if result == 0 {
        isAtEnd = true
        return .failed
      }
      switch Glibc.errno {
      case EINTR: continue
      case EAGAIN: return .retry
      case let number:
        errno = number
        return .failed
      }
    }
  }

  mutating func send(_ buffer: UnsafeRawBufferPointer) -> Step {
    if isOnRing {
      // Only an alert has no room prepared for it: the session has failed, and the peer sees the
      // end of the link.
      guard unsafe output.count > 0 else { return .moved(buffer.count) }
      guard unsafe outputByteCount + buffer.count <= output.count else { return .retry }
      unsafe UnsafeMutableRawBufferPointer(rebasing: output[outputByteCount...])
        .copyMemory(from: buffer)
      outputByteCount += buffer.count
      return .moved(buffer.count)
    }
    guard backlogStart == backlogEnd else { return unsafe keep(buffer, from: 0) }
    switch unsafe sendNow(buffer) {
    case .moved(let count): return unsafe keep(buffer, from: count)
    case .retry: return unsafe keep(buffer, from: 0)
    case .failed: return .failed
    }
  }

  /// Sends what is left of the backlog: `moved` when it is gone, `retry` when there is no room.
  mutating func flush() -> Step {
    while backlogStart < backlogEnd {
      // unsafe: both lie inside the backlog.
      let rest = unsafe UnsafeRawBufferPointer(rebasing: backlog[backlogStart..<backlogEnd])
      guard case .moved(let count) = unsafe sendNow(rest) else {
        return errno == 0 ? .retry : .failed
      }
      backlogStart += count
    }
    backlogStart = 0
    backlogEnd = 0
    return .moved(0)
  }

  /// Keeps the rest for later: to OpenSSL all of it is sent.
  private mutating func keep(_ buffer: UnsafeRawBufferPointer, from start: Int) -> Step {
    let count = buffer.count - start
    guard backlogEnd + count <= Self.backlogByteCount else {
      errno = ENOBUFS
      return .failed
    }
    if count > 0 {
      // unsafe: start <= count of the buffer, and the backlog has room: checked above.
      unsafe UnsafeMutableRawBufferPointer(rebasing: backlog[backlogEnd...])
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[start...]))
      backlogEnd += count
    }
    return .moved(buffer.count)
  }

  private mutating func sendNow(_ buffer: UnsafeRawBufferPointer) -> Step {
    let flags = SocketFlags.noSignal | SocketFlags.dontWait | (hasMore ? SocketFlags.more : 0)
    while true {
      // unsafe: as in `receive`.
      let result = unsafe Glibc.send(descriptor, buffer.baseAddress, buffer.count, flags)
      if result >= 0 { return .moved(result) }
      switch Glibc.errno {
      case EINTR: continue
      case EAGAIN: return .retry
      case let number:
        errno = number
        return .failed
      }
    }
  }
}
