public import Migration
public import Wire

/// What a source's journal proves at the end of a session.
public enum SourceStanding: Hashable, Sendable {
  /// The VM was never given away in it, or came back with proof: it runs, or is paused, here.
  case kept
  /// The destination may run it; this host never again.
  case handedOff(epoch: Epoch)
  /// The destination has it, with all its memory.
  case completed(epoch: Epoch)

  /// What these records prove, whatever follows from a record that is missing: nothing.
  public init(_ records: [SourceRecord]) {
    self = .kept
    for record in records {
      switch record {
      case .opened, .resumed, .fenced, .aborted: self = .kept
      case .handedOff(let epoch), .ranAcknowledged(let epoch): self = .handedOff(epoch: epoch)
      case .completed(let epoch): self = .completed(epoch: epoch)
      }
    }
  }
}

/// Whether a new session may give this VM away: property P1 on the source's host.
public enum SendDecision: Hashable, Sendable {
  /// Yes, in sessions that begin with `epoch`. `wasInterrupted`: the last session ended without a
  /// word, so the VM may still be paused by it.
  case allowed(epoch: Epoch, wasInterrupted: Bool)
  /// This very VM was handed over and is not known to have arrived whole: it may run elsewhere, and
  /// its memory here may be needed there.
  case refusedHandedOff(SessionID, epoch: Epoch)
  /// This very VM has moved away; what is left here is an empty shell.
  case refusedCompleted(SessionID, epoch: Epoch)
  /// A VM of this name was given away, and nothing tells whether this is another one.
  case refusedUnidentified(SessionID, epoch: Epoch)

  /// Decides from the VM's journal. A VM of the same name in another process with other memory is
  /// another VM: one that came back, or a new one.
  public static func decide(
    current: VMBinding, histories: [SessionHistory<SourceRecord>]
  ) -> SendDecision {
    var highest: UInt64 = 0
    var wasInterrupted = false
    for history in histories {
      highest = max(highest, history.records.map(\.epoch.rawValue).max() ?? 0)
      let comparison = current.compare(history.binding)
      wasInterrupted = comparison != .different && history.endsWithoutAWord
      let standing = SourceStanding(history.records)
      switch (standing, comparison) {
      case (.kept, _), (_, .different): continue
      case (.handedOff(let epoch), .same):
        return .refusedHandedOff(history.session, epoch: epoch)
      case (.completed(let epoch), .same):
        return .refusedCompleted(history.session, epoch: epoch)
      case (.handedOff(let epoch), .unknown), (.completed(let epoch), .unknown):
        return .refusedUnidentified(history.session, epoch: epoch)
      }
    }
    // Even epochs belong to a source: the next one at or above all that were used.
    return .allowed(
      epoch: Epoch(rawValue: (highest + 1) / 2 * 2), wasInterrupted: wasInterrupted)
  }

  /// The refusal for an operator; nil when it is allowed.
  public func refusal(vmName: String) -> Refusal? {
    switch self {
    case .allowed: nil
    case .refusedHandedOff(let session, let epoch):
      Refusal(
        .session,
        "VM \"\(vmName)\" was handed over in session \(session.text) (epoch \(epoch.rawValue)) and "
          + "may be running at the destination: it is not sent again and not started here. Go on "
          + "with that session on both hosts")
    case .refusedCompleted(let session, let epoch):
      Refusal(
        .session,
        "VM \"\(vmName)\" has moved away in session \(session.text) (epoch \(epoch.rawValue)); "
          + "what is left of it here can be ended")
    case .refusedUnidentified(let session, let epoch):
      Refusal(
        .session,
        "a VM named \"\(vmName)\" was handed over in session \(session.text) "
          + "(epoch \(epoch.rawValue)), and neither process nor memory file tells whether this is "
          + "the same one. End what is left of the old one and name the VMM's process or memory")
    }
  }
}

extension SessionHistory where Record == SourceRecord {
  /// The session's id.
  public var session: SessionID {
    if case .opened(let session, _, _) = records.first { return session }
    return .none
  }

  /// Whether the last record leaves open what became of the session.
  var endsWithoutAWord: Bool {
    switch records.last {
    case .opened, .resumed, .fenced, .handedOff, .ranAcknowledged, nil: true
    case .completed, .aborted: false
    }
  }
}

extension SourceRecord {
  /// Whether it says that the session was given up.
  public var isAborted: Bool { if case .aborted = self { true } else { false } }

  /// The epoch that the record carries.
  public var epoch: Epoch {
    switch self {
    case .opened(_, let epoch, _), .handedOff(let epoch), .ranAcknowledged(let epoch),
      .resumed(let epoch), .fenced(let epoch), .completed(let epoch), .aborted(let epoch):
      epoch
    }
  }
}
