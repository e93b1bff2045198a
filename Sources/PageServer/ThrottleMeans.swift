internal import Migration
internal import Pages
internal import Session
internal import System
public import VMM
internal import Wire

/// By what a guest is slowed down.
public enum ThrottleMeans: String, CaseIterable, Hashable, Sendable {
  /// `vmm`, or `cgroup` where the VMM cannot.
  case automatic = "auto"
  /// The VMM has its vCPUs rest.
  case vmm
  /// The control group of the VMM's process bounds its processor time.
  case cgroup

  /// What comes of it with that VMM: never `automatic`.
  public func means(frontEnd: any VMMFrontEnd) -> ThrottleMeans {
    switch self {
    case .vmm, .cgroup: self
    case .automatic: frontEnd.throttle == nil ? .cgroup : .vmm
    }
  }
}

/// What slows the guest of a session down.
struct ChosenThrottle: Sendable {
  let throttle: any ProcessorThrottle
  let means: ThrottleMeans
}

/// Slows a guest down with all of its VMM, by the VMM's control group.
struct GroupThrottle: ProcessorThrottle {
  let vmName: String
  let group: ThrottledGroup
  let keeper: ThrottleKeeperClient
  let recordPath: String
  let owner: String
  /// Looks once more which group is the VMM's own.
  let find: @Sendable () throws(ThrottledGroupError) -> ThrottledGroup
  /// What is taken now, as far as is known.
  private let present = Lock(0)

  init(
    vmName: String, group: ThrottledGroup, keeper: ThrottleKeeperClient, recordPath: String,
    owner: String, find: @escaping @Sendable () throws(ThrottledGroupError) -> ThrottledGroup
  ) {
    self.vmName = vmName
    self.group = group
    self.keeper = keeper
    self.recordPath = recordPath
    self.owner = owner
    self.find = find
  }

  var slowsVMM: Bool { true }

  /// A VMM must not wait long for its pause: a keeper that does not answer by then is ended.
  private static let pauseAnswerNanoseconds: UInt64 = 200_000_000

  func throttle(percent: Int, forMilliseconds milliseconds: UInt64) throws(VMMError) {
    // A look at each of its processes: only where something changes.
    if percent > 0, percent != present.withLock({ $0 }) { try requireOwn() }
    try order(percent, milliseconds, ThrottleKeeperClient.answerNanoseconds)
  }

  func releaseForPause() throws(VMMError) { try order(0, 0, Self.pauseAnswerNanoseconds) }

  /// Somebody may have come into the group, or the VMM may have been moved: then it is let go.
  private func requireOwn() throws(VMMError) {
    let reason: String
    do throws(ThrottledGroupError) {
      let found = try find()
      if found.isSame(as: group) { return }
      reason = "the VMM is in control group \(found.path) by now"
    } catch { reason = "\(error)" }
    try order(0, 0, ThrottleKeeperClient.answerNanoseconds)
    throw failure(reason)
  }

  private func order(
    _ percent: Int, _ milliseconds: UInt64, _ answerNanoseconds: UInt64
  ) throws(VMMError) {
    present.withLock { $0 = 0 }
    do throws(ThrottleKeeperError) {
      try keeper.throttle(
        percent: percent, forMilliseconds: milliseconds, of: group, recordPath: recordPath,
        owner: owner, answerNanoseconds: answerNanoseconds)
    } catch { throw failure("\(error)") }
    present.withLock { $0 = percent }
  }

  private func failure(_ reason: String) -> VMMError {
    VMMError(vmName: vmName, verb: .throttle, address: group.path, problem: .failed(reason))
  }
}

extension SourceConfiguration {
  /// By what the guest is to be slowed down; nil when it is not.
  public var throttleMeans: ThrottleMeans? {
    maximumThrottlePercent > 0 ? wantedThrottleMeans.means(frontEnd: frontEnd) : nil
  }

  /// What would slow the guest down, in words; nil when nothing is to. Nothing is changed by
  /// asking.
  func throttleFinding(_ vmm: VMMStatus) throws(Refusal) -> String? {
    switch throttleMeans {
    case nil, .automatic: return nil
    case .vmm:
      _ = try vmmThrottle()
      return "the VMM can slow its guest down"
    case .cgroup:
      let own = "\(try Self.throttledGroup(of: vmm).path) is the VMM's own control group"
      let left = vmm.pid.flatMap { LeftThrottle.finding(aroundVMM: $0, in: directory) }
      return left.map { "\(own); \($0)" } ?? own
    }
  }

  private func vmmThrottle() throws(Refusal) -> any ProcessorThrottle {
    guard let throttle = frontEnd.throttle else {
      throw Refusal(
        .unfit,
        "--throttle-by vmm needs a VMM that can slow its guest down, and this one cannot: use "
          + "--throttle-by cgroup")
    }
    return throttle
  }

  private static func throttledGroup(of vmm: VMMStatus) throws(Refusal) -> ThrottledGroup {
    guard let pid = vmm.pid else {
      throw Refusal(.unfit, "--throttle needs the VMM's process, and this VMM does not tell it")
    }
    do throws(ThrottledGroupError) {
      return try ThrottledGroup.find(ofVMM: pid, vcpuCount: vmm.vcpuCount)
    } catch { throw Refusal(.unfit, "the guest cannot be slowed down: \(error)") }
  }

  /// What does it, after all checks that can be made. `vmm` is the VM's status now, `left` what
  /// came of what others had left of its groups.
  func chooseThrottle(
    _ vmm: VMMStatus, left: [LeftThrottleNote]
  ) throws(Refusal) -> ChosenThrottle? {
    switch throttleMeans {
    case nil, .automatic: return nil
    case .vmm: return ChosenThrottle(throttle: try vmmThrottle(), means: .vmm)
    case .cgroup:
      // A bound of ours would be taken for the operator's, and put back for ever.
      for case .stuck(let reason) in left { throw Refusal(.unfit, reason) }
      let group = try Self.throttledGroup(of: vmm)
      guard let keeper = throttleKeeper else {
        throw Refusal(.unfit, "nothing was started that keeps the control group's bound")
      }
      do throws(StateError) { try directory.prepareThrottleRecords() } catch {
        throw Refusal(.unfit, "the directory of what is changed of control groups: \(error)")
      }
      guard let pid = vmm.pid else { invariantBroken("a group was found by the VMM's process") }
      let vcpuCount = vmm.vcpuCount
      return ChosenThrottle(
        throttle: GroupThrottle(
          vmName: vmName.text, group: group, keeper: keeper,
          recordPath: directory.throttleRecordPath(of: group),
          owner: directory.throttleOwner(ofVM: vmName),
          find: { () throws(ThrottledGroupError) in
            try ThrottledGroup.find(ofVMM: pid, vcpuCount: vcpuCount)
          }),
        means: .cgroup)
    }
  }
}
