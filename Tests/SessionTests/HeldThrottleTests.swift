import System
import Testing

@testable import Session

@Suite("A bound that is lowered for a time")
struct HeldThrottleTests {
  private static let root = "/sys/fs/cgroup"
  private static let path = "/sys/fs/cgroup/vm"
  private let scratch: ScratchDirectory
  private let files: HostFiles
  private let group: ThrottledGroup
  private var throttle: HeldThrottle

  init() throws {
    scratch = try ScratchDirectory()
    files = HostFiles(root: scratch.path)
    try scratch.write("1\n", to: "sys/fs/cgroup/cgroup.procs")
    try scratch.write("max 100000\n", to: "sys/fs/cgroup/vm/cpu.max")
    group = ThrottledGroup(
      path: Self.path, isVersion2: true,
      inode: try FileStatus.of(path: scratch.path + Self.path).inode,
      hierarchyPath: Self.root,
      hierarchyInode: try FileStatus.of(path: scratch.path + Self.root).inode,
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
    try throttle.take(percent: 20, of: group, recordPath: record, owner: "vm")
    #expect(bound == "160000 100000" && throttle.isHeld)
    try throttle.take(percent: 30, of: group, recordPath: record, owner: "vm")
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
    try throttle.take(percent: 50, of: group, recordPath: record, owner: "vm")
    #expect(bound == "75000 100000")
    try set("60000 100000\n")
    try throttle.take(percent: 50, of: group, recordPath: record, owner: "vm")
    #expect(bound == "30000 100000")
    try set("30000 50000\n")
    try throttle.release()
    #expect(bound == "30000 50000" && !FileSystem.exists(record))
    try throttle.take(percent: 50, of: group, recordPath: record, owner: "vm")
    try throttle.release()
    #expect(bound == "30000 50000")
  }

  /// The group with another number: of another one of that name.
  private func other(inode: UInt64, hierarchyInode: UInt64) -> ThrottledGroup {
    ThrottledGroup(
      path: Self.path, isVersion2: true, inode: inode, hierarchyPath: Self.root,
      hierarchyInode: hierarchyInode, usableMicrosecondsPerSecond: 2_000_000)
  }

  private func left(_ change: (inout ThrottleRecord) -> Void) throws {
    var known = try #require(try ThrottleRecordFile.read(record))
    known.keeper = SavedProcess(ProcessIdentity(pid: Int32.max, startTicks: 1))
    change(&known)
    try ThrottleRecordFile.write(known, to: record)
  }

  @Test("of a group that was made anew is left alone, and nothing is told to be back")
  mutating func anotherGroup() throws {
    try throttle.take(percent: 50, of: group, recordPath: record, owner: "vm")
    let bound = bound
    throttle = HeldThrottle(
      keeper: try ProcessIdentity.current(), boot: try BootID.current(), files: files)
    let gone = other(inode: group.inode &+ 1, hierarchyInode: group.hierarchyInode)
    try left { $0.group = gone }
    let restored = try LeftThrottle.restore(
      recordedIn: record, files: files, endingKeeperAfter: nil)
    #expect(restored == nil && self.bound == bound && !FileSystem.exists(record))
    let error = #expect(throws: ThrottleError.self) {
      try throttle.take(percent: 20, of: gone, recordPath: record, owner: "vm")
    }
    #expect(error == .gone(group: Self.path))
  }

  @Test("of a group that cannot be seen stays recorded")
  mutating func unseen() throws {
    try throttle.take(percent: 50, of: group, recordPath: record, owner: "vm")
    let bound = bound
    throttle = HeldThrottle(
      keeper: try ProcessIdentity.current(), boot: try BootID.current(), files: files)
    func expectFailure(_ files: HostFiles) throws {
      let error = #expect(throws: ThrottleError.self) {
        try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil)
      }
      if case .system? = error {} else { Issue.record("\(String(describing: error))") }
      #expect(FileSystem.exists(record))
    }
    // Another hierarchy is mounted there, or none.
    let known = group
    try left {
      $0.group = other(inode: known.inode &+ 1, hierarchyInode: known.hierarchyInode &+ 1)
    }
    try expectFailure(files)
    try left { $0.group = other(inode: known.inode &+ 1, hierarchyInode: known.hierarchyInode) }
    try FileSystem.removeFile(scratch.path("sys/fs/cgroup/cgroup.procs"))
    try expectFailure(files)
    #expect(self.bound == bound)
    // It is there, and says what is no bound.
    try left { $0.group = known }
    // What is left is put back first.
    try throttle.take(percent: 20, of: group, recordPath: record, owner: "vm")
    #expect(self.bound == "160000 100000")
    try set("nonsense\n")
    #expect(throws: ThrottleError.self) { try throttle.release() }
    #expect(throttle.isHeld && FileSystem.exists(record))
  }

  @Test("is one process's at a time")
  mutating func busy() throws {
    try throttle.take(percent: 50, of: group, recordPath: record, owner: "vm")
    var second = HeldThrottle(
      keeper: try ProcessIdentity.current(), boot: try BootID.current(), files: files)
    let error = #expect(throws: ThrottleError.self) {
      try second.take(
        percent: 50, of: group, recordPath: scratch.path("second"), owner: "other")
    }
    #expect(error == .busy(group: Self.path))
    #expect(throws: ThrottleError.busy(group: Self.path)) {
      try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil)
    }
    #expect(bound == "100000 100000" && FileSystem.exists(record))
    try throttle.release()
    try second.take(percent: 20, of: group, recordPath: scratch.path("second"), owner: "other")
    try second.release()
    #expect(bound == "max 100000")
  }

  @Test("is put back from the file once, in this boot, and only from one that is ours")
  mutating func left() throws {
    #expect(
      try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil) == nil)
    try throttle.take(percent: 50, of: group, recordPath: record, owner: "vm")
    try left { _ in }
    var known = try #require(try ThrottleRecordFile.read(record))
    // Its keeper ends, and with it the lock.
    throttle = HeldThrottle(
      keeper: try ProcessIdentity.current(), boot: try BootID.current(), files: files)
    #expect(
      try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil)
        == Self.path)
    #expect(bound == "max 100000" && !FileSystem.exists(record))
    #expect(
      try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil) == nil)
    try set("100000 100000\n")
    known.boot = "another boot"
    known.version = 99
    try ThrottleRecordFile.write(known, to: record)
    #expect(
      try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil) == nil)
    #expect(bound == "100000 100000")
    try scratch.write("no record", to: "record")
    let unknown = #expect(throws: ThrottleError.self) {
      try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil)
    }
    #expect(
      "\(try #require(unknown))".contains("no record of a bound") && FileSystem.exists(record))
    try scratch.write(ControlLine.bytes(of: known), to: "record", permissions: 0o666)
    let open = #expect(throws: ThrottleError.self) {
      try LeftThrottle.restore(recordedIn: record, files: files, endingKeeperAfter: nil)
    }
    #expect("\(try #require(open))".contains("which others may write"))
  }
}
