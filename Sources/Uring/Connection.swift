internal import Glibc
public import Pages
internal import Synchronization
public import System

/// A stream to the peer that owns its socket. TLS goes beneath this type: callers see bytes in and
/// bytes out, and nothing of how they travel.
///
/// One thread may send while another receives; two senders would mix their bytes. `shutdown` may
/// be called by any thread and ends both.
public final class Connection: Sendable {
  /// What a connection carries decides how much may wait in the kernel.
  public enum Purpose: Hashable, Sendable {
    /// Small messages that somebody waits for.
    case urgent
    /// Long runs that nobody waits for.
    case bulk
  }

  /// The address of the peer, for messages.
  public let peer: Endpoint
  let descriptor: OwnedDescriptor
  let tls: TLSSession?
  private let isShutDown = Atomic<Bool>(false)

  /// Takes over a connected stream socket and sets its options for `purpose`.
  public convenience init(
    adopting descriptor: consuming OwnedDescriptor, peer: Endpoint, purpose: Purpose
  ) throws(ConnectionError) {
    try self.init(adopting: descriptor, peer: peer, purpose: purpose, nil)
  }

  /// With TLS in that role; the handshake is still to be made.
  init(
    adopting descriptor: consuming OwnedDescriptor, peer: Endpoint, purpose: Purpose,
    _ security: (context: TLSContext, role: TLSRole)?
  ) throws(ConnectionError) {
    let number = descriptor.rawValue
    do throws(TLSContextError) {
      tls = try security.map { (context, role) throws(TLSContextError) in
        TLSSession(try TLSEngine(context, role, descriptor: number))
      }
    } catch {
      throw ConnectionError(
        .tls(.broken(error.description)), "TLS", peer: peer.description)
    }
    self.descriptor = descriptor
    self.peer = peer
    try setOptions(for: purpose)
  }

  /// The socket's number, to wait for it to become readable or to give to a ring. Reading or
  /// writing through it is for `Uring` alone; closing it is for nobody.
  public var rawDescriptor: Int32 { descriptor.rawValue }

  /// Whether the bytes stay on this host.
  public var isLocal: Bool { peer.isLocal }

  /// Ends the connection in both directions now. Blocked calls of other threads return
  /// `shutDownHere`; the peer sees the end of the stream. The number stays ours until `deinit`.
  public func shutdown() {
    sayGoodbye()
    isShutDown.store(true, ordering: .releasing)
    // ENOTCONN: the peer was faster; nothing is left to be ended.
    _ = Glibc.shutdown(descriptor.rawValue, Int32(SHUT_RDWR))
  }

  /// Tells the peer that nothing more will be sent; what it sends still arrives.
  public func endSending() {
    sayGoodbye()
    // ENOTCONN: the peer was faster; nothing is left to be ended.
    _ = Glibc.shutdown(descriptor.rawValue, Int32(SHUT_WR))
  }

  /// Sends all bytes. Without a deadline it blocks as long as the peer lives: TCP_USER_TIMEOUT or
  /// `shutdown` ends it. One system call when there is room. After a throw an unknown part of the
  /// bytes is on its way: the stream is of no further use. `hasMore` lets the kernel wait for the
  /// next send before it fills a packet.
  public func send(
    _ bytes: RawSpan, hasMore: Bool = false, until deadline: Instant? = nil
  ) throws(ConnectionError) {
    try unsafe bytes.withUnsafeBytes { buffer throws(ConnectionError) in
      if let tls {
        return try unsafe sendSealed(buffer, tls, hasMore: hasMore, until: deadline)
      }
      var sent = 0
      let flags =
        SocketFlags.noSignal | (deadline == nil ? 0 : SocketFlags.dontWait)
        | (hasMore ? SocketFlags.more : 0)
      while sent < buffer.count {
        // unsafe: sent < count, so the rest of the span is valid for the call.
        let result = unsafe Glibc.send(
          descriptor.rawValue, buffer.baseAddress! + sent, buffer.count - sent, flags)
        if result > 0 {
          sent += result
        } else if result < 0 {
          try waitOrThrow("send", events: POLLOUT, until: deadline)
        }
      }
    }
  }

  /// Sends what there is room for now; 0 when there is none. Never blocks. Under TLS the end of the
  /// last record may wait for the next call.
  public func trySend(_ bytes: RawSpan) throws(ConnectionError) -> Int {
    try unsafe bytes.withUnsafeBytes { buffer throws(ConnectionError) in
      if let tls { return try unsafe trySendSealed(buffer, tls) }
      while true {
        // unsafe: the span is valid during the call.
        let result = unsafe Glibc.send(
          descriptor.rawValue, buffer.baseAddress, buffer.count,
          SocketFlags.noSignal | SocketFlags.dontWait)
        if result >= 0 { return result }
        switch Errno.current {
        case .tryAgain: return 0
        case .interrupted: continue
        case let errno: throw failure("send", errno)
        }
      }
    }
  }

  /// Receives at least one byte and as many as there are; returns how many. Waits for the peer
  /// until the deadline, without one for ever.
  public func receive(
    into bytes: inout MutableRawSpan, until deadline: Instant? = nil
  ) throws(ConnectionError) -> Int {
    try unsafe bytes.withUnsafeMutableBytes { buffer throws(ConnectionError) in
      try unsafe receive(into: buffer, until: deadline)
    }
  }

  /// Fills all of `bytes`. The end of the stream before that is `closedByPeer`.
  public func receiveAll(
    into bytes: inout MutableRawSpan, until deadline: Instant? = nil
  ) throws(ConnectionError) {
    try unsafe bytes.withUnsafeMutableBytes { buffer throws(ConnectionError) in
      var received = 0
      while received < buffer.count {
        // unsafe: received < count, so the slice lies inside the span.
        received += try unsafe receive(
          into: UnsafeMutableRawBufferPointer(rebasing: buffer[received...]), until: deadline)
      }
    }
  }

  /// Receives what has come already; nil when there is nothing yet. Never blocks.
  public func tryReceive(into bytes: inout MutableRawSpan) throws(ConnectionError) -> Int? {
    try unsafe bytes.withUnsafeMutableBytes { buffer throws(ConnectionError) in
      invariant(buffer.count > 0, "something is received into room for at least one byte")
      if let tls { return try unsafe tryReceiveSealed(into: buffer, tls) }
      while true {
        // unsafe: the span is valid during the call.
        let result = unsafe recv(
          descriptor.rawValue, buffer.baseAddress, buffer.count, SocketFlags.dontWait)
        if result > 0 { return result }
        if result == 0 { throw endOfStream("recv") }
        switch Errno.current {
        case .tryAgain: return nil
        case .interrupted: continue
        case let errno: throw failure("recv", errno)
        }
      }
    }
  }

  /// Whether the peer has ended its side of the stream, or the connection is gone. What it sent
  /// before may still be there to be received. Never waits.
  public var hasPeerEnded: Bool {
    // A poll that fails tells nothing.
    let now = Instant(nanoseconds: 0)
    return (try? wait("poll", events: POLLRDHUP, until: now, cancel: nil)) == .ready
  }

  /// What ended a wait.
  public enum Wakeup: Hashable, Sendable {
    /// The connection has bytes, or its end, to be received.
    case readable
    /// The event was signalled (and is not drained). It goes before `readable`.
    case event
    /// The deadline passed.
    case deadline
  }

  /// Waits until bytes (or the end of the stream) can be received, `event` is signalled, or the
  /// deadline passes. One system call. Under TLS part of a record counts as readable too:
  /// `tryReceive` may then find nothing.
  public func waitReadable(
    or event: WakeEvent? = nil, until deadline: Instant? = nil
  ) throws(ConnectionError) -> Wakeup {
    let readiness =
      if let tls {
        try waitReadableSealed(tls, or: event, until: deadline)
      } else {
        try wait("poll", events: POLLIN, until: deadline, cancel: event)
      }
    return switch readiness {
    case .ready: .readable
    case .cancelled: .event
    case .timedOut: .deadline
    }
  }
}

extension Connection {
  private func receive(
    into buffer: UnsafeMutableRawBufferPointer, until deadline: Instant?
  ) throws(ConnectionError) -> Int {
    invariant(buffer.count > 0, "something is received into room for at least one byte")
    if let tls { return try unsafe receiveSealed(into: buffer, tls, until: deadline) }
    while true {
      // unsafe: the caller's span is valid during the call.
      let result = unsafe recv(
        descriptor.rawValue, buffer.baseAddress, buffer.count,
        deadline == nil ? 0 : SocketFlags.dontWait)
      if result > 0 { return result }
      if result == 0 { throw endOfStream("recv") }
      try waitOrThrow("recv", events: POLLIN, until: deadline)
    }
  }

  /// After a call that failed: waits where waiting helps, else throws what the number means.
  private func waitOrThrow(
    _ operation: StaticOperation, events: Int32, until deadline: Instant?
  ) throws(ConnectionError) {
    switch Errno.current {
    case .interrupted: return
    case .tryAgain:
      if try wait(operation, events: events, until: deadline, cancel: nil) == .timedOut {
        throw ConnectionError(.timedOut, operation, peer: peer.description)
      }
    case let errno: throw failure(operation, errno)
    }
  }

  func wait(
    _ operation: StaticOperation, events: Int32, until deadline: Instant?, cancel: WakeEvent?
  ) throws(ConnectionError) -> SocketReadiness {
    do throws(SystemError) {
      return try SocketWait.poll(
        descriptor.rawValue, events: events, until: deadline, cancel: cancel)
    } catch {
      throw failure(operation, error.errno)
    }
  }

  /// A read of 0 bytes is the peer's end of the stream, or our own shutdown.
  func endOfStream(_ operation: StaticOperation) -> ConnectionError {
    ended(.closedByPeer, operation)
  }

  /// That end, unless our own shutdown came first.
  func ended(_ kind: ConnectionError.Kind, _ operation: StaticOperation) -> ConnectionError {
    ConnectionError(
      isShutDown.load(ordering: .acquiring) ? .shutDownHere : kind, operation,
      peer: peer.description)
  }

  func failure(_ operation: StaticOperation, _ errno: Errno) -> ConnectionError {
    // After our own shutdown the kernel answers EPIPE, or whatever it found first.
    isShutDown.load(ordering: .acquiring)
      ? ConnectionError(.shutDownHere, operation, peer: peer.description, errno: errno)
      : ConnectionError(operation, peer: peer.description, meaningOf: errno)
  }

  /// What a ring's completion for a receive or send on this connection means: bytes moved, or why
  /// not. `result` is the completion's.
  public func byteCount(
    ofCompletion result: Int32, _ operation: StaticOperation
  ) throws(ConnectionError) -> Int {
    if result > 0 { return Int(result) }
    if result < 0 { throw failure(operation, Errno(rawValue: -result)) }
    // Under TLS a peer that ends in good order says goodbye first, and that is seen first.
    throw ended(tls == nil ? .closedByPeer : .cut, operation)
  }
}
