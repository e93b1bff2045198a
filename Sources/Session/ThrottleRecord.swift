internal import FoundationEssentials
internal import Glibc
internal import Pages
public import System

/// What a keeper has changed of a control group's bound: enough for another process to put it back.
struct ThrottleRecord: Codable, Hashable, Sendable {
  /// The version of the file; another one is not read.
  static let currentVersion = 1

  var version = Self.currentVersion
  /// The boot in which it was written: groups do not outlive it.
  var boot: String
  /// Who puts the bound back as long as it lives.
  var keeper: SavedProcess
  var group: ThrottledGroup
  /// The bound that is not ours.
  var original: ProcessorBound
  /// The bounds of ours that may stand there: the last one, and the one that was to follow.
  var written: [ProcessorBound]

  /// Whether such a bound is one of ours.
  func isOurs(_ bound: ProcessorBound) -> Bool {
    written.contains { group.group.has(bound, asWritten: $0) }
  }

  /// Puts the original bound back, unless it is there, somebody else has set another one meanwhile,
  /// or the group is gone.
  func restore(files: HostFiles) throws(SystemError) {
    guard group.exists(files: files), let present = group.group.processorBound(files: files),
      isOurs(present)
    else { return }
    do throws(SystemError) {
      try group.group.write(original, files: files)
    } catch {
      // Removed a moment ago.
      guard group.exists(files: files) else { return }
      throw error
    }
  }
}

/// The file of a record: mode 0600, replaced whole, there only while a bound may be ours.
enum ThrottleRecordFile {
  /// Above any record: one path and a few numbers.
  private static let maximumByteCount = 1 << 14

  /// What the file says; nil when there is none, or it says nothing of this boot.
  static func read(_ path: String) throws(SystemError) -> ThrottleRecord? {
    let bytes: [UInt8]
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(path, flags: O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
      let status = try FileStatus.of(file)
      guard status.ownerUser == geteuid() || status.ownerUser == 0, status.permissions & 0o022 == 0
      else { throw SystemError("open", "\(path), which others may write", .notPermitted) }
      bytes = try file.read(byteCount: maximumByteCount, atOffset: 0, operand: path)
    } catch {
      if error.errno == .noSuchEntry { return nil }
      throw error
    }
    guard let record = try? JSONDecoder().decode(ThrottleRecord.self, from: Data(bytes)),
      record.version == ThrottleRecord.currentVersion
    else { throw SystemError("read", "\(path), which is no record of a bound", .badMessage) }
    return record.boot == (try BootID.current()).text ? record : nil
  }

  static func write(_ record: ThrottleRecord, to path: String) throws(SystemError) {
    try FileSystem.replaceFile(path, with: ControlLine.bytes(of: record), permissions: 0o600)
  }
}

/// A bound that processes which are gone have left lowered.
public enum LeftThrottle {
  /// A keeper whose worker has died puts the bound back at once.
  static let keeperNanoseconds: UInt64 = 5_000_000_000

  /// Puts the bound back that the record in that file tells of, and removes the file. Call it with
  /// the VM's lock held: nobody else then slows this VM down. The group whose bound it was; nil
  /// when nothing was left. After an error the file stays.
  public static func restore(recordedIn path: String) throws(SystemError) -> String? {
    try restore(recordedIn: path, files: HostFiles())
  }

  static func restore(
    recordedIn path: String, files: HostFiles, keeperNanoseconds: UInt64 = keeperNanoseconds
  ) throws(SystemError) -> String? {
    guard let seen = try ThrottleRecordFile.read(path) else {
      // Of an earlier boot.
      try FileSystem.removeFile(path)
      return nil
    }
    endKeeper(seen.keeper.identity, after: keeperNanoseconds)
    // The keeper may have done it meanwhile.
    guard let record = try ThrottleRecordFile.read(path) else { return nil }
    try record.restore(files: files)
    try FileSystem.removeFile(path)
    return record.group.path
  }

  /// Waits for the end of a keeper, which nobody tells anything any more, and sees to it.
  private static func endKeeper(_ identity: ProcessIdentity, after nanoseconds: UInt64) {
    guard let keeper = try? ProcessHandle.open(pid: identity.pid), keeper.identity == identity
    else { return }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: nanoseconds)
    guard !keeper.waitUntilEnded(deadline: deadline) else { return }
    // One that stands still must not wake up and change what is restored here.
    try? keeper.kill()
    let last = MonotonicClock.now().advanced(byNanoseconds: keeperNanoseconds)
    _ = keeper.waitUntilEnded(deadline: last)
  }
}

extension StateDirectory {
  /// What is changed of the bound of a VM's control group, while it is.
  public func throttleRecordPath(ofVM name: VMName) -> String {
    "\(path(ofVM: name))/source.throttle"
  }
}
