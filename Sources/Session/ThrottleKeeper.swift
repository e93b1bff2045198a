internal import FoundationEssentials
internal import Pages
public import System

/// What a worker has its keeper do; one packet. All that it takes is in each of them.
struct ThrottleOrder: Codable, Hashable, Sendable {
  /// Said again in the answer.
  var number: UInt64
  /// 0 puts the bound back.
  var percent: Int
  /// Then the bound is put back unless there was another order.
  var leaseMilliseconds: UInt64
  var group: ThrottledGroup
  var recordPath: String
  /// Whose VM it is.
  var owner: String
}

/// What came of an order; one packet.
struct ThrottleAnswer: Codable, Hashable, Sendable {
  var number: UInt64
  /// What went wrong; nil when it is done.
  var problem: String?
}

/// The channel's packets.
enum ThrottlePacket {
  /// An order is two paths and a few numbers.
  static let maximumByteCount = 1 << 14

  static func send<Value: Encodable>(
    _ value: Value, over stream: borrowing DescriptorStream
  ) throws(SystemError) {
    try stream.send(ControlLine.bytes(of: value))
  }

  /// What one receive brought.
  enum Received<Value> {
    case value(Value)
    case ended
    case nothing
  }

  /// EBADMSG for what is no such packet.
  static func receive<Value: Decodable>(
    _: Value.Type, from stream: borrowing DescriptorStream, until deadline: Instant?
  ) throws(SystemError) -> Received<Value> {
    var bytes = [UInt8](repeating: 0, count: maximumByteCount)
    var descriptors = DescriptorList()
    switch try stream.receive(into: &bytes, descriptors: &descriptors, until: deadline) {
    case .endOfStream: return .ended
    case .stopped, .timedOut: return .nothing
    case .bytes(let count): bytes.removeSubrange(count...)
    }
    guard let value = try? JSONDecoder().decode(Value.self, from: Data(bytes)) else {
      throw SystemError("recvmsg", "the keeper's channel", .badMessage)
    }
    return .value(value)
  }
}

/// A process that lowers the bound of a VM's control group as its worker says, and puts it back
/// when the worker says so, when it has not heard of it in time, and when it is gone.
///
/// It does nothing else and holds nothing else, so nothing of a migration brings it down. What ends
/// others (SIGHUP, SIGINT, SIGTERM) is blocked in it from its first moment on (`WorkerProcess`).
public enum ThrottleKeeper {
  /// Between two attempts to put a bound back.
  private static let retryNanoseconds: UInt64 = 1_000_000_000
  /// After so many of them, it is tried again only so often: a group above that allows less than it
  /// did may do so for days.
  private static let frequentRetryCount: UInt64 = 60
  private static let rareRetryNanoseconds: UInt64 = 60_000_000_000

  /// Runs until the other end of the channel, inherited under that number, is closed and the bound
  /// is back. Hardens the process.
  public static func run(inheritedNumber number: Int32) throws(SystemError) {
    SignalSource.ignoreBrokenPipes()
    let stream = DescriptorStream(adopting: try InheritedDescriptor.take(number))
    // Whatever directory it was, it can be unmounted.
    try FileSystem.changeDirectory("/")
    // What is found here has nowhere to be told.
    _ = WorkerHardening.apply(keeping: [.fileAccess, .fileSearch])
    try run(
      stream,
      HeldThrottle(
        keeper: try ProcessIdentity.current(), boot: try BootID.current(), files: HostFiles()))
  }

  private static func run(
    _ stream: consuming DescriptorStream, _ begun: HeldThrottle
  ) throws(SystemError) {
    var throttle = begun
    var leaseEnd: Instant?
    serving: while true {
      let received: ThrottlePacket.Received<ThrottleOrder>
      do throws(SystemError) {
        received = try ThrottlePacket.receive(
          ThrottleOrder.self, from: stream, until: leaseEnd)
      } catch {
        // A channel that brings what is no order brings no more that counts.
        break serving
      }
      switch received {
      case .ended: break serving
      case .nothing:
        leaseEnd = nil
        do throws(ThrottleError) { try throttle.release() } catch { leaseEnd = later() }
      case .value(let order):
        let answer = carryOut(order, &throttle)
        leaseEnd =
          throttle.isHeld
          ? MonotonicClock.now().advanced(
            byNanoseconds: min(order.leaseMilliseconds, maximumLeaseMilliseconds) * 1_000_000)
          : nil
        // A worker that is gone is seen at the next turn.
        try? ThrottlePacket.send(answer, over: stream)
      }
    }
    var retryCount: UInt64 = 0
    // For ever: nobody else does it, but who finds the file.
    while (try? throttle.release()) == nil {
      retryCount += 1
      _ = try Readiness.wait(
        for: [],
        until: MonotonicClock.now().advanced(
          byNanoseconds: retryCount < frequentRetryCount
            ? retryNanoseconds : rareRetryNanoseconds))
    }
  }

  /// Nobody lends for longer than a minute.
  private static let maximumLeaseMilliseconds: UInt64 = 60_000

  private static func later() -> Instant {
    MonotonicClock.now().advanced(byNanoseconds: retryNanoseconds)
  }

  private static func carryOut(
    _ order: ThrottleOrder, _ throttle: inout HeldThrottle
  ) -> ThrottleAnswer {
    do throws(ThrottleError) {
      if (1...99).contains(order.percent) {
        try throttle.take(
          percent: order.percent, of: order.group, recordPath: order.recordPath,
          owner: order.owner)
      } else {
        try throttle.release()
      }
      return ThrottleAnswer(number: order.number)
    } catch {
      return ThrottleAnswer(number: order.number, problem: "\(error)")
    }
  }
}
