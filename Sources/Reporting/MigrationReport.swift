internal import FoundationEssentials
public import Migration
public import System
internal import Wire

/// All that is told about a migration when it ends. As JSON its keys and units are fixed by
/// `version`; keys are only ever added within one.
public struct MigrationReport: Hashable, Sendable, Codable {
  /// The version of the JSON.
  public static let currentVersion = 1

  /// The version of this value.
  public var version = currentVersion
  /// The VM's name.
  public var vm: String
  /// The session's id in its written form; nil when none came about.
  public var session: String?
  /// "source" or "destination": which side reports.
  public var side: String
  /// "completed", "refused", "aborted" or "parked".
  public var outcome: String
  /// The process's exit code.
  public var exitCode: Int32
  /// Why, when it did not complete; nil when it did.
  public var reason: String?
  /// What the source's host does with the VM now.
  public var sourceState: String
  /// What the destination's host does with the VM now.
  public var destinationState: String
  /// "post-copy", "hybrid", "pre-copy" or "quick".
  public var mode: String
  /// When it began, UTC.
  public var startedAt: String
  /// From the start to this report.
  public var totalNanoseconds: UInt64
  /// How long the VM stood still; nil when it was never frozen, or the other side knows.
  public var downtime: Downtime?
  /// What the guest waited for; nil on the source.
  public var faults: Faults?
  /// Pages by what they were.
  public var pages: PageTally
  /// Whether seeds went into the VM's memory itself, or to a stage first; nil on the source, and in
  /// modes without rounds.
  public var seedsInPlace: Bool?
  /// Bytes by how they travelled.
  public var bytes: ByteTally
  /// What was made of pages that were packed, by encoding; nil at the destination.
  public var encodings: [EncodingTally]?
  /// How the rounds went; nil at the destination, and in modes without.
  public var rounds: RoundsTally?
  /// How far the guest came; nil when the VMM does not tell.
  public var guest: GuestProgress?
  /// How the guest was paused for lost links (`--pause-after`); nil when it never was.
  public var guestPauses: GuestPauses?
  /// How long each phase took, in order.
  public var phases: [PhaseTime]

  /// A report with an outcome; the tallies are filled in by whoever counted.
  public init(
    vm: String, session: String?, side: String, outcome: Outcome, mode: String, startedAt: String,
    totalNanoseconds: UInt64
  ) {
    self.vm = vm
    self.session = session
    self.side = side
    self.outcome = OperatorMessage.verdict(of: outcome.ending)
    self.exitCode = outcome.ending.exitCode
    self.reason = outcome.reason?.reason
    self.sourceState = outcome.source.phrase
    self.destinationState = outcome.destination.phrase
    self.mode = mode
    self.startedAt = startedAt
    self.totalNanoseconds = totalNanoseconds
    self.pages = PageTally()
    self.bytes = ByteTally()
    self.phases = []
  }

  /// Page payload per second over the whole migration.
  public var pageBytesPerSecond: UInt64 {
    guard totalNanoseconds > 0 else { return 0 }
    return UInt64(Double(bytes.demanded + bytes.pushed) / Double(totalNanoseconds) * 1e9)
  }

  /// One line of JSON, keys in alphabetical order.
  public func json() -> String { JSONText.line(of: self) }
}

/// How long the VM stood still, in the source's clock: from the freeze to the arrival of RAN, less
/// what the destination measured after its start.
public struct Downtime: Hashable, Sendable, Codable {
  /// The whole.
  public var nanoseconds: UInt64
  /// It is wrong by at most this much: half a round trip.
  public var uncertaintyNanoseconds: UInt64
  /// Its parts, in order; what they leave is waiting and work between them.
  public var parts: [PhaseTime]

  /// A downtime with its parts.
  public init(nanoseconds: UInt64, uncertaintyNanoseconds: UInt64, parts: [PhaseTime]) {
    self.nanoseconds = nanoseconds
    self.uncertaintyNanoseconds = uncertaintyNanoseconds
    self.parts = parts
  }
}

/// The parts of a downtime, by the names that reports use.
public enum DowntimePart: String, CaseIterable, Hashable, Sendable {
  /// Stopping the vCPUs.
  case pause
  /// Finding what was written last; in modes with rounds.
  case lastScan = "last scan"
  /// Taking their state out.
  case stateSave = "state save"
  /// Sending it.
  case transfer
  /// Putting it in at the destination.
  case load
  /// Waiting for the pages that have to be there before the VM runs.
  case fill
  /// Both hosts' journals.
  case handOffSyncs = "hand-off fsyncs"
  /// GO on its way.
  case go
  /// Starting the vCPUs.
  case resume
}

/// A named stretch of time.
public struct PhaseTime: Hashable, Sendable, Codable {
  /// What went on.
  public var name: String
  /// For how long.
  public var nanoseconds: UInt64

  /// That long for that.
  public init(_ name: String, nanoseconds: UInt64) {
    self.name = name
    self.nanoseconds = nanoseconds
  }

  /// That long for a part of the downtime.
  public init(_ part: DowntimePart, nanoseconds: UInt64) {
    self.init(part.rawValue, nanoseconds: nanoseconds)
  }
}

/// What the guest waited for.
public struct Faults: Hashable, Sendable, Codable {
  /// Faults that were resolved.
  public var count: UInt64
  /// Fault messages about pages that were present or asked for already.
  public var duplicateCount: UInt64
  /// Half of the faults took at most this.
  public var p50Nanoseconds: UInt64?
  /// 99 % took at most this.
  public var p99Nanoseconds: UInt64?
  /// 99.9 % took at most this.
  public var p999Nanoseconds: UInt64?
  /// The longest.
  public var maximumNanoseconds: UInt64
  /// Counts by powers of two of microseconds.
  public var histogram: [LatencyRow]

  /// What a recorder saw, and how many messages were duplicates.
  public init(_ latencies: LatencyHistogram, duplicateCount: UInt64) {
    self.count = latencies.count
    self.duplicateCount = duplicateCount
    self.p50Nanoseconds = latencies.nanoseconds(atQuantile: 0.5)
    self.p99Nanoseconds = latencies.nanoseconds(atQuantile: 0.99)
    self.p999Nanoseconds = latencies.nanoseconds(atQuantile: 0.999)
    self.maximumNanoseconds = latencies.maximumNanoseconds
    self.histogram = latencies.powersOfTwo()
  }
}

/// Pages by what they were.
public struct PageTally: Hashable, Sendable, Codable {
  /// All pages of the image.
  public var total: UInt64 = 0
  /// Sent or installed with their bytes.
  public var data: UInt64 = 0
  /// Known to read as zeros; their bytes never travelled.
  public var zero: UInt64 = 0
  /// Poisoned at the source.
  public var poisoned: UInt64 = 0
  /// Given back by the guest before they came.
  public var removed: UInt64 = 0
  /// Came a second time and were dropped.
  public var duplicate: UInt64 = 0
  /// Sent while the VM still ran, each as often as it was sent; nil in modes without rounds.
  public var seeded: UInt64?

  /// No pages.
  public init() {}
}

/// Page payload by how it travelled.
public struct ByteTally: Hashable, Sendable, Codable {
  /// Asked for by a waiting vCPU.
  public var demanded: UInt64 = 0
  /// Sent unasked.
  public var pushed: UInt64 = 0
  /// Device state.
  public var deviceState: UInt64 = 0

  /// No bytes.
  public init() {}
}

/// What an encoding has made of pages.
public struct EncodingTally: Hashable, Sendable, Codable {
  /// "lz4" or "zstd"; "delta": seeds that went as what had changed since they were sent before;
  /// "same": those of which nothing had.
  public var name: String
  /// Bytes of pages.
  public var pageByteCount: UInt64
  /// Bytes that went over the link in their place.
  public var sentByteCount: UInt64

  /// A tally with all its parts.
  public init(name: String, pageByteCount: UInt64, sentByteCount: UInt64) {
    self.name = name
    self.pageByteCount = pageByteCount
    self.sentByteCount = sentByteCount
  }
}

/// How the rounds of seeds went.
public struct RoundsTally: Hashable, Sendable, Codable {
  /// How many there were.
  public var count: UInt64
  /// Who told what the VM wrote: "vmm", "pagemap" or "content".
  public var tracking: String
  /// How long it took to ask, the longest time of those while the VM ran.
  public var longestLookNanoseconds: UInt64
  /// How much of its processor time the guest lost in the end, in percent.
  public var throttlePercent: Int
  /// By what: "vmm" or "cgroup"; nil when it lost nothing.
  public var throttleMeans: String?
  /// How long the VM was to stand still for what the last round had left; nil when the link's rate
  /// was not known.
  public var predictedDowntimeNanoseconds: UInt64?
  /// How long the VM stood still in all for looks at what it wrote; nil when it ran on meanwhile.
  public var lookPauseNanoseconds: UInt64?

  /// A tally with all its parts.
  public init(
    count: UInt64, tracking: String, longestLookNanoseconds: UInt64, throttlePercent: Int,
    throttleMeans: String?, predictedDowntimeNanoseconds: UInt64?,
    lookPauseNanoseconds: UInt64? = nil
  ) {
    self.lookPauseNanoseconds = lookPauseNanoseconds
    self.count = count
    self.tracking = tracking
    self.longestLookNanoseconds = longestLookNanoseconds
    self.throttlePercent = throttlePercent
    self.throttleMeans = throttleMeans
    self.predictedDowntimeNanoseconds = predictedDowntimeNanoseconds
  }
}

/// How far the guest came.
public struct GuestProgress: Hashable, Sendable, Codable {
  /// Operations up to the freeze.
  public var operationsBeforeFreeze: UInt64
  /// Operations since its start at the destination.
  public var operationsAfterStart: UInt64
  /// Pages that the guest found wrong; anything but 0 is a bug of ours.
  public var mismatches: UInt64

  /// A progress with all its parts.
  public init(operationsBeforeFreeze: UInt64, operationsAfterStart: UInt64, mismatches: UInt64) {
    self.operationsBeforeFreeze = operationsBeforeFreeze
    self.operationsAfterStart = operationsAfterStart
    self.mismatches = mismatches
  }
}

/// How the guest was paused because its source could not be reached.
public struct GuestPauses: Hashable, Sendable, Codable {
  /// How often.
  public var count: UInt64
  /// For how long in all, as far as the reporting process has seen.
  public var totalNanoseconds: UInt64
  /// Whether it may stand still now: the next `recover` lets it run on.
  public var isPaused: Bool

  /// Pauses with all their parts.
  public init(count: UInt64, totalNanoseconds: UInt64, isPaused: Bool) {
    self.count = count
    self.totalNanoseconds = totalNanoseconds
    self.isPaused = isPaused
  }
}
