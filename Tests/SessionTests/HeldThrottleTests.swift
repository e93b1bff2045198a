import System
import Testing

@testable import Session

@Suite("A bound that is lowered for a time")
struct HeldThrottleTests {
  private static let path = "/sys/fs/cgroup/vm"
  private let scratch: ScratchDirectory
  private let files: HostFiles
  private let group: ThrottledGroup
  private var throttle: HeldThrottle

  init() throws {
    scratch = try ScratchDirectory()
    files = HostFiles(root: scratch.path)
    try scratch.write("max 100000\n", to: "sys/fs/cgroup/vm/cpu.max")
    group = ThrottledGroup(
      path: Self.path, isVersion2: true,
      inode: try FileStatus.of(path: scratch.path + Self.path).inode,
      usableMicrosecondsPerSecond: 2_000_000)
    throttle = HeldThrottle(
      keeper: try ProcessIdentity.current(), boot: try BootID.current(), files: files)
  }

  private var record: String { scratch.path("record") }
  private var bound: String? { files.text(Self.path + "/cpu.max") }

  private func set(_ text: String) throws {
    try scratch.write(text, to: "sys/fs/cgroup/vm/cpu.max")
  }

  @Test("is recorded as long as it is, and is what it was behind that")
  mutating func recorded() throws {
    try throttle.release()
    #expect(bound == "max 100000")
    try throttle.take(percent: 20, of: group, recordPath: record)
    #expect(bound == "160000 100000" && throttle.isHeld)
    try throttle.take(percent: 30, of: group, recordPath: record)
    #expect(bound == "140000 100000")
    let known = try #require(try ThrottleRecordFile.read(record))
    #expect(known.original.version2Text == "max 100000")
    // Whoever died between the file and the group left either.
    #expect(known.written.map(\.version2Text) == ["160000 100000", "140000 100000"])
    try throttle.release()
    #expect(bound == "max 100000" && !throttle.isHeld)
    #expect(!FileSystem.exists(record))
  }

  @Test("that somebody else sets meanwhile is theirs")
  mutating func others() throws {
    try set("150000 100000\n")
    try throttle.take(percent: 50, of: group, recordPath: record)
    #expect(bound == "75000 100000")
    try set("60000 100000\n")
    try throttle.take(percent: 50, of: group, recordPath: record)
    #expect(bound == "30000 100000")
    try set("30000 50000\n")
    try throttle.release()
    #expect(bound == "30000 50000" && !FileSystem.exists(record))
    try throttle.take(percent: 50, of: group, recordPath: record)
    try throttle.release()
    #expect(bound == "30000 50000")
  }

  @Test("of a group that was made anew is left alone")
  mutating func anotherGroup() throws {
    try throttle.take(percent: 50, of: group, recordPath: record)
    try set("100000 100000\n")
    var gone = try #require(try ThrottleRecordFile.read(record))
    gone.group = ThrottledGroup(
      path: Self.path, isVersion2: true, inode: group.inode &+ 1, usableMicrosecondsPerSecond: 1)
    gone.keeper = SavedProcess(ProcessIdentity(pid: Int32.max, startTicks: 1))
    try ThrottleRecordFile.write(gone, to: record)
    #expect(try LeftThrottle.restore(recordedIn: record, files: files) == Self.path)
    #expect(bound == "100000 100000" && !FileSystem.exists(record))
    let error = #expect(throws: SystemError.self) {
      try throttle.take(percent: 20, of: gone.group, recordPath: record)
    }
    #expect(error?.errno == .noDevice)
  }

  @Test("is put back from the file once, in this boot, and only from one that is ours")
  mutating func left() throws {
    #expect(try LeftThrottle.restore(recordedIn: record, files: files) == nil)
    try throttle.take(percent: 50, of: group, recordPath: record)
    var known = try #require(try ThrottleRecordFile.read(record))
    known.keeper = SavedProcess(ProcessIdentity(pid: Int32.max, startTicks: 1))
    try ThrottleRecordFile.write(known, to: record)
    #expect(try LeftThrottle.restore(recordedIn: record, files: files) == Self.path)
    #expect(bound == "max 100000" && !FileSystem.exists(record))
    #expect(try LeftThrottle.restore(recordedIn: record, files: files) == nil)
    try set("100000 100000\n")
    known.boot = "another boot"
    try ThrottleRecordFile.write(known, to: record)
    #expect(try LeftThrottle.restore(recordedIn: record, files: files) == nil)
    #expect(bound == "100000 100000" && !FileSystem.exists(record))
    try scratch.write("no record", to: "record")
    let unknown = #expect(throws: SystemError.self) {
      try LeftThrottle.restore(recordedIn: record, files: files)
    }
    #expect(unknown?.errno == .badMessage && FileSystem.exists(record))
    try scratch.write(ControlLine.bytes(of: known), to: "record", permissions: 0o666)
    let open = #expect(throws: SystemError.self) {
      try LeftThrottle.restore(recordedIn: record, files: files)
    }
    #expect(open?.errno == .notPermitted)
  }
}
