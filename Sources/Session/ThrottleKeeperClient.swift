internal import Pages
public import System

/// Why a keeper has not done what it was told.
public enum ThrottleKeeperError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The channel failed; EPIPE: the keeper is gone.
  case system(SystemError)
  /// It has tried.
  case failed(String)
  /// It does not answer.
  case silent

  /// One message.
  public var description: String {
    switch self {
    case .system(let error): "\(error)"
    case .failed(let reason): reason
    case .silent: "the process that keeps the bound does not answer"
    }
  }
}

/// The worker's side of a `ThrottleKeeper`, a child of it. The bound is put back when the value
/// goes away, and when the process dies.
///
/// Make it before the worker is hardened: behind that it starts no process any more. It is the
/// worker's child and not the parent's: a bound is never lowered longer than the process lives that
/// has it lowered.
public final class ThrottleKeeperClient: Sendable {
  private struct State {
    var channel: Channel?
    var number: UInt64 = 0
    /// The last one.
    var order: ThrottleOrder?
    var isEnded = false
  }

  private final class Channel: Sendable {
    let stream: DescriptorStream

    init(_ stream: consuming DescriptorStream) { self.stream = stream }
  }

  /// The keeper answers when two small files in memory are written.
  public static let answerNanoseconds: UInt64 = 2_000_000_000

  private let process: WorkerProcess
  private let state: Lock<State>

  /// Which process.
  public var identity: ProcessIdentity { process.handle.identity }

  /// Starts one: `arguments` are the command line of a program that calls `ThrottleKeeper.run` with
  /// `ChildProcess.passedDescriptorNumber`.
  public init(
    executable: String = OwnExecutable.path, arguments: [String]
  ) throws(SystemError) {
    var pair = try DescriptorStreamPair.packets()
    let channel = Channel(pair.takeFirst())
    let passed = pair.takeSecond()
    process = try WorkerProcess(
      executable: executable, arguments: arguments, passing: passed, isSilent: true)
    state = Lock(State(channel: channel))
  }

  /// An ended child that nobody reaps stays for as long as this process lives.
  deinit {
    // Nobody is there any more to be told.
    try? end()
  }

  /// Takes so many percent from a group for so long at most, in place of what was taken before; 0
  /// puts its bound back. Returns when that is done, or throws when there is no answer in time:
  /// then the keeper is ended, and what it has left is put back here. For one thread at a time.
  public func throttle(
    percent: Int, forMilliseconds milliseconds: UInt64, of group: ThrottledGroup,
    recordPath: String, owner: String, answerNanoseconds: UInt64 = answerNanoseconds
  ) throws(ThrottleKeeperError) {
    let order = state.withLock { state in
      state.number += 1
      let order = ThrottleOrder(
        number: state.number, percent: percent, leaseMilliseconds: milliseconds, group: group,
        recordPath: recordPath, owner: owner)
      state.order = order
      return order
    }
    do throws(ThrottleKeeperError) {
      try carryOut(
        order, until: MonotonicClock.now().advanced(byNanoseconds: answerNanoseconds))
    } catch {
      switch error {
      case .failed: throw error
      case .system, .silent: break
      }
      let isFirst = state.withLock { $0.channel.take() } != nil
      try restore(waitingNanoseconds: isFirst ? answerNanoseconds : 0)
      // The bound is back: that is what was asked for.
      if percent != 0 { throw error }
    }
  }

  /// Has the bound put back and the keeper end. One that does not answer is killed, and the bound
  /// put back here; throws when that cannot be done now. A keeper that answers that it cannot do it
  /// goes on trying, and outlives this process.
  public func end() throws(ThrottleKeeperError) {
    let last = state.withLock { state in
      defer { state.isEnded = true }
      return state.isEnded ? nil : (isOpen: state.channel != nil, order: state.order)
    }
    guard let last else { return }
    if last.isOpen, let order = last.order {
      do throws(ThrottleKeeperError) {
        try throttle(
          percent: 0, forMilliseconds: 0, of: order.group, recordPath: order.recordPath,
          owner: order.owner)
      } catch {
        state.withLock { $0.channel = nil }
        throw error
      }
    }
    state.withLock { $0.channel = nil }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.answerNanoseconds)
    // It may have been killed, and have left its file.
    if process.waitForEnd(until: deadline) == nil || last.order != nil {
      try restore(waitingNanoseconds: Self.answerNanoseconds)
    }
  }

  /// Ends the keeper, whatever it does, and puts back what it has left.
  private func restore(waitingNanoseconds nanoseconds: UInt64) throws(ThrottleKeeperError) {
    try? process.handle.kill()
    let deadline = MonotonicClock.now().advanced(byNanoseconds: nanoseconds)
    _ = process.waitForEnd(until: deadline)
    guard let path = state.withLock({ $0.order?.recordPath }) else { return }
    do throws(ThrottleError) {
      _ = try LeftThrottle.restore(
        recordedIn: path, endingKeeperAfter: 0, deathNanoseconds: 0)
    } catch { throw .failed("the bound of the VM's control group is not put back: \(error)") }
  }

  private func carryOut(
    _ order: ThrottleOrder, until deadline: Instant
  ) throws(ThrottleKeeperError) {
    guard let channel = state.withLock({ $0.channel }) else {
      throw .system(SystemError("sendmsg", "the keeper of the bound", .brokenPipe))
    }
    do throws(SystemError) {
      try ThrottlePacket.send(order, over: channel.stream)
    } catch {
      // It stands still: its orders are not read.
      throw error.errno == .tryAgain ? .silent : .system(error)
    }
    while true {
      let received: ThrottlePacket.Received<ThrottleAnswer>
      do throws(SystemError) {
        received = try ThrottlePacket.receive(
          ThrottleAnswer.self, from: channel.stream, until: deadline)
      } catch { throw .system(error) }
      switch received {
      case .ended: throw .system(SystemError("recvmsg", "the keeper of the bound", .brokenPipe))
      case .nothing: throw .silent
      // One of an order that was given up is passed over.
      case .value(let answer) where answer.number == order.number:
        if let problem = answer.problem { throw .failed(problem) }
        return
      case .value: continue
      }
    }
  }
}
