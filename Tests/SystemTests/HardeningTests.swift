import Glibc
import Pages
import Testing

@testable import System

/// A worker that has hardened itself, seen from outside: what the kernel says of it counts.
@Suite(
  "A hardened worker", .timeLimit(.minutes(5)),
  .enabled(
    if: !Sanitizer.isPresent, "a sanitizer has a thread of its own and takes mlockall over"))
struct HardeningTests {
  @Test("keeps the named capabilities alone, in every thread, and can never gain any")
  func capabilities() throws {
    let probe = try Probe()
    let own = try #require(UInt64(try Probe.status("self")["CapPrm"] ?? "", radix: 16))
    let named = [Capability.tracing, .priority, .memoryLocking]
    let kept = own & named.reduce(0) { $0 | $1.bit }
    let threads = try probe.threadStatuses()
    #expect(threads.count == 2)
    for status in threads {
      #expect(status.set("CapEff") == kept)
      #expect(status.set("CapPrm") == kept)
      #expect(status.set("CapInh") == 0)
      #expect(status.set("CapAmb") == 0)
      #expect(status["NoNewPrivs"] == "1")
      #expect(status["Seccomp"] == "2")
      if geteuid() == 0 { #expect(status.set("CapBnd") == kept) }
    }
    #expect(try probe.finding("capabilities").hasPrefix("true "))
    #expect(try probe.finding("new privileges").hasPrefix("true "))
    #expect(try probe.finding("system calls").hasPrefix("true "))
    try probe.end()
  }

  @Test("that keeps nothing has nothing")
  func nothingKept() throws {
    let probe = try Probe(["--keep-none"])
    for status in try probe.threadStatuses() {
      #expect(status.set("CapEff") == 0 && status.set("CapPrm") == 0)
    }
    try probe.end()
  }

  @Test("says so when threads run already, and leaves capabilities as they are")
  func threadFirst() throws {
    let probe = try Probe(["--thread-first"])
    let own = try Probe.status("self").set("CapPrm")
    #expect(try probe.finding("capabilities").hasPrefix("false "))
    #expect(try probe.finding("capabilities").contains("2 threads"))
    for status in try probe.threadStatuses() {
      #expect(status.set("CapPrm") == own)
      // These follow to every thread that is there.
      #expect(status["NoNewPrivs"] == "1" && status["Seccomp"] == "2")
    }
    try probe.end()
  }

  @Test("starts no program and enters no namespace, but threads, sockets, files and memory work")
  func forbiddenCalls() throws {
    let probe = try Probe()
    for thread in ["main", "late"] {
      #expect(probe.trial(thread, "fork") == EPERM)
      #expect(probe.trial(thread, "unshare") == EPERM)
      #expect(probe.trial(thread, "packet-socket") == EPERM)
      #expect(probe.trial(thread, "signal-to-other") == EPERM)
      #expect(probe.trial(thread, "socket") == 0)
      #expect(probe.trial(thread, "open") == 0)
      #expect(probe.trial(thread, "map") == 0)
    }
    try probe.end()
  }

  @Test("starts programs when its filter is switched off: it is the filter that forbids them")
  func withoutFilter() throws {
    let probe = try Probe(["--no-filter"])
    #expect(probe.trial("main", "fork") == 0)
    #expect(probe.trial("main", "signal-to-other") == 0)
    #expect(try probe.finding("system calls").hasPrefix("false "))
    #expect(try probe.threadStatuses().allSatisfy { $0["Seccomp"] == "0" })
    try probe.end()
  }

  @Test("writes no core, to a file or a program, and none of its memory into any")
  func coreDumps() throws {
    let probe = try Probe()
    let limits = try #require(FileSystem.text(ofSmallFile: "/proc/\(probe.pid)/limits"))
    let line = try #require(limits.split(separator: "\n").first { $0.hasPrefix("Max core file") })
    #expect(line.split(separator: " ").suffix(3) == ["1", "1", "bytes"])
    #expect(FileSystem.text(ofSmallFile: "/proc/\(probe.pid)/coredump_filter") == "00000000")
    #expect(try probe.finding("core dumps").hasPrefix("true "))
    try probe.end()
  }

  @Test("can still be looked at by its own user: its descriptors can be found again")
  func staysDumpable() throws {
    let probe = try Probe()
    let process = try ProcessHandle.open(pid: probe.pid)
    let output = try process.duplicate(descriptorNumber: 1)
    #expect(output.rawValue >= 0)
    try probe.end()
  }

  @Test("goes last when memory runs out, or says why not")
  func outOfMemory() throws {
    let probe = try Probe()
    let text = FileSystem.text(ofSmallFile: "/proc/\(probe.pid)/oom_score_adj")
    let adjustment = try #require(text.flatMap { Int($0) })
    let finding = try probe.finding("out of memory")
    if finding.hasPrefix("true ") {
      #expect(adjustment <= WorkerHardening.outOfMemoryScoreAdjustment)
    } else {
      #expect(finding.contains("oom_score_adj \(adjustment)"))
      #expect(finding.contains("OOMScoreAdjust=-999"))
    }
    try probe.end()
  }

  @Test("has its memory locked as it is touched, or says why not")
  func lockedMemory() throws {
    let probe = try Probe()
    let status = try Probe.status("\(probe.pid)")
    let locked = try #require(status["VmLck"]?.split(separator: " ").first.flatMap { Int($0) })
    let finding = try probe.finding("locked memory")
    if finding.hasPrefix("true ") {
      #expect(locked > 0)
      // On fault: what was never touched takes no memory. The 16 MiB that the probe maps and the
      // stacks of its threads are locked and not there.
      let resident = try #require(status["VmRSS"]?.split(separator: " ").first.flatMap { Int($0) })
      #expect(resident < locked)
    } else {
      #expect(locked == 0)
      #expect(finding.contains("RLIMIT_MEMLOCK is ") && finding.contains("LimitMEMLOCK=infinity"))
    }
    try probe.end()
  }
}

/// Whether this build carries the run time of a sanitizer, as the probe beside it does.
private enum Sanitizer {
  static let isPresent: Bool = {
    let starts: [String] = ["__asan_init", "__tsan_init"]
    // unsafe: the null handle asks the whole process; what is found is not called.
    return starts.contains { (name: String) in unsafe dlsym(nil, name) != nil }
  }()
}

/// The lines of /proc/PID/status.
private typealias Status = [String: String]

extension Status {
  /// A set of capabilities.
  fileprivate func set(_ name: String) -> UInt64? { self[name].flatMap { UInt64($0, radix: 16) } }
}

/// A running probe that has said all it has to say.
private final class Probe {
  private let process: ChildProcess
  private var lines: [String] = []
  var pid: Int32 { process.pid }

  init(_ arguments: [String] = []) throws {
    var ends: [Int32] = [-1, -1]
    try #require(unsafe pipe2(&ends, O_CLOEXEC) == 0)
    let writeEnd = OwnedDescriptor(adopting: ends[1])
    let readEnd = OwnedDescriptor(adopting: ends[0])
    process = try ChildProcess(
      ["\(Self.directory())/hardening-probe"] + arguments, output: writeEnd, error: writeEnd)
    var text: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 4096)
    while !String(decoding: text, as: UTF8.self).hasSuffix("ready\n") {
      let isReadable = try Readiness.wait(for: [readEnd.rawValue], until: Self.deadline())[0]
      let said = String(decoding: text, as: UTF8.self)
      try #require(isReadable, "the probe is silent behind: \(said)")
      let count = try readEnd.read(into: &piece, operand: "probe")
      try #require(count > 0, "the probe ended: \(said)")
      text += piece[..<count]
    }
    lines = String(decoding: text, as: UTF8.self).split(separator: "\n").map(String.init)
  }

  private static func deadline() -> Instant {
    MonotonicClock.now().advanced(byNanoseconds: 30_000_000_000)
  }

  /// Beside the test bundle, where the build puts it.
  private static func directory() -> String {
    var bytes = [UInt8](repeating: 0, count: 4096)
    // unsafe: readlink fills at most as many bytes as the array has.
    let count = unsafe bytes.withUnsafeMutableBytes {
      unsafe readlink("/proc/self/exe", $0.baseAddress!, $0.count)
    }
    let path = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    return path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
  }

  static func status(_ process: String) throws -> Status {
    let text = try #require(FileSystem.text(ofSmallFile: "/proc/\(process)/status"))
    var status: Status = [:]
    for line in text.split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 1)
      if parts.count == 2 {
        let words = parts[1].split(whereSeparator: \.isWhitespace)
        status[String(parts[0])] = words.joined(separator: " ")
      }
    }
    return status
  }

  func threadStatuses() throws -> [Status] {
    let path = "/proc/\(pid)/task"
    guard let directory = unsafe opendir(path) else { throw SystemError("opendir", path) }
    // unsafe: opened above, closed here and nowhere else.
    defer { unsafe closedir(directory) }
    var statuses: [Status] = []
    // unsafe: the stream is open until the function ends, and each entry is read at once.
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if Int(name) != nil { statuses.append(try Self.status("\(pid)/task/\(name)")) }
    }
    return statuses
  }

  /// "true TEXT" or "false TEXT".
  func finding(_ subject: String) throws -> String {
    let line = try #require(
      lines.first { $0.hasPrefix("finding ") && $0.contains(" \(subject): ") })
    return String(line.dropFirst("finding ".count))
  }

  func trial(_ thread: String, _ name: String) -> Int32? {
    lines.first { $0.hasPrefix("\(thread) \(name) ") }?.split(separator: " ").last
      .flatMap { Int32($0) }
  }

  /// It ends in good order.
  func end() throws {
    try process.send(signal: SIGTERM)
    #expect(process.waitForEnd(until: Self.deadline()) == .exited(code: 0))
  }
}
