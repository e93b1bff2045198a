import ArgumentParser
import Migration
import PageServer
import VMM

/// What rules the rounds of modes hybrid and pre-copy.
struct RoundOptions: ParsableArguments {
  /// What follows when pre-copy has come to a limit.
  enum AtLimit: String, ExpressibleByArgument, CaseIterable {
    case stay
    case switchOver = "switch"
  }

  /// How it is found out what the VM writes.
  enum Tracking: String, ExpressibleByArgument, CaseIterable {
    case auto
    case vmm
    case pagemap
    case content
  }

  /// By what a guest is slowed down.
  enum ThrottleBy: String, ExpressibleByArgument, CaseIterable {
    case auto
    case vmm
    case cgroup
  }

  @Option(
    help: ArgumentHelp(
      "Rounds end when the VM would stand still for no longer than this.",
      discussion: """
        Counted are what is left to send, the last look at what was written, round trips, and \
        10 ms for the VMMs; all but the first with no more than half of this time.
        """,
      valueName: "milliseconds"))
  var downtimeTarget: UInt64 = 50

  @Option(
    help: ArgumentHelp(
      "Rounds at most.",
      discussion: "Default: 30 in hybrid, any number in pre-copy.",
      valueName: "count"))
  var maxRounds: UInt64?

  @Option(
    help: ArgumentHelp(
      "Rounds end after this time, wherever they are. Default: no limit.", valueName: "seconds"))
  var maxTime: UInt64?

  @Option(
    help: ArgumentHelp(
      "What follows in pre-copy when rounds or time are over: the VM stays, or is switched over.",
      discussion: "With switch, what is left follows the VM, as in hybrid. Default: stay."))
  var atLimit: AtLimit?

  @Option(
    help: ArgumentHelp(
      "In pre-copy, how much of its processor time the guest may lose so that rounds come to fit.",
      discussion: """
        1 to 99: 20 percent are taken when two rounds in turn leave more than half of what the one \
        before left, 10 more each time that this goes on. Given back with the switch, with the end \
        of the migration, and within 5 seconds of the death of its processes. Default: nothing.
        """, valueName: "percent"))
  var throttle: Int?

  @Option(
    help: ArgumentHelp(
      "By what the guest loses processor time: auto, vmm or cgroup.",
      discussion: """
        vmm: the VMM has its vCPUs rest. cgroup: the control group of the VMM's process is \
        bounded, so that the VMM itself gets slower too; nobody else may be in it. auto: vmm, or \
        cgroup where the VMM cannot. Default: auto.
        """))
  var throttleBy: ThrottleBy?

  @Option(
    help: ArgumentHelp(
      "How rounds find out what the VM writes meanwhile: auto, vmm, pagemap or content.",
      discussion: """
        vmm: the VMM tells. pagemap: the kernel tells, of private memory (--memory pid:) that the \
        VMM has registered for asynchronous write protection; a VMM that does direct I/O is \
        paused for a moment in each round, and refused where its pause does not wait for that. \
        content: all memory is compared with what was sent, a second and more for each GiB, also \
        while the VM stands still. auto: vmm, or pagemap where the VMM has no log.
        """))
  var dirtyTracking = Tracking.auto

  @Option(
    help: ArgumentHelp(
      "Memory for what rounds have sent, to send only what changes of it later; 0 keeps nothing.",
      discussion: "Default: 64.", valueName: "MiB"))
  var deltaCache = SourceConfiguration.usualDeltaCacheByteCount >> 20

  /// A day: whoever means more means no limit.
  private static let longestMilliseconds: UInt64 = 86_400_000
  /// A TiB: more than any image that fits a session.
  private static let largestDeltaCacheMiB: UInt64 = 1 << 20

  func validate(with mode: SendCommand.Mode) throws {
    if deltaCache > Self.largestDeltaCacheMiB {
      throw ValidationError("--delta-cache must be at most \(Self.largestDeltaCacheMiB) MiB")
    }
    if maxRounds == 0 { throw ValidationError("--max-rounds must be 1 or more") }
    if atLimit != nil, mode != .preCopy {
      throw ValidationError("--at-limit goes with --mode pre-copy: hybrid always switches")
    }
    if atLimit != nil, maxRounds == nil, maxTime == nil {
      throw ValidationError("--at-limit needs a limit: --max-rounds or --max-time")
    }
    if let throttle {
      guard ThrottleRule.allowedPercent.contains(throttle) else {
        throw ValidationError("--throttle must be 1 to 99 percent")
      }
      guard mode == .preCopy else {
        throw ValidationError("--throttle goes with --mode pre-copy: hybrid switches instead")
      }
    }
    if throttleBy != nil, throttle == nil {
      throw ValidationError("--throttle-by goes with --throttle PERCENT")
    }
    guard downtimeTarget <= Self.longestMilliseconds else {
      throw ValidationError("--downtime-target must be at most \(Self.longestMilliseconds)")
    }
    if let maxTime, !(1...Self.longestMilliseconds / 1000).contains(maxTime) {
      throw ValidationError("--max-time must be 1 to \(Self.longestMilliseconds / 1000)")
    }
  }

  func apply(to configuration: inout SourceConfiguration, _ mode: SendCommand.Mode) {
    configuration.switchLimits = switchLimits(mode)
    configuration.deltaCacheByteCount = deltaCache << 20
    configuration.tracking = WriteTracking(rawValue: dirtyTracking.rawValue) ?? .automatic
    configuration.maximumThrottlePercent = throttle ?? 0
    configuration.wantedThrottleMeans = wantedThrottleMeans
  }

  /// By what that VMM's guest is slowed down; nil when it is not.
  func throttleMeans(frontEnd: any VMMFrontEnd) -> ThrottleMeans? {
    throttle == nil ? nil : wantedThrottleMeans.means(frontEnd: frontEnd)
  }

  private var wantedThrottleMeans: ThrottleMeans {
    throttleBy.flatMap { ThrottleMeans(rawValue: $0.rawValue) } ?? .automatic
  }

  var downtimeNanoseconds: UInt64 { downtimeTarget * 1_000_000 }

  private func switchLimits(_ mode: SendCommand.Mode) -> SwitchLimits {
    var limits = SwitchLimits(
      downtimeNanoseconds: downtimeNanoseconds,
      maximumNanoseconds: maxTime.map { $0 * 1_000_000_000 })
    if let maxRounds { limits.maximumRoundCount = maxRounds }
    if mode == .preCopy {
      limits.maximumRoundCount = maxRounds
      limits.atLimit = atLimit.flatMap { LimitAction(rawValue: $0.rawValue) } ?? .stay
    }
    return limits
  }
}
