import Migration
import Pages
import Wire

func welcome(
  epoch: Epoch = base, mode: MigrationMode = .postCopy, isHandedOff: Bool = false
) -> Welcome {
  Welcome(
    session: testSession, epoch: epoch, mode: mode, bulkConnectionCount: 1,
    isHandedOff: isHandedOff, regions: [])
}

/// A destination core that is fed by hand; each call returns the effects of that event.
struct DestinationRig {
  var core: DestinationCore
  var nanoseconds: UInt64 = 0
  private var queue = EffectQueue<DestinationEffect>()

  init(limits: DestinationLimits = DestinationLimits()) { core = DestinationCore(limits: limits) }

  init?(recovering records: [DestinationRecord], vm: ObservedVM) {
    guard let core = DestinationCore(recovering: records, vm: vm) else { return nil }
    self.core = core
  }

  private mutating func drain() -> [DestinationEffect] {
    var effects: [DestinationEffect] = []
    while let effect = queue.next() { effects.append(effect) }
    return effects
  }

  mutating func start() -> [DestinationEffect] {
    core.start(now: Instant(nanoseconds: nanoseconds), into: &queue)
    return drain()
  }

  @discardableResult
  mutating func feed(_ event: DestinationEvent) -> [DestinationEffect] {
    nanoseconds += 1000
    core.handle(event, now: Instant(nanoseconds: nanoseconds), into: &queue)
    return drain()
  }

  /// A core that has come to `state` on the straight way, with its link up.
  static func at(_ state: DestinationState, mode: MigrationMode = .postCopy) -> DestinationRig {
    var rig = DestinationRig()
    _ = rig.start()
    if state == .dialing { return rig }
    if state == .filling && mode != .quick { return at(.filling, mode: .quick) }
    if state == .rulingOut {
      rig = at(.starting, mode: mode)
      rig.feed(.vmm(.runRefused(isShownNotRunning: true, trouble)))
      return rig
    }
    if state == .killing || state == .recordingAborted || state == .aborted || state == .finished {
      rig = at(.prepared, mode: mode)
      rig.feed(.operatorAbort)
      if state != .killing { rig.feed(.vmm(.killed)) }
      if state == .aborted || state == .finished {
        rig.feed(.journal(.durable(.aborted(epoch: base, stopRequest))))
      }
      if state == .finished { rig.feed(.timer(.linger)) }
      precondition(rig.core.state == state, "the rig's way leads to \(state)")
      return rig
    }
    let discards = PageCount(state == .discarding ? 3 : 0)
    var way: [DestinationEvent] = [
      .linkUp(welcome(mode: mode)),
      .journal(.durable(.opened(session: testSession, epoch: base, mode: mode))),
      .received(
        .frozen(epoch: base, discardPageCount: discards, fillsBeforeRun: mode == .quick)),
      .deviceStateReceived,
      .vmm(.loaded),
    ]
    if mode == .quick { way.append(.allResident) }
    way += [
      .received(.go(epoch: handed)),
      .journal(.durable(.goAccepted(epoch: handed))),
      .vmm(.running(since: Instant(nanoseconds: 5000))),
      .journal(.durable(.ran(epoch: handed))),
    ]
    if mode == .postCopy { way.append(.allResident) }
    way.append(.journal(.durable(.complete(epoch: handed))))
    for event in way {
      rig.feed(event)
      if rig.core.state == state { break }
    }
    precondition(rig.core.state == state, "the rig's way leads to \(state)")
    return rig
  }
}

extension [DestinationEffect] {
  var outcome: Outcome? {
    for case .finish(let outcome) in self { return outcome }
    return nil
  }
  var sent: [ControlMessage] {
    compactMap { if case .send(let message) = $0 { message } else { nil } }
  }
  var disconnects: Bool { contains { if case .disconnect = $0 { true } else { false } } }
  /// Without timers, which most tests do not look at.
  var deeds: [DestinationEffect] {
    filter {
      switch $0 {
      case .setTimer, .cancelTimer: false
      default: true
      }
    }
  }
}
