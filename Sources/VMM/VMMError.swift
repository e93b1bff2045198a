/// What a front end asks of a VMM.
public enum VMMVerb: String, CaseIterable, Hashable, Sendable {
  /// Stop every vCPU; reversible.
  case pause
  /// Let the vCPUs run on where they were paused.
  case resume
  /// Take the device and vCPU state out of a paused VM.
  case saveDeviceState = "save-state"
  /// Put device and vCPU state into a VM that waits for it.
  case loadDeviceState = "load-state"
  /// The first start at the destination.
  case run
  /// Make it unable to run, for ever.
  case disable
  /// End the VMM's process.
  case kill
  /// Tell what it does.
  case status
  /// Begin to record which pages are written.
  case startDirtyLog = "dirty-log-start"
  /// Tell which pages were written.
  case fetchDirtyLog = "dirty-log-fetch"
  /// Record no more.
  case stopDirtyLog = "dirty-log-stop"
  /// Slow its guest down, or let it go.
  case throttle

  /// What to do for the verb, in the words of a message.
  public var phrase: String {
    switch self {
    case .pause: "pause"
    case .resume: "resume"
    case .saveDeviceState: "save the device state of"
    case .loadDeviceState: "load device state into"
    case .run: "start"
    case .disable: "disable"
    case .kill: "end"
    case .status: "ask the status of"
    case .startDirtyLog: "begin the dirty log of"
    case .fetchDirtyLog: "fetch the dirty log of"
    case .stopDirtyLog: "end the dirty log of"
    case .throttle: "slow down"
    }
  }
}

/// A VMM did not do what it was asked.
public struct VMMError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What happened.
  public enum Problem: Hashable, Sendable {
    /// The VMM refused and changed nothing.
    case refused(String)
    /// The VMM tried and failed.
    case failed(String)
    /// The VMM says that it is not done yet: vCPUs wait for pages.
    case pending(String)
    /// Nothing was heard in time.
    case silent(String)
    /// Nobody answers at the control socket, or the connection broke.
    case unreachable(String)
    /// The answer makes no sense.
    case garbled(String)
  }

  /// Which VM.
  public let vmName: String
  /// What it was to do.
  public let verb: VMMVerb
  /// Where: the front end and its address.
  public let address: String
  /// What happened.
  public let problem: Problem

  /// `verb` on the VM at `address` ended in `problem`.
  public init(vmName: String, verb: VMMVerb, address: String, problem: Problem) {
    self.vmName = vmName
    self.verb = verb
    self.address = address
    self.problem = problem
  }

  /// Whether it is certain that the verb had no effect. Everything else counts as "may have": a
  /// `run` that was not answered may have started the VM.
  public var isCertainlyWithoutEffect: Bool {
    switch problem {
    case .refused: true
    // A failed attempt may have got half way, a lost answer may have been a yes.
    case .failed, .pending, .silent, .unreachable, .garbled: false
    }
  }

  /// Whether the VMM has said so itself: nothing of the verb waits to be carried out later.
  public var isAnswer: Bool {
    switch problem {
    case .refused, .failed, .pending: true
    case .silent, .unreachable, .garbled: false
    }
  }

  /// What follows for the VM, in a sentence.
  public var meaning: String {
    if isCertainlyWithoutEffect { return "Nothing changed at the VM." }
    switch verb {
    case .pause:
      return "The VM may still stop: resume it to be sure that it runs."
    case .resume: return "The VM may be paused still."
    case .saveDeviceState: return "The VM's state is unchanged; it is paused."
    case .loadDeviceState: return "This VMM must not be used again: end it."
    case .run: return "The VM may run: it must be treated as running."
    case .disable:
      return "The VM must be kept from running by other means: stop or end its process."
    case .kill: return "The VMM may be alive: check its process."
    case .status: return "The VM's state is not known."
    case .startDirtyLog: return "The VM may be watched, which slows its writes."
    case .fetchDirtyLog: return "What it has written since the last time is lost."
    case .stopDirtyLog: return "The VM may be watched still, which slows its writes."
    case .throttle: return "The VM may be slow for some seconds."
    }
  }

  /// What happened, to which VM, and what it means.
  public var description: String {
    "could not \(verb.phrase) VM \"\(vmName)\" (\(address)): \(problem.text). \(meaning)"
  }
}

extension VMMError.Problem {
  /// What happened, as a part of a sentence.
  public var text: String {
    switch self {
    case .refused(let text): "it refused: \(text)"
    case .failed(let text): "it failed: \(text)"
    case .pending(let text): "it is not done yet: \(text)"
    case .silent(let text), .unreachable(let text), .garbled(let text): text
    }
  }
}
