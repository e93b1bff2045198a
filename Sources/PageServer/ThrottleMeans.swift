internal import Migration
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

  var slowsVMM: Bool { true }

  func throttle(percent: Int, forMilliseconds milliseconds: UInt64) throws(VMMError) {
    do throws(ThrottleKeeperError) {
      try keeper.throttle(
        percent: percent, forMilliseconds: milliseconds, of: group, recordPath: recordPath)
    } catch {
      throw VMMError(
        vmName: vmName, verb: .throttle, address: group.path, problem: .failed("\(error)"))
    }
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
    case .cgroup: return "\(try Self.throttledGroup(of: vmm).path) is the VMM's own control group"
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

  /// What does it, after all checks that can be made. `vmm` is the VM's status now.
  func chooseThrottle(
    _ vmm: VMMStatus, left: LeftThrottleNote?
  ) throws(Refusal) -> ChosenThrottle? {
    switch throttleMeans {
    case nil, .automatic: return nil
    case .vmm: return ChosenThrottle(throttle: try vmmThrottle(), means: .vmm)
    case .cgroup:
      // A bound of ours would be taken for the operator's, and put back for ever.
      if case .stuck(let reason) = left { throw Refusal(.unfit, reason) }
      let group = try Self.throttledGroup(of: vmm)
      guard let keeper = throttleKeeper else {
        throw Refusal(.unfit, "nothing was started that keeps the control group's bound")
      }
      let record: String
      do throws(SystemError) {
        // The keeper has another working directory.
        record = try FileSystem.absolutePath(directory.throttleRecordPath(ofVM: vmName))
      } catch { throw Refusal(.unfit, "the state directory: \(error)") }
      return ChosenThrottle(
        throttle: GroupThrottle(
          vmName: vmName.text, group: group, keeper: keeper, recordPath: record),
        means: .cgroup)
    }
  }

  /// Puts a bound back that a dead process has left lowered; the words for what came of it, nil
  /// when there was none. Call it with the VM's lock held.
  func restoreLeftThrottle() -> LeftThrottleNote? {
    do throws(SystemError) {
      return try LeftThrottle.restore(recordedIn: directory.throttleRecordPath(ofVM: vmName))
        .map { .restored(group: $0) }
    } catch {
      return .stuck(
        "the VM's control group may have less processor time still than it had before an earlier "
          + "migration: \(error)")
    }
  }
}

/// What came of a bound that a dead process has left lowered.
public enum LeftThrottleNote: Hashable, Sendable {
  /// The group has its own bound again.
  case restored(group: String)
  /// It may be lowered still.
  case stuck(String)
}
