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
  }

  private final class Channel: Sendable {
    let stream: DescriptorStream

    init(_ stream: consuming DescriptorStream) { self.stream = stream }
  }

  /// The keeper answers when a small file is on disk.
  private static let answerNanoseconds: UInt64 = 2_000_000_000

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
  deinit { end() }

  /// Takes so many percent from a group for so long at most, in place of what was taken before; 0
  /// puts its bound back. Returns when that is done, or throws after 2 s. What a keeper that was
  /// killed has left is put back here. For one thread at a time.
  public func throttle(
    percent: Int, forMilliseconds milliseconds: UInt64, of group: ThrottledGroup,
    recordPath: String
  ) throws(ThrottleKeeperError) {
    let order = state.withLock { state in
      state.number += 1
      return ThrottleOrder(
        number: state.number, percent: percent, leaseMilliseconds: milliseconds, group: group,
        recordPath: recordPath)
    }
    do throws(ThrottleKeeperError) {
      try carryOut(order)
    } catch {
      if case .system = error {
        state.withLock { $0.channel = nil }
        _ = try? LeftThrottle.restore(recordedIn: recordPath)
      }
      throw error
    }
  }

  /// Closes the channel and waits for the keeper's end: the bound is back then. False when it does
  /// not end in time; it goes on trying.
  @discardableResult
  public func end() -> Bool {
    state.withLock { $0.channel = nil }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.answerNanoseconds)
    return process.waitForEnd(until: deadline) != nil
  }

  private func carryOut(_ order: ThrottleOrder) throws(ThrottleKeeperError) {
    guard let channel = state.withLock({ $0.channel }) else {
      throw .system(SystemError("sendmsg", "the keeper of the bound", .brokenPipe))
    }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.answerNanoseconds)
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
