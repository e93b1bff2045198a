internal import Glibc
internal import Pages
internal import System

/// Where the programs run. Two processors at most, so that a small machine can repeat it.
enum Placement: String, CaseIterable, Sendable {
  /// The guest and the destination share processor 0, the source has processor 1: two hosts.
  case split
  /// All on processor 0: no wake-up crosses processors.
  case same
  /// Wherever the scheduler likes.
  case free

  var guest: Int? { self == .free ? nil : 0 }
  var destination: Int? { self == .free ? nil : 0 }
  var source: Int? {
    switch self {
    case .split: min(1, Processors.onlineCount - 1)
    case .same: 0
    case .free: nil
    }
  }
}

/// One migration under measurement, from empty directories to two processes that have ended.
struct Run {
  var contender: Contender
  var experiment: Experiment
  var placement: Placement
  var commands: CommandLines
  /// Follows the seed of the whole benchmark and the round.
  var seed: UInt64

  /// No run lasts longer; a hang ends the benchmark and kills what it started.
  static let limitSeconds: UInt64 = 60
  /// Touches that are not counted: both handlers are still starting up.
  static let warmUpCount = 64
  /// How often memory is looked at, in the bulk experiment only: it costs the others time.
  static let samplingMilliseconds: Int32 = 5

  func measure(_ image: borrowing FrozenImage) throws -> Measurement {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.limitSeconds * 1_000_000_000)
    let log = try OwnedDescriptor.open(
      "\(commands.directory)/log", flags: O_WRONLY | O_CREAT | O_APPEND)
    var source = try ChildProcess(
      commands.source(contender, experiment, memoryPath: image.path),
      processor: placement.source, log: log)
    try waitUntil(deadline, "the source listens", while: source) {
      SocketTable.isListening(commands.address)
    }
    var destination = try ChildProcess(
      commands.destination(contender, experiment), processor: placement.destination, log: log)
    try waitUntil(deadline, "the destination listens", while: destination) {
      SocketTable.isListening("unix:\(commands.attachPath)")
    }
    let memory = try GuestMemory(byteCount: image.byteCount)
    var measurement = Measurement()
    let start = MonotonicClock.now()
    try memory.attach(to: commands.attachPath)
    if experiment == .bulk {
      watch(source, destination, into: &measurement, deadline: deadline)
    } else {
      try touch(memory, image, into: &measurement)
    }
    measurement.destination.processorSeconds =
      try destination.finish(deadline: deadline).processorSeconds
    measurement.seconds = Double(MonotonicClock.now().nanoseconds(since: start)) / 1e9
    measurement.source.processorSeconds = try source.finish(deadline: deadline).processorSeconds
    try memory.verify(seed: image.seed)
    return measurement
  }

  private func touch(
    _ memory: GuestMemory, _ image: borrowing FrozenImage, into measurement: inout Measurement
  ) throws {
    let order = PageOrder(
      pageCount: image.byteCount / FrozenImage.pageByteCount, seed: seed)
    if let guest = placement.guest { Processors.pin(to: guest) }
    defer { Processors.unpin() }
    measurement.take(
      faults: try memory.touch(order: order, seed: image.seed, warmUpCount: Self.warmUpCount))
  }

  /// Looks at the daemons' memory until the destination ends.
  private func watch(
    _ source: borrowing ChildProcess, _ destination: borrowing ChildProcess,
    into measurement: inout Measurement, deadline: Instant
  ) {
    while !destination.hasEnded(within: Self.samplingMilliseconds), MonotonicClock.now() < deadline
    {
      measurement.source.note(residentOf: source.pid)
      measurement.destination.note(residentOf: destination.pid)
    }
  }

  private func waitUntil(
    _ deadline: Instant, _ what: String, while process: borrowing ChildProcess,
    _ isSo: () -> Bool
  ) throws(BenchmarkError) {
    while !isSo() {
      guard !process.hasEnded(within: 2) else {
        throw BenchmarkError("\(process.name) ended before \(what)")
      }
      guard MonotonicClock.now() < deadline else { throw BenchmarkError("never came: \(what)") }
    }
  }
}

extension Footprint {
  /// Reads RssAnon + RssFile of the process and its workers; one that has just ended has none. The
  /// file pages are the same program's in all of them, and count once.
  mutating func note(residentOf pid: pid_t) {
    let children = FileSystem.text(ofSmallFile: "/proc/\(pid)/task/\(pid)/children") ?? ""
    var anonymousKibibytes = 0
    var fileKibibytes = 0
    for process in ["\(pid)"] + children.split(separator: " ").map(String.init) {
      guard let status = FileSystem.text(ofSmallFile: "/proc/\(process)/status") else { continue }
      anonymousKibibytes += Self.kibibytes("RssAnon:", in: status)
      fileKibibytes = max(fileKibibytes, Self.kibibytes("RssFile:", in: status))
    }
    peakResidentKibibytes = max(peakResidentKibibytes, anonymousKibibytes + fileKibibytes)
  }

  private static func kibibytes(_ key: String, in status: String) -> Int {
    let line = status.split(separator: "\n").first { $0.hasPrefix(key) } ?? ""
    return line.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first
      .flatMap { Int($0) } ?? 0
  }
}

/// The kernel's list of sockets: tells that somebody listens without connecting to him.
enum SocketTable {
  static func isListening(_ address: String) -> Bool {
    if address.hasPrefix("unix:") {
      let path = address.dropFirst("unix:".count)
      // Flag 00010000: the socket accepts connections.
      return rows("/proc/net/unix").contains { $0.last == path && $0[3] == "00010000" }
    }
    guard let port = address.split(separator: ":").last.flatMap({ UInt16($0) }) else {
      return false
    }
    let digits = String(port, radix: 16, uppercase: true)
    let suffix = ":" + String(repeating: "0", count: 4 - digits.count) + digits
    // State 0A: listening.
    return ["/proc/net/tcp", "/proc/net/tcp6"].contains { table in
      rows(table).contains { $0.count > 3 && $0[1].hasSuffix(suffix) && $0[3] == "0A" }
    }
  }

  private static func rows(_ path: String) -> [[Substring]] {
    (FileSystem.text(ofSmallFile: path) ?? "").split(separator: "\n").dropFirst()
      .map { $0.split(separator: " ") }.filter { $0.count > 3 }
  }
}
