internal import Codec
public import Migration
internal import Pages
public import Session
internal import System
public import Wire

/// A session that goes on from an export: the file takes the place of the source's journal and of
/// its memory.
///
/// The file proves HANDED_OFF, which says that the *source* will never run the VM again by itself.
/// It holds for every host that has the file: none of them has a VM to run.
public struct ExportedSession: Sendable {
  /// The memory.
  public let backing: ExportBacking
  /// What a `SourceCore` of a copy begins with, together with `ObservedVM.gone`.
  public let records: [SourceRecord]
  /// Those of them that this host's journal lacks.
  public let unrecorded: [SourceRecord]

  /// What the file says about itself.
  public var header: ExportHeader { backing.file.header }

  /// Goes on with the file's session for the VM of that name, unless this host's journal knows
  /// better.
  public static func decide(
    _ backing: ExportBacking, vmName: VMName, histories: [SessionHistory<SourceRecord>]
  ) throws(Refusal) -> ExportedSession {
    let header = backing.file.header
    let path = backing.file.path
    guard header.vmName == vmName.text else {
      throw Refusal(
        .vm, "\(path) holds the memory of VM \"\(header.vmName)\", not of \"\(vmName.text)\"")
    }
    let proven = records(of: header)
    guard let position = histories.lastIndex(where: { $0.session == header.session }) else {
      // Epochs of other sessions say nothing: each host counts its own.
      return ExportedSession(backing: backing, records: proven, unrecorded: proven)
    }
    guard position == histories.count - 1 else {
      throw stale(
        path, header,
        "session \(histories[histories.count - 1].session.text) came after it on this host")
    }
    let known = histories[position].records
    if let end = known.last(where: \.endsHandOff) {
      throw stale(
        path, header, "this host's journal took the hand-off back in epoch \(end.epoch.rawValue)")
    }
    let first = known.first
    guard first == proven.first else {
      throw Refusal(
        .session,
        "\(path) and this host's journal tell different beginnings of session "
          + "\(header.session.text)")
    }
    let unrecorded = proven.filter { record in !known.contains(record) }
    // COMPLETED comes after all that a file can prove: nothing may be written behind it.
    if known.contains(where: \.isCompleted) {
      return ExportedSession(backing: backing, records: known, unrecorded: [])
    }
    return ExportedSession(backing: backing, records: known + unrecorded, unrecorded: unrecorded)
  }

  private static func records(of header: ExportHeader) -> [SourceRecord] {
    let handOff: [SourceRecord] = [
      .opened(session: header.session, epoch: header.epoch, mode: header.mode),
      .handedOff(epoch: header.handedOffEpoch),
    ]
    switch header.proof {
    case .handedOff: return handOff
    case .ranAcknowledged: return handOff + [.ranAcknowledged(epoch: header.handedOffEpoch)]
    }
  }

  fileprivate static func stale(
    _ path: String, _ header: ExportHeader, _ reason: String
  ) -> Refusal {
    Refusal(
      .session,
      "\(path) is out of date: it is of session \(header.session.text), epoch "
        + "\(header.handedOffEpoch.rawValue), and \(reason)")
  }

  /// Makes this host remember the session: every record that its journal lacks is durable then.
  func record(in journal: inout SourceJournal, _ binding: VMBinding) throws(Refusal) {
    do throws(JournalError) {
      for record in unrecorded { try journal.append(record, binding: binding) }
    } catch { throw Refusal(.journal, "\(error)") }
  }
}

extension ExportBacking {
  /// Why a destination must not be served from the file; nil when it may. Comes after the checks
  /// that every hello has to pass.
  public func refusal(of hello: Hello) -> Refusal? {
    let path = file.path
    let header = file.header
    guard hello.role == .urgent else { return nil }
    guard hello.session == header.session else {
      return Refusal(
        .session,
        hello.session == .none
          ? "\(path) goes on with session \(header.session.text), and this destination is in none"
          : "\(path) is of session \(header.session.text), and the destination of session "
            + hello.session.text)
    }
    guard hello.epoch <= header.handedOffEpoch else {
      return ExportedSession.stale(
        path, header, "the destination is in epoch \(hello.epoch.rawValue)")
    }
    guard hello.epoch >= header.epoch else {
      return Refusal(
        .session,
        "the destination is in epoch \(hello.epoch.rawValue), before the session of \(path) began")
    }
    guard hello.progress != .aborted else {
      return Refusal(
        .session,
        "the destination never ran the VM in session \(header.session.text) and never will: there "
          + "is nothing to bring. Let the VM run again on its source host")
    }
    return nil
  }
}

extension SourceRecord {
  /// Whether the VM was the source's again from there on.
  fileprivate var endsHandOff: Bool {
    switch self {
    case .resumed, .fenced, .aborted: true
    case .opened, .handedOff, .ranAcknowledged, .completed: false
    }
  }

  fileprivate var isCompleted: Bool {
    if case .completed = self { return true }
    return false
  }
}
