internal import Migration
internal import Wire

/// A message of the hand-over, or of what undoes it.
public enum HandOverMessage: String, CaseIterable, Hashable, Sendable {
  /// In the order of a migration; the last two undo it.
  case hello, welcome, ready, frozen, discarded, deviceState, prepared, go, ran, complete
  case completeAcknowledged, abort, aborted

  init?(_ packet: Packet) {
    switch packet {
    case .control(let message): self.init(message)
    case .deviceState: self = .deviceState
    case .request, .pages, .runBegins, .poisoned, .zeroRun, .residentMap, .pushFinished:
      return nil
    }
  }

  private init?(_ message: ControlMessage) {
    switch message {
    case .ready: self = .ready
    case .frozen: self = .frozen
    case .discarded: self = .discarded
    case .prepared: self = .prepared
    case .go: self = .go
    case .ran: self = .ran
    case .complete: self = .complete
    case .completeAcknowledged: self = .completeAcknowledged
    case .abort: self = .abort
    case .aborted: self = .aborted
    case .ping, .pong, .parked: return nil
    }
  }
}

/// A record that somebody waits for.
public enum HandOverRecord: String, CaseIterable, Hashable, Sendable {
  /// The source's.
  case sourceOpened, handedOff, completed, resumed
  /// The destination's.
  case destinationOpened, goAccepted, runRuledOut, ran, complete, aborted

  init?(_ record: SourceRecord) {
    switch record {
    case .opened: self = .sourceOpened
    case .handedOff: self = .handedOff
    case .completed: self = .completed
    case .resumed: self = .resumed
    case .ranAcknowledged, .fenced, .aborted: return nil
    }
  }

  init?(_ record: DestinationRecord) {
    switch record {
    case .opened: self = .destinationOpened
    case .goAccepted: self = .goAccepted
    case .runRuledOut: self = .runRuledOut
    case .ran: self = .ran
    case .complete: self = .complete
    case .aborted: self = .aborted
    case .prepared: return nil
    }
  }
}

/// What the destination's VMM is told in a hand-over.
public enum HandOverCommand: String, CaseIterable, Hashable, Sendable {
  /// Load the device state; run.
  case load, run
}

/// One thing that goes wrong at one point of a hand-over, once.
public struct HandOverFault: Hashable, Sendable, CustomStringConvertible {
  /// Where.
  public enum Point: Hashable, Sendable {
    /// When this message is sent.
    case message(HandOverMessage)
    /// When this record is written.
    case record(HandOverRecord)
    /// When the VMM is told this.
    case command(HandOverCommand)
  }

  /// What.
  public enum Kind: String, CaseIterable, Hashable, Sendable {
    /// The message is lost, and its link is found broken or falls silent later.
    case lost
    /// The message is lost, and from then on nothing arrives on its link.
    case lostSilently
    /// It comes twice.
    case duplicated
    /// It comes after the steps that follow it.
    case delayed
    /// Either process is killed, just before or just after. A record: not durable, or durable.
    case senderDiesBefore, senderDiesAfter, receiverDiesBefore, receiverDiesAfter
    case writerDiesBefore, writerDiesAfter
    /// The append fails: certainly without a record, or unclear with or without one.
    case fails, failsUnclear, failsDurable
    /// The VMM refuses, and is shown not to run.
    case refused

    fileprivate static let ofMessages: [Kind] = [
      .lost, .lostSilently, .duplicated, .delayed, .senderDiesBefore, .senderDiesAfter,
      .receiverDiesBefore, .receiverDiesAfter,
    ]
    fileprivate static let ofRecords: [Kind] = [
      .writerDiesBefore, .writerDiesAfter, .fails, .failsUnclear, .failsDurable,
    ]
  }

  /// Where it happens, the first time that the point is reached and no other fault takes it.
  public let point: Point
  /// What happens.
  public let kind: Kind

  /// A fault at a point where it can happen.
  public init(_ point: Point, _ kind: Kind) {
    self.point = point
    self.kind = kind
  }

  /// For people: `go:lost`.
  public var description: String {
    switch point {
    case .message(let message): "\(message.rawValue):\(kind.rawValue)"
    case .record(let record): "\(record.rawValue)-record:\(kind.rawValue)"
    case .command(let command): "\(command.rawValue)-command:\(kind.rawValue)"
    }
  }

  /// Every fault of every point, in the order of a hand-over.
  public static let all: [HandOverFault] = {
    let messages = HandOverMessage.allCases.flatMap { message in
      Kind.ofMessages.filter { !(message == .deviceState && $0 == .duplicated) }
        .map { HandOverFault(.message(message), $0) }
    }
    let records = HandOverRecord.allCases.flatMap { record in
      Kind.ofRecords.map { HandOverFault(.record(record), $0) }
    }
    let commands = HandOverCommand.allCases.map { HandOverFault(.command($0), .refused) }
    return messages + records + commands
  }()
}

extension World {
  /// Above all the steps from one message of the hand-over to the one after the next.
  static let scriptedDelayNanoseconds: UInt64 = 3_000_000

  mutating func takeScripted(_ message: HandOverMessage) -> HandOverFault.Kind? {
    takeScripted(.message(message))
  }

  /// What the script wants at this point; each of its faults happens once, in their order.
  mutating func takeScripted(_ point: HandOverFault.Point) -> HandOverFault.Kind? {
    guard !script.isEmpty, !hasHealed,
      let index = script.firstIndex(where: { $0.point == point })
    else { return nil }
    let fault = script.remove(at: index)
    reachedFaults.append(fault)
    note("SCRIPT \(fault)")
    return fault.kind
  }
}
