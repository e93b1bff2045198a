public import Wire

/// How a session ended on this side; each kind is one exit code.
public enum Ending: UInt8, CaseIterable, Hashable, Sendable {
  /// The VM runs at the destination with all its memory.
  case completed
  /// Nothing was begun.
  case refused
  /// Given up before the hand-off, or undone with the destination's proof: the source runs on.
  case aborted
  /// Stopped in the middle with everything kept; an operator or a recovery goes on from here.
  case parked

  /// The process's exit code.
  public var exitCode: Int32 {
    switch self {
    case .completed: 0
    case .refused: 10
    case .aborted: 11
    case .parked: 12
    }
  }
}

/// What a host does with the VM, as far as the side that reports can know.
public enum HostState: UInt8, CaseIterable, Hashable, Sendable {
  /// The VM runs there.
  case runs
  /// The VM is stopped there, with memory and device state kept.
  case stopped
  /// Its VMM has been made unable to run; the memory may still be served.
  case disabled
  /// Its VMM was killed there, or has died.
  case killed
  /// It has not run there, and that is ruled out for good.
  case ruledOut
  /// There is no VM there: a copy of its frozen memory was served.
  case absent
  /// Nothing has happened to the VM there.
  case untouched
  /// It may be running there: only that host can tell.
  case mayRun
  /// This side cannot know.
  case unknown

  /// The words of a report.
  public var phrase: String {
    switch self {
    case .runs: "the VM runs"
    case .stopped: "the VM is stopped, everything is kept"
    case .disabled: "the VM can run no more, its memory is kept until completion"
    case .killed: "the VM's process is gone"
    case .ruledOut: "the VM has not run and never will"
    case .absent: "no VM is there, only a copy of its memory, which is kept"
    case .untouched: "nothing was changed"
    case .mayRun: "the VM may be running"
    case .unknown: "not known from here"
    }
  }
}

/// How a session ended, why, and what both hosts hold now.
public struct Outcome: Hashable, Sendable {
  /// The kind of ending.
  public var ending: Ending
  /// Why it did not complete, or what went wrong although it did.
  public var reason: Refusal?
  /// The source's part.
  public var source: HostState
  /// The destination's part.
  public var destination: HostState

  /// An outcome with all its parts.
  public init(ending: Ending, reason: Refusal?, source: HostState, destination: HostState) {
    self.ending = ending
    self.reason = reason
    self.source = source
    self.destination = destination
  }
}
