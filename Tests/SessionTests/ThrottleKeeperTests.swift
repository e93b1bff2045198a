import Glibc
import Pages
import System
import Testing

@testable import Session

/// A real control group of version 1 with a process in it that never rests.
private final class SpinningGroup {
  private static let root = "/sys/fs/cgroup/cpu"
  static let isAvailable = FileSystem.isReadWritable("\(root)/cpu.cfs_quota_us")

  let path: String
  let scratch: ScratchDirectory
  private(set) var spinners: [ChildProcess] = []

  init(in outer: SpinningGroup? = nil) throws {
    let digits = try RandomBytes.make(6).map { String($0, radix: 16) }.joined()
    path = "\(outer?.path ?? Self.root)/postcopy-test-\(digits)"
    scratch = try ScratchDirectory()
    try #require(unsafe mkdir(path, 0o755) == 0)
    try spin()
  }

  deinit {
    spinners = []
    _ = unsafe rmdir(path)
  }

  /// Puts a process into it that is no child of any other one in it.
  func spin() throws {
    let nowhere = try OwnedDescriptor.open("/dev/null", flags: O_WRONLY)
    let spinner = try ChildProcess(
      ["sh", "-c", "while :; do :; done"], output: nowhere, error: nowhere)
    spinners.append(spinner)
    try write("\(spinner.pid)", to: "cgroup.procs")
  }

  var record: String { scratch.path("record") }
  var quota: String? { FileSystem.text(ofSmallFile: "\(path)/cpu.cfs_quota_us") }

  func found() throws -> ThrottledGroup {
    try ThrottledGroup.find(ofVMM: spinners[0].pid, vcpuCount: 1)
  }

  func write(_ text: String, to name: String) throws {
    let file = try OwnedDescriptor.open("\(path)/\(name)", flags: O_WRONLY)
    try file.writeAll(Array(text.utf8), atOffset: 0, operand: name)
  }

  /// The group tells nobody when it changes: looked at a few hundred times a second.
  func waitFor(quota expected: String) throws {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
    while quota != expected {
      let now = MonotonicClock.now()
      guard now < deadline else {
        throw TestProcessError(description: "the quota is \(quota ?? "gone"), not \(expected)")
      }
      let hasEnded = spinners[0].handle.waitUntilEnded(
        deadline: now.advanced(byNanoseconds: 5_000_000))
      try #require(!hasEnded)
    }
  }
}

@Suite(
  "The keeper of a bound",
  .enabled(if: SpinningGroup.isAvailable, "needs a writable control group cpu of version 1"))
struct ThrottleKeeperTests {
  private static let aMinute: UInt64 = 60_000
  private let spinning: SpinningGroup

  init() throws { spinning = try SpinningGroup() }

  private func client() throws -> ThrottleKeeperClient {
    try ThrottleKeeperClient(
      executable: (OwnExecutable.directory ?? ".") + "/SessionTestWorker",
      arguments: ["session-test-worker", "throttle-keeper"])
  }

  private func take(
    _ percent: Int, _ client: ThrottleKeeperClient, milliseconds: UInt64 = aMinute
  ) throws {
    try client.throttle(
      percent: percent, forMilliseconds: milliseconds, of: spinning.found(),
      recordPath: spinning.record, owner: "vm")
  }

  @Test("lowers it and puts it back as it is told, and holds nothing else")
  func told() throws {
    let client = try client()
    try take(80, client)
    #expect(spinning.quota == "20000")
    #expect(FileSystem.exists(spinning.record))
    let keeper = "/proc/\(client.identity.pid)"
    let numbers = try FileSystem.entryNames(ofDirectory: keeper + "/fd").sorted()
    // The last one is its lock.
    #expect(numbers == ["0", "1", "2", "3", "4"])
    #expect(FileSystem.linkTarget(keeper + "/fd/4") == spinning.path)
    for number in 0...2 { #expect(FileSystem.linkTarget("\(keeper)/fd/\(number)") == "/dev/null") }
    #expect(FileSystem.linkTarget(keeper + "/cwd") == "/")
    try take(99, client)
    #expect(spinning.quota == "1000")
    try take(0, client)
    #expect(spinning.quota == "-1")
    #expect(!FileSystem.exists(spinning.record))
    try client.end()
  }

  @Test("puts it back when it was lent for no longer, and when its worker ends without a word")
  func unasked() throws {
    let client = try client()
    try take(80, client, milliseconds: 1)
    try spinning.waitFor(quota: "-1")
    try take(80, client)
    #expect(spinning.quota == "20000")
    try client.end()
    #expect(spinning.quota == "-1")
    #expect(!FileSystem.exists(spinning.record))
    #expect(throws: ThrottleKeeperError.self) { try take(80, client) }
    #expect(spinning.quota == "-1")
  }

  @Test("outlives what ends others, and puts it back when its worker is killed")
  func killedWorker() throws {
    let worker = try TestProcess("throttler", "\(spinning.spinners[0].pid)", spinning.record)
    let keeper = try OtherProcess(pid: try #require(Int32(try worker.line("throttled"))))
    #expect(spinning.quota == "20000")
    for signal in SessionSignal.allCases { try keeper.send(signal: signal.rawValue) }
    #expect(!keeper.hasEnded && spinning.quota == "20000")
    try worker.process.send(signal: SIGKILL)
    #expect(try worker.end() == .killed(signal: SIGKILL))
    try spinning.waitFor(quota: "-1")
    try keeper.waitForEnd()
    #expect(!FileSystem.exists(spinning.record))
  }

  @Test("that is killed has left a file by which the bound is put back, by the worker itself too")
  func killedKeeper() throws {
    let first = try client()
    try take(80, first)
    try ProcessHandle.open(pid: first.identity.pid).kill()
    let group = try LeftThrottle.restore(
      recordedIn: spinning.record, endingKeeperAfter: 60_000_000_000)
    #expect(group == spinning.path && spinning.quota == "-1")
    #expect(!FileSystem.exists(spinning.record))
    let second = try client()
    try take(80, second)
    try ProcessHandle.open(pid: second.identity.pid).kill()
    #expect(throws: ThrottleKeeperError.self) { try take(90, second) }
    #expect(spinning.quota == "-1")
    #expect(!FileSystem.exists(spinning.record))
    let third = try client()
    try take(80, third)
    try ProcessHandle.open(pid: third.identity.pid).kill()
    try third.end()
    #expect(spinning.quota == "-1")
  }

  @Test("that stands still is ended, and the bound put back", arguments: [0, 50])
  func stoppedKeeper(percent: Int) throws {
    let client = try client()
    try take(80, client)
    try ProcessHandle.open(pid: client.identity.pid).send(signal: SIGSTOP)
    if percent == 0 {
      try take(0, client)
    } else {
      #expect(throws: ThrottleKeeperError.silent) { try take(percent, client) }
    }
    #expect(spinning.quota == "-1" && !FileSystem.exists(spinning.record))
    let second = try self.client()
    try take(80, second)
    try ProcessHandle.open(pid: second.identity.pid).send(signal: SIGSTOP)
    try second.end()
    #expect(spinning.quota == "-1" && !FileSystem.exists(spinning.record))
  }

  @Test("is one at a time, whoever's VM it is")
  func two() throws {
    let first = try client()
    try take(80, first)
    let second = try client()
    let error = #expect(throws: ThrottleKeeperError.self) {
      try second.throttle(
        percent: 50, forMilliseconds: Self.aMinute, of: spinning.found(),
        recordPath: spinning.scratch.path("second"), owner: "other")
    }
    #expect("\(try #require(error))".contains("another migration slows"))
    try first.end()
    #expect(spinning.quota == "-1")
  }

  @Test("puts back as much as a group above allows, and the rest when it can")
  func nested() throws {
    let inner = try SpinningGroup(in: spinning)
    try inner.write("50000", to: "cpu.cfs_quota_us")
    let client = try client()
    try client.throttle(
      percent: 80, forMilliseconds: Self.aMinute, of: inner.found(), recordPath: inner.record,
      owner: "vm")
    #expect(inner.quota == "10000")
    try spinning.write("20000", to: "cpu.cfs_quota_us")
    let error = #expect(throws: ThrottleKeeperError.self) {
      try client.throttle(
        percent: 0, forMilliseconds: 0, of: inner.found(), recordPath: inner.record, owner: "vm")
    }
    #expect("\(try #require(error))".contains("while a group above"))
    #expect(inner.quota == "20000" && FileSystem.exists(inner.record))
    try spinning.write("-1", to: "cpu.cfs_quota_us")
    try client.end()
    #expect(inner.quota == "50000" && !FileSystem.exists(inner.record))
  }

  @Test("leaves an operator's bound as it was, and one that comes meanwhile as it is")
  func operatorsBound() throws {
    try spinning.write("50000", to: "cpu.cfs_period_us")
    try spinning.write("40000", to: "cpu.cfs_quota_us")
    let client = try client()
    try take(50, client)
    #expect(spinning.quota == "20000")
    try take(0, client)
    #expect(spinning.quota == "40000")
    try take(50, client)
    try spinning.write("30000", to: "cpu.cfs_quota_us")
    try take(0, client)
    #expect(spinning.quota == "30000")
    #expect(FileSystem.text(ofSmallFile: "\(spinning.path)/cpu.cfs_period_us") == "50000")
    try client.end()
  }

  @Test("is asked for nothing where another process is in the group")
  func foreign() throws {
    try spinning.spin()
    let error = ThrottledGroupError.foreign(group: spinning.path, pid: spinning.spinners[1].pid)
    #expect(throws: error) { try spinning.found() }
    #expect(throws: ThrottledGroupError.root(pid: getpid())) {
      try ThrottledGroup.find(ofVMM: getpid(), vcpuCount: nil)
    }
  }
}
