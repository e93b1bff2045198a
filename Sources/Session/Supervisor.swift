internal import Pages
public import System

/// What a parent does with its worker, and how it may end.
public struct SupervisorPlan {
  /// The program of the workers.
  public var executable = OwnExecutable.path
  /// The command line of the first worker, its name in front. The keeper's channel is its
  /// descriptor 3.
  public var first: [String]
  /// The command line of a worker that goes on where another died; nil when none can.
  public var restart: [String]?
  /// Why none can go on after all, asked at each death; nil when one can. A worker that died before
  /// anything was begun leaves nothing to go on with.
  public var obstacle: () -> String? = { nil }
  /// How often.
  public var limits = RestartLimits()
  /// Where a living worker of this VM would listen; nil adopts none.
  public var controlSocketPath: String?
  /// Descriptors that an earlier parent kept and that came back from elsewhere.
  public var stored: [KeptDescriptor] = []
  /// Where a service manager takes descriptors for its store; nil when there is none.
  public var storeAddress: String?

  /// A plan for that first worker.
  public init(first: [String]) { self.first = first }
}

/// What a parent has to tell.
public enum SupervisorNote: Sendable {
  /// A worker was started.
  case started(pid: Int32)
  /// A worker that had lost its parent was adopted.
  case adopted(pid: Int32)
  /// A worker died; the words for how.
  case died(pid: Int32, how: String)
  /// The next worker is started so much later, the `count`th within the window.
  case restarting(afterNanoseconds: UInt64, count: Int)
  /// A line of the events of an adopted worker.
  case event(String)
  /// Something is not as it should be, and the migration goes on.
  case warning(String)
  /// The worker has ended, and this process stays: it keeps what nobody else does.
  case staying(String)
  /// A signal came while it has to stay.
  case stopRefused(SessionSignal, String)
}

/// How a parent ends.
public enum SupervisorEnding: Hashable, Sendable {
  /// As its worker did.
  case worker(exitCode: Int32)
  /// The workers died and no other is started; everything is kept by whoever has it.
  case parked(String)
  /// A worker of this VM lives and has a parent that lives; or the worker died before anything was
  /// begun.
  case refused(String)
}

/// The parent of a session's worker: keeps duplicates of its descriptors, passes signals on, starts
/// another one where it dies, and ends as it ends. One thread runs it; it does no work of a
/// migration, so that nothing of a migration can bring it down.
public final class Supervisor {
  /// Signals that came while no worker lived; more of them say nothing new.
  private static let maximumWaitingSignalCount = 4

  private let plan: SupervisorPlan
  private let observer: (SupervisorNote) -> Void
  private var budget: RestartBudget
  private var keep = DescriptorKeep()
  private var worker: SupervisedWorker?
  private var restartAt: Instant?
  private var waitingSignals: [SessionSignal] = []

  /// A parent that has done nothing yet. `observer` is called on the thread that calls `run`.
  public init(_ plan: SupervisorPlan, observer: @escaping (SupervisorNote) -> Void) {
    self.plan = plan
    self.observer = observer
    budget = RestartBudget(limits: plan.limits)
  }

  /// Runs the worker, and those after it, to the end. Returns only when nothing depends on this
  /// process any more.
  public func run(signals: borrowing SignalSource) throws(SystemError) -> SupervisorEnding {
    for kept in plan.stored { store(kept, isNew: false) }
    if let refusal = adopt() { return .refused(refusal) }
    if worker == nil { try start(plan.first) }
    var ending: SupervisorEnding?
    while ending == nil {
      try takeSignals(signals)
      if let restartAt, restartAt <= MonotonicClock.now() {
        self.restartAt = nil
        try start(plan.restart ?? plan.first)
      }
      let ready = try Readiness.wait(
        for: [
          signals.descriptor.rawValue, worker?.rawValue ?? -1, worker?.channel?.rawValue ?? -1,
          worker?.follower?.rawValue ?? -1,
        ], until: restartAt)
      // Before its end: what it said last comes first.
      if ready[2] || ready[1] { takeMessages() }
      if ready[3] || ready[1] { takeEvents() }
      if ready[1] { ending = workerEnded() }
    }
    guard let ending else { invariantBroken("the loop ends with an ending") }
    try stay(signals)
    return ending
  }

  private func start(_ arguments: [String]) throws(SystemError) {
    let started = try SupervisedWorker(
      executable: plan.executable, arguments: arguments, keep: keep)
    worker = started
    observer(.started(pid: started.pid))
    // They wait in it until it looks.
    for signal in waitingSignals { pass(signal, to: started) }
    waitingSignals = []
  }

  /// Takes a living worker over, if there is one; the reason when that may not be.
  private func adopt() -> String? {
    guard let path = plan.controlSocketPath else { return nil }
    do throws(ControlSocketError) {
      let adopted = try SupervisedWorker(adoptingAt: path)
      worker = adopted
      observer(.adopted(pid: adopted.pid))
      return nil
    } catch {
      switch error {
      // Nobody there, or it ended while it was asked: a new one finds out how it left things.
      case .closed: return nil
      case .system where error.isNobodyThere: return nil
      case .refused(let reason): return reason
      case .system, .timedOut, .notUnderstood: return "\(error)"
      }
    }
  }

  private func takeSignals(_ signals: borrowing SignalSource) throws(SystemError) {
    while let signal = try signals.next() {
      if let worker {
        pass(signal, to: worker)
      } else if waitingSignals.count < Self.maximumWaitingSignalCount {
        waitingSignals.append(signal)
      }
    }
  }

  private func pass(_ signal: SessionSignal, to worker: SupervisedWorker) {
    do throws(SystemError) {
      try worker.send(signal)
    } catch {
      // ESRCH: it has ended, which the loop is about to see.
      if error.errno != .noSuchProcess { observer(.warning("\(error)")) }
    }
  }

  private func takeMessages() {
    guard let worker else { return }
    while let channel = worker.channel {
      do throws(SystemError) {
        switch try channel.receive(until: Instant(nanoseconds: 0)) {
        case .kept(let kept): store(kept, isNew: true)
        case .told(.release): release()
        case .told(.finished(let exitCode)): worker.announcedCode = exitCode
        case .told(.handedOver): continue
        case .told(.keep), .ended: worker.channel = nil
        case .nothing: return
        }
      } catch {
        // It still holds what it wanted kept; its death would cost only what came by here.
        worker.channel = nil
        observer(.warning("the worker's channel is lost: \(error)"))
      }
    }
  }

  private func takeEvents() {
    guard let follower = worker?.follower else { return }
    do throws(ControlSocketError) {
      while let line = try follower.nextLine(until: Instant(nanoseconds: 0)) {
        observer(.event(String(decoding: line, as: UTF8.self)))
      }
    } catch {
      worker?.follower = nil
    }
  }

  private func store(_ kept: KeptDescriptor, isNew: Bool) {
    guard keep.add(kept) else {
      return observer(.warning("no room to keep the worker's descriptor \(kept.name)"))
    }
    guard isNew, let address = plan.storeAddress else { return }
    do throws(SystemError) {
      try ServiceDescriptors.store(kept.descriptor.rawValue, name: kept.name, at: address)
    } catch {
      observer(.warning("the service manager does not keep \(kept.name): \(error)"))
    }
  }

  private func release() {
    if let address = plan.storeAddress {
      for kept in keep.descriptors {
        // What it goes on keeping is closed with the unit.
        try? ServiceDescriptors.remove(name: kept.name, at: address)
      }
    }
    keep.release()
  }

  /// The worker has ended: reaps it, and decides.
  private func workerEnded() -> SupervisorEnding? {
    guard let ended = worker, let ending = ended.ending() else { return nil }
    worker = nil
    switch ending {
    case .exited(let code): return .worker(exitCode: code)
    case .died(let how):
      observer(.died(pid: ended.pid, how: how))
      guard plan.restart != nil else { return .parked("its process died (\(how))") }
      if let obstacle = plan.obstacle() { return .refused(obstacle) }
      let now = MonotonicClock.now()
      switch budget.workerDied(now: now) {
      case .giveUp(let count):
        return .parked("its process died again (\(how)) after \(count) restarts")
      case .restart(let start, let count):
        restartAt = start
        observer(.restarting(afterNanoseconds: start.nanoseconds(since: now), count: count))
        return nil
      }
    }
  }

  /// Waits as long as this process must not end: until the VMM has.
  private func stay(_ signals: borrowing SignalSource) throws(SystemError) {
    guard let reason = keep.reasonToStay() else { return }
    observer(.staying(reason))
    let vmm = keep.first(named: KeptName.vmm)
    while let reason = keep.reasonToStay() {
      while let signal = try signals.next() { observer(.stopRefused(signal, reason)) }
      let ready = try Readiness.wait(
        for: [signals.descriptor.rawValue, vmm?.descriptor.rawValue ?? -1])
      if ready[1] { return }
    }
  }
}
