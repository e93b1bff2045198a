internal import Migration
internal import Wire

/// A journal on a disk: what was not fsynced may or may not survive a crash.
struct SimulatedJournal<Record: Hashable & Sendable> {
  private(set) var records: [Record] = []
  private(set) var durableCount = 0

  /// Appends and returns the index to make durable.
  mutating func append(_ record: Record) -> Int {
    records.append(record)
    return records.count - 1
  }

  /// An fsync covers everything before it as well.
  mutating func makeDurable(through index: Int) -> Record {
    durableCount = max(durableCount, index + 1)
    return records[index]
  }

  /// Loses an arbitrary tail of what no fsync covered.
  mutating func crash(keeping random: inout SeededRandom) {
    let survivors = random.number(in: durableCount..<records.count + 1)
    records.removeLast(records.count - survivors)
    durableCount = survivors
  }

  var durableRecords: ArraySlice<Record> { records.prefix(durableCount) }
}

/// What a VMM can be told; it obeys in order, also after the one who told it has died.
enum VMMCommand: UInt8 {
  case pause, resume, saveState, disable, load, run
  /// Its own follow-up of `saveState`: it calls its migration completed.
  case seal
}

/// A VM's process. It outlives our own processes.
struct SimulatedVMM {
  var isRunning: Bool
  /// Killed, dead or disabled.
  var isGone = false
  /// Its own migration is completed: it will not resume by itself.
  var isSealed = false
  var commands: [(command: VMMCommand, life: Int)] = []
  /// When its last answer arrives: answers keep the order of the commands.
  var lastAnswerNanoseconds: UInt64 = 0

  var observed: ObservedVM { isGone ? .gone : isRunning ? .running : .stopped }
}

/// What both hosts' processes have in common.
struct SimulatedProcess {
  /// Counts lives; whatever was meant for an earlier one is void.
  var life = 0
  var isAlive = true
  /// Its side of the link; nil is down.
  var connection: Int?
  var timerGenerations = [0, 0, 0]
  /// Until then the process is stopped: whatever happens to it waits. 0 when it runs.
  var stalledUntil: UInt64 = 0
  /// What it thinks of its link.
  var monitor: LinkMonitor?
  /// The monitor has said *lost* once; what has come meanwhile is looked at first.
  var isLinkDoubted = false
  /// When something reached this host last on its connection, whether it was read or not.
  var reachedNanoseconds: UInt64 = 0
  /// For how long nothing may reach it before it gives its link up.
  var silenceNanoseconds: UInt64 = 0
  /// Its side of the bulk connection.
  var isBulkUp = false
  /// The earliest arrival of what it sends next, urgent and bulk: TCP keeps the order.
  var arrivalFloors: [UInt64] = [0, 0]
  /// Nothing that it sends arrives before: the welcome comes first.
  var firstArrival: UInt64 = 0
  /// How it ended, if its core told.
  var outcome: Outcome?

  /// Whether nothing more is expected of this side.
  var isDone: Bool {
    switch outcome?.ending {
    case .completed?, .aborted?, .refused?: true
    case .parked?, nil: false
    }
  }
}
