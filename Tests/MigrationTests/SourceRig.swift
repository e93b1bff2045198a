import Migration
import Pages
import Wire

let testSession = SessionID(high: 0x0123_4567_89ab_cdef, low: 0x1122_3344_5566_7788)
let base = Epoch(rawValue: 4)
let handed = Epoch(rawValue: 5)
let again = Epoch(rawValue: 6)
let trouble = Refusal(.vmm, "trouble")
let lost = Refusal(.timeout, "link lost")
let stopRequest = Refusal(.operatorRequest, "stopped by the operator")

/// A source core that is fed by hand; each call returns the effects of that event.
struct SourceRig {
  var core: SourceCore
  var nanoseconds: UInt64 = 0
  private var queue = EffectQueue<SourceEffect>()

  init(mode: MigrationMode = .postCopy, limits: SourceLimits = SourceLimits()) {
    core = SourceCore(session: testSession, epoch: base, mode: mode, limits: limits)
  }

  init?(recovering records: [SourceRecord], vm: ObservedVM) {
    guard let core = SourceCore(recovering: records, vm: vm) else { return nil }
    self.core = core
  }

  private mutating func drain() -> [SourceEffect] {
    var effects: [SourceEffect] = []
    while let effect = queue.next() { effects.append(effect) }
    return effects
  }

  mutating func start() -> [SourceEffect] {
    core.start(now: Instant(nanoseconds: nanoseconds), into: &queue)
    return drain()
  }

  @discardableResult
  mutating func feed(_ event: SourceEvent) -> [SourceEffect] {
    nanoseconds += 1000
    core.handle(event, now: Instant(nanoseconds: nanoseconds), into: &queue)
    return drain()
  }

  /// The events that lead from the start to each state on the straight way.
  private static let way: [(SourceEvent, SourceState)] = [
    (.journal(.durable(.opened(session: testSession, epoch: base, mode: .postCopy))), .preparing),
    (.linkUp(.unknown), .preparing),
    (.received(.ready(epoch: base)), .pausing),
    (.vmm(.paused(discardPageCount: .zero)), .frozen),
    (.received(.discarded(epoch: base)), .saving),
    (.vmm(.deviceStateSaved), .saved),
    (.received(.prepared(epoch: base)), .handingOff),
    (.journal(.durable(.handedOff(epoch: handed))), .handedOff),
    (.received(.ran(epoch: handed, nanosecondsSinceStart: 500)), .serving),
    (.received(.complete(epoch: handed)), .completing),
    (.journal(.durable(.completed(epoch: handed))), .lingering),
  ]

  /// A core that has come to `state` with its link up; the link's own step counts to `preparing`.
  static func at(_ state: SourceState, mode: MigrationMode = .postCopy) -> SourceRig {
    var rig = SourceRig(mode: mode)
    _ = rig.start()
    if state == .opening { return rig }
    switch state {
    case .preparedUnsaved:
      rig = at(.saving, mode: mode)
      rig.feed(.received(.prepared(epoch: base)))
    case .revoking:
      rig = at(.handingOff, mode: mode)
      rig.feed(.journal(.failed(.handedOff(epoch: handed), mayBeDurable: true, trouble)))
    case .recordingResume:
      rig = at(.handedOff, mode: mode)
      rig.feed(.received(.aborted(epoch: base, trouble)))
    case .resuming:
      rig = at(.frozen, mode: mode)
      rig.feed(.operatorAbort)
    case .awaitingAborted:
      rig = at(.resuming, mode: mode)
      rig.feed(.vmm(.resumed))
    case .finished:
      rig = at(.awaitingAborted, mode: mode)
      rig.feed(.received(.aborted(epoch: base, trouble)))
    case .seeding:
      rig = at(.preparing, mode: .hybrid)
      rig.feed(.received(.ready(epoch: base)))
    case .opening, .preparing, .pausing, .frozen, .saving, .saved, .handingOff, .handedOff,
      .serving, .completing, .lingering:
      for (event, reached) in way {
        rig.feed(event)
        if rig.core.state == .seeding { rig.feed(.seeded(.fits)) }
        if reached == state && state != .preparing { break }
        if case .linkUp = event, state == .preparing { break }
      }
    }
    precondition(rig.core.state == state, "the rig's way leads to \(state)")
    return rig
  }
}

extension [SourceEffect] {
  var outcome: Outcome? {
    for case .finish(let outcome) in self { return outcome }
    return nil
  }
  var sent: [ControlMessage] {
    compactMap { if case .send(let message) = $0 { message } else { nil } }
  }
  var disconnects: Bool { contains { if case .disconnect = $0 { true } else { false } } }
  /// Without timers, which most tests do not look at.
  var deeds: [SourceEffect] {
    filter {
      switch $0 {
      case .setTimer, .cancelTimer: false
      default: true
      }
    }
  }
}
