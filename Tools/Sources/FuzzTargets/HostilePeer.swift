import Migration
import Pages
import Wire

/// Input: a byte of settings, then steps of two bytes: what happens, and how. The peer says
/// whatever it likes whenever it likes; the host answers what it was asked, in the order in which
/// it was asked, well or badly. No peer may stop the process, nor bring a core to break P1.
enum HostilePeer {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let setting = reader.byte()
    let modes = MigrationMode.allCases
    let mode = modes[Int(setting >> 1) % modes.count]
    if setting & 1 == 0 {
      var source = SourceUnderAttack(mode: mode)
      while !reader.isAtEnd, !source.isFinished { source.step(reader.byte(), reader.byte()) }
    } else {
      var destination = DestinationUnderAttack()
      while !reader.isAtEnd, !destination.isFinished {
        destination.step(reader.byte(), reader.byte(), mode)
      }
    }
  }

  /// Any control message, of either side, for this epoch or another.
  static func message(_ choice: UInt8) -> ControlMessage {
    let epochs = [
      Given.epoch, Given.epoch.advanced(by: 1), Given.epoch.advanced(by: 2), Epoch(rawValue: 0),
      Epoch(rawValue: WireLimits.maximumEpoch),
    ]
    let epoch = epochs[Int(choice >> 4) % epochs.count]
    let refusal = Refusal(.vmm, "because")
    switch choice & 15 {
    case 0: return .ready(epoch: epoch)
    case 1: return .frozen(epoch: epoch, discardPageCount: .zero)
    case 2: return .frozen(epoch: epoch, discardPageCount: PageCount(3), fillsBeforeRun: true)
    case 3: return .discarded(epoch: epoch)
    case 4: return .prepared(epoch: epoch)
    case 5: return .go(epoch: epoch)
    case 6: return .ran(epoch: epoch, nanosecondsSinceStart: 5)
    case 7:
      return .ran(
        epoch: epoch, nanosecondsSinceStart: WireLimits.maximumNanoseconds,
        PauseParts(
          transferNanoseconds: WireLimits.maximumNanoseconds,
          loadNanoseconds: WireLimits.maximumNanoseconds,
          acceptNanoseconds: WireLimits.maximumNanoseconds,
          startNanoseconds: WireLimits.maximumNanoseconds,
          fillNanoseconds: WireLimits.maximumNanoseconds))
    case 8: return .complete(epoch: epoch)
    case 9: return .completeAcknowledged(epoch: epoch)
    case 10: return .abort(epoch: epoch, refusal)
    case 11: return .aborted(epoch: epoch, refusal)
    case 12: return .ping(sequence: .max)
    case 13: return .pong(sequence: .max)
    default: return .parked(epoch: epoch, refusal)
    }
  }

  static let trouble = Refusal(.vmm, "trouble")
  static let lost = Refusal(.timeout, "link lost")
}

/// The honest host of a source, and a destination that is not.
struct SourceUnderAttack {
  private var core: SourceCore
  private var effects = EffectQueue<SourceEffect>()
  private var now = Instant(nanoseconds: 1)
  private var orders: [SourceEffect] = []
  private var records: [SourceRecord] = []
  private var timers: Set<SourceTimer> = []
  private var isListening = false
  private var isSeeding = false
  private var isLinkUp = false
  private var isLinkFinal = false
  private var mayBeHandedOff = false
  private var isHandedOff = false
  private(set) var isFinished = false

  init(mode: MigrationMode) {
    core = SourceCore(
      session: Given.session, epoch: Given.epoch, mode: mode,
      limits: SourceLimits(giveUpNanoseconds: 1000))
    core.start(now: now, into: &effects)
    carryOut()
  }

  mutating func step(_ choice: UInt8, _ detail: UInt8) {
    guard let event = event(choice, detail) else { return }
    now = now.advanced(byNanoseconds: UInt64(choice))
    core.handle(event, now: now, into: &effects)
    carryOut()
  }

  private mutating func event(_ choice: UInt8, _ detail: UInt8) -> SourceEvent? {
    switch choice % 8 {
    case 0:
      if isSeeding, detail & 4 != 0 { return answer(toSeedingWith: detail) }
      return orders.isEmpty ? nil : .vmm(answer(to: orders.removeFirst(), detail))
    case 1: return records.isEmpty ? nil : .journal(answer(to: records.removeFirst(), detail))
    case 2:
      guard isListening, !isLinkUp, !isLinkFinal else { return nil }
      isLinkUp = true
      let all = DestinationProgress.allCases
      return .linkUp(all[Int(detail) % all.count])
    case 3:
      guard isLinkUp || isListening && detail & 1 != 0 else { return nil }
      isLinkUp = false
      isLinkFinal = isLinkFinal || detail & 1 != 0
      return .linkDown(isFinal: detail & 1 != 0, HostilePeer.lost)
    case 4, 5: return isLinkUp ? .received(HostilePeer.message(detail)) : nil
    case 6:
      let all = SourceTimer.allCases
      return timers.remove(all[Int(detail) % all.count]).map { .timer($0) }
    default:
      switch detail % 4 {
      case 0: return .operatorAbort
      case 1: return .operatorPark
      case 2: return .memoryLost(HostilePeer.trouble)
      default: return .vmm(.resumedByItself)
      }
    }
  }

  private func answer(toSeedingWith detail: UInt8) -> SourceEvent {
    if detail & 3 == 3 { return .seedingFailed(HostilePeer.trouble) }
    return .seeded(detail & 8 == 0 ? .fits : .outrun)
  }

  private func answer(to order: SourceEffect, _ detail: UInt8) -> SourceVMMEvent {
    let isDone = detail & 3 != 3
    switch order {
    case .pauseVM:
      return isDone
        ? .paused(discardPageCount: PageCount(Int(detail)), scanNanoseconds: UInt64(detail))
        : .pauseFailed(HostilePeer.trouble)
    case .resumeVM: return isDone ? .resumed : .resumeFailed(HostilePeer.trouble)
    case .saveDeviceState:
      return isDone ? .deviceStateSaved : .deviceStateSaveFailed(HostilePeer.trouble)
    default: return isDone ? .disabled : .disableFailed(HostilePeer.trouble)
    }
  }

  private mutating func answer(
    to record: SourceRecord, _ detail: UInt8
  ) -> JournalAnswer<SourceRecord> {
    if detail & 3 != 3 {
      if case .handedOff = record { isHandedOff = true }
      if case .resumed = record { (isHandedOff, mayBeHandedOff) = (false, false) }
      return .durable(record)
    }
    let mayBeDurable = detail & 4 != 0
    if case .handedOff = record, !mayBeDurable { mayBeHandedOff = false }
    return .failed(record, mayBeDurable: mayBeDurable, HostilePeer.trouble)
  }

  private mutating func carryOut() {
    while let effect = effects.next() {
      invariant(!isFinished, "nothing follows the outcome")
      switch effect {
      case .journal(let record):
        records.append(record)
        if case .handedOff = record { mayBeHandedOff = true }
      case .pauseVM, .saveDeviceState, .disableVM: orders.append(effect)
      case .resumeVM:
        invariant(!mayBeHandedOff, "the VM resumes only while no HANDED_OFF can be durable")
        orders.append(effect)
      case .listen: isListening = true
      case .beginSeeding: isSeeding = true
      case .endSeeding: isSeeding = false
      case .send(let message):
        if case .go = message { invariant(isHandedOff, "GO follows a durable HANDED_OFF") }
      case .setTimer(let timer, _): timers.insert(timer)
      case .finish: isFinished = true
      case .journalLazily, .beginServing, .endServing, .beginPush, .releaseMemory, .disconnect,
        .cancelTimer, .refuseStop:
        break
      }
    }
  }
}

/// The honest host of a destination, and a source that is not.
struct DestinationUnderAttack {
  private var core = DestinationCore(limits: DestinationLimits(giveUpNanoseconds: 1000))
  private var effects = EffectQueue<DestinationEffect>()
  private var now = Instant(nanoseconds: 1)
  private var orders: [DestinationEffect] = []
  private var records: [DestinationRecord] = []
  private var timers: Set<DestinationTimer> = []
  private var mayDial = false
  private var isLinkUp = false
  private var isLinkFinal = false
  private var hasBeenLinked = false
  private var isKillOrdered = false
  private var isDead = false
  private var hasAcceptedGo = false
  private var hasRun = false
  private(set) var isFinished = false

  init() {
    core.start(now: now, into: &effects)
    carryOut()
  }

  mutating func step(_ choice: UInt8, _ detail: UInt8, _ mode: MigrationMode) {
    guard let event = event(choice, detail, mode) else { return }
    now = now.advanced(byNanoseconds: UInt64(choice))
    core.handle(event, now: now, into: &effects)
    carryOut()
  }

  private mutating func event(
    _ choice: UInt8, _ detail: UInt8, _ mode: MigrationMode
  ) -> DestinationEvent? {
    switch choice % 8 {
    case 0: return orders.isEmpty ? nil : answer(to: orders.removeFirst(), detail)
    case 1: return records.isEmpty ? nil : .journal(answer(to: records.removeFirst(), detail))
    case 2:
      guard mayDial, !isLinkUp, !isLinkFinal else { return nil }
      if detail & 7 == 7 { return .linkRefused(HostilePeer.trouble) }
      isLinkUp = true
      hasBeenLinked = true
      return .linkUp(welcome(detail, mode))
    case 3:
      guard isLinkUp || mayDial && detail & 1 != 0 else { return nil }
      isLinkUp = false
      isLinkFinal = isLinkFinal || detail & 1 != 0
      return .linkDown(isFinal: detail & 1 != 0, HostilePeer.lost)
    case 4, 5: return isLinkUp ? .received(HostilePeer.message(detail)) : nil
    case 6:
      let all = DestinationTimer.allCases
      return timers.remove(all[Int(detail) % all.count]).map { .timer($0) }
    default: return trouble(detail)
    }
  }

  private mutating func trouble(_ detail: UInt8) -> DestinationEvent? {
    switch detail % 7 {
    case 0: return .operatorAbort
    case 1: return .operatorPark
    case 2: return hasBeenLinked ? .memoryFailed(HostilePeer.trouble) : nil
    case 3: return hasBeenLinked ? (detail & 128 == 0 ? .allResident : .allHere) : nil
    case 4: return isLinkUp ? .deviceStateReceived : nil
    case 5:
      guard !isDead else { return nil }
      isDead = true
      return .vmm(.died(HostilePeer.trouble))
    default:
      guard isKillOrdered else { return nil }
      isKillOrdered = false
      if !isDead, detail >= 0xE0 { return .vmm(.killFailed(HostilePeer.trouble)) }
      isDead = true
      return .vmm(.killed)
    }
  }

  private func welcome(_ detail: UInt8, _ mode: MigrationMode) -> Welcome {
    Welcome(
      session: detail & 8 == 0 ? Given.session : SessionID(high: 1, low: 1),
      epoch: detail & 16 == 0 ? Given.epoch : Epoch(rawValue: WireLimits.maximumEpoch),
      mode: detail & 32 == 0 ? mode : .quick, bulkConnectionCount: 1,
      isHandedOff: detail & 64 != 0, regions: Given.regions)
  }

  private mutating func answer(
    to order: DestinationEffect, _ detail: UInt8
  ) -> DestinationEvent {
    let isDone = detail & 3 != 3
    if case .discard = order {
      return isDone ? .discardsApplied : .discardFailed(HostilePeer.trouble)
    }
    if case .loadDeviceState = order {
      return .vmm(isDone && !isDead ? .loaded : .loadFailed(HostilePeer.trouble))
    }
    if isDone && !isDead {
      hasRun = true
      return .vmm(.running(since: now))
    }
    return .vmm(
      .runRefused(isShownNotRunning: !isDead && detail & 4 != 0, HostilePeer.trouble))
  }

  private mutating func answer(
    to record: DestinationRecord, _ detail: UInt8
  ) -> JournalAnswer<DestinationRecord> {
    guard detail & 3 == 3 else {
      if case .goAccepted = record { hasAcceptedGo = true }
      return .durable(record)
    }
    return .failed(record, mayBeDurable: detail & 4 != 0, HostilePeer.trouble)
  }

  private mutating func carryOut() {
    while let effect = effects.next() {
      invariant(!isFinished, "nothing follows the outcome")
      switch effect {
      case .journal(let record):
        if case .aborted = record {
          invariant(isDead && !hasRun, "ABORTED is said of a dead VM that never ran")
        }
        records.append(record)
      case .discard, .loadDeviceState: orders.append(effect)
      case .runVM:
        invariant(hasAcceptedGo, "the VM runs once GO_ACCEPTED is durable")
        orders.append(effect)
      case .killVM:
        invariant(!hasRun, "a VM that may have run is not killed")
        isKillOrdered = true
      case .dial: mayDial = true
      case .setTimer(let timer, _): timers.insert(timer)
      case .finish: isFinished = true
      case .journalLazily, .beginFaults, .unregister, .send, .disconnect, .cancelTimer,
        .refuseStop:
        break
      }
    }
  }
}
