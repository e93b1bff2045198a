public import Migration
internal import Wire

/// One clear message for a person: which VM, what happened, what both hosts hold, what to do next.
public struct OperatorMessage: Hashable, Sendable, CustomStringConvertible {
  /// The VM's name.
  public var vmName: String
  /// What happened, without the VM's name in front.
  public var happening: String
  /// What the source's host does with the VM.
  public var source: HostState
  /// What the destination's host does with the VM.
  public var destination: HostState
  /// What the reader is to do.
  public var nextStep: String

  /// A message with all its parts.
  public init(
    vmName: String, happening: String, source: HostState, destination: HostState, nextStep: String
  ) {
    self.vmName = vmName
    self.happening = happening
    self.source = source
    self.destination = destination
    self.nextStep = nextStep
  }

  /// The message for the end of a session.
  public init(_ outcome: Outcome, vmName: String) {
    let cause = outcome.reason.map { ": \($0.reason)" } ?? ""
    self.init(
      vmName: vmName, happening: Self.verdict(of: outcome.ending) + cause, source: outcome.source,
      destination: outcome.destination, nextStep: Self.nextStep(after: outcome, vmName))
  }

  /// The word for an ending, in messages and in JSON.
  public static func verdict(of ending: Ending) -> String {
    switch ending {
    case .completed: "completed"
    case .refused: "refused"
    case .aborted: "aborted"
    case .parked: "parked"
    }
  }

  private static func nextStep(after outcome: Outcome, _ vmName: String) -> String {
    switch outcome.ending {
    case .completed: return "nothing; what is left of the VM at the source can be ended"
    case .refused:
      return "correct the cause and start both sides again, with a new VMM at the destination"
    case .aborted:
      switch outcome.source {
      case .runs:
        return "correct the cause, start a new VMM at the destination and move the VM again"
      case .unknown:
        return "see at the source that the VM runs there, as it does unless page-server says "
          + "otherwise; correct the cause, start a new VMM here and move the VM again"
      case .stopped, .disabled, .killed, .ruledOut, .absent, .untouched, .mayRun:
        return "resume the VM at the source, then correct the cause"
      }
    case .parked:
      if outcome.source == .absent, outcome.destination == .ruledOut {
        return "let the VM run again on the host that its memory was exported from: page-server "
          + "fence --vm \(vmName) --i-am-sure-the-destination-is-dead, then page-server recover "
          + "--vm \(vmName)"
      }
      let isNeverBegun = outcome.source == .stopped && outcome.destination == .unknown
      if isNeverBegun || outcome.destination == .ruledOut {
        // The VM is down at the source for no other reason than its VMM.
        return "resume the VM at the source by its VMM's own means; it does not run at the "
          + "destination"
      }
      if outcome.destination == .killed {
        return
          "nothing brings the VM back: its process at the destination is gone. What the source "
          + "holds is its state at the hand-over: look at it before anything is ended"
      }
      return "start the VM on neither host by hand, and keep both hosts' VMMs and state "
        + "directories: nothing is lost. Go on with postcopyctl recover --vm \(vmName) on each host"
    }
  }

  /// Four lines.
  public var description: String {
    """
    VM \(vmName): \(happening)
      source:      \(source.phrase)
      destination: \(destination.phrase)
      next:        \(nextStep)
    """
  }
}
