public import Migration
public import Wire

/// Whether a new session may bring a VM into the VMM that attached: P1 and P3 on the destination's
/// host.
public enum ReceiveDecision: Hashable, Sendable {
  /// Yes.
  case allowed
  /// An earlier session's VM of this name may be running here without all of its memory.
  case refusedUnfinished(SessionID)
  /// The VMM took part in an earlier session: its memory may hold pages of that one.
  case refusedUsedVMM(SessionID)

  /// Decides from the VM's journal and from which VMMs of old sessions still exist.
  public static func decide(
    current: VMBinding, histories: [SessionHistory<DestinationRecord>],
    isAlive: (VMBinding) -> Bool
  ) -> ReceiveDecision {
    for history in histories {
      if current.compare(history.binding) == .same { return .refusedUsedVMM(history.session) }
      guard history.mayRunUnfinished else { continue }
      if history.binding.boot == current.boot, isAlive(history.binding) {
        return .refusedUnfinished(history.session)
      }
    }
    return .allowed
  }

  /// The refusal for an operator; nil when it is allowed.
  public func refusal(vmName: String) -> Refusal? {
    switch self {
    case .allowed: nil
    case .refusedUnfinished(let session):
      Refusal(
        .session,
        "VM \"\(vmName)\" runs here already, from session \(session.text), which has not brought "
          + "all of its memory yet: go on with that session")
    case .refusedUsedVMM(let session):
      Refusal(
        .session,
        "the VMM that attached for VM \"\(vmName)\" took part in session \(session.text); its "
          + "memory is not used again: start a new one")
    }
  }
}

extension SessionHistory where Record == DestinationRecord {
  /// The session's id.
  public var session: SessionID {
    if case .opened(let session, _, _) = records.first { return session }
    return .none
  }

  /// Whether the VM may run here and lack memory: GO was accepted, and nothing ended it.
  fileprivate var mayRunUnfinished: Bool {
    var mayRun = false
    for record in records {
      switch record {
      case .opened, .prepared: continue
      case .goAccepted, .ran: mayRun = true
      case .runRuledOut, .complete, .aborted: mayRun = false
      }
    }
    return mayRun
  }
}
