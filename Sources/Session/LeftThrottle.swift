internal import Pages
internal import System

/// What came of a bound that a dead process has left lowered.
public enum LeftThrottleNote: Hashable, Sendable {
  /// The group has its own bound again.
  case restored(group: String)
  /// It may be lowered still.
  case stuck(String)
}

/// A bound that processes which are gone have left lowered.
public enum LeftThrottle {
  /// A keeper whose worker has died puts the bound back at once.
  static let keeperNanoseconds: UInt64 = 5_000_000_000
  /// What is killed ends in less, unless it waits for a disk.
  static let deathNanoseconds: UInt64 = 1_000_000_000

  /// Puts back what an earlier session of this VM has left. Call it with the VM's lock held: its
  /// keeper, if it lives, is nobody's then, and is ended.
  public static func restore(ofVM name: VMName, in directory: StateDirectory) -> [LeftThrottleNote]
  {
    let owner = directory.throttleOwner(ofVM: name)
    return directory.throttleRecordPaths().compactMap { path in
      // What cannot be read is told where it is in the way: by the group's own name.
      guard let record = try? ThrottleRecordFile.read(path), record.owner == owner else {
        return nil
      }
      return note(path, endingKeeperAfter: keeperNanoseconds)
    }
  }

  /// Puts back what a session under another name, or with another state directory, has left of the
  /// groups that a VMM is in. A keeper that lives is left alone.
  public static func restore(
    aroundVMM pid: Int32, in directory: StateDirectory
  ) -> [LeftThrottleNote] {
    directory.throttleRecordPaths(aroundVMM: pid).compactMap { note($0, endingKeeperAfter: nil) }
  }

  /// What there is to be told of the groups that a VMM is in; changes nothing.
  public static func finding(aroundVMM pid: Int32, in directory: StateDirectory) -> String? {
    for path in directory.throttleRecordPaths(aroundVMM: pid) {
      do throws(SystemError) {
        guard let record = try ThrottleRecordFile.read(path) else { continue }
        let keeper = record.keeper.identity
        return keeper.isAlive
          ? "process \(keeper.pid) slows control group \(record.group.path) down"
          : "control group \(record.group.path) was left slow by a migration that died, and send "
            + "puts its bound back"
      } catch {
        return "a control group of the VMM may have been left slow: \(error)"
      }
    }
    return nil
  }

  private static func note(
    _ path: String, endingKeeperAfter nanoseconds: UInt64?
  ) -> LeftThrottleNote? {
    do throws(ThrottleError) {
      return try restore(recordedIn: path, endingKeeperAfter: nanoseconds)
        .map { .restored(group: $0) }
    } catch {
      return .stuck(
        "the VM's control group may have less processor time still than it had before an earlier "
          + "migration: \(error)")
    }
  }

  /// Puts the bound back that the record in that file tells of, and removes the file. The group, if
  /// its bound was changed by that. Its keeper is given so long to do it itself, and is ended then;
  /// nil: it is left alone. After an error the file stays.
  static func restore(
    recordedIn path: String, files: HostFiles = HostFiles(),
    endingKeeperAfter nanoseconds: UInt64?, deathNanoseconds: UInt64 = deathNanoseconds
  ) throws(ThrottleError) -> String? {
    guard let seen = try read(path) else { return nil }
    let isEnded =
      nanoseconds.map { endKeeper(seen.keeper.identity, after: $0, deathNanoseconds) } ?? false
    let lock: ThrottledGroupLock?
    do throws(ThrottleError) {
      lock = try ThrottledGroupLock.take(seen.group, files: files)
    } catch {
      // One that was killed and cannot end yet has the lock, and does no step more.
      guard isEnded, case .busy = error else { throw error }
      lock = nil
    }
    defer { withExtendedLifetime(lock) {} }
    // The keeper may have done it meanwhile.
    guard var record = try read(path), record.group == seen.group else { return nil }
    guard lock != nil || record.keeper == seen.keeper else {
      throw .busy(group: record.group.path)
    }
    let isRestored = try record.restore(recordedIn: path, files: files)
    do throws(SystemError) { try FileSystem.removeFile(path) } catch { throw .system(error) }
    return isRestored ? record.group.path : nil
  }

  private static func read(_ path: String) throws(ThrottleError) -> ThrottleRecord? {
    do throws(SystemError) { return try ThrottleRecordFile.read(path) } catch {
      throw .system(error)
    }
  }

  /// Waits for the end of a keeper, which nobody tells anything any more, and sees to it. Whether
  /// it does no step more.
  private static func endKeeper(
    _ identity: ProcessIdentity, after nanoseconds: UInt64, _ deathNanoseconds: UInt64
  ) -> Bool {
    guard let keeper = try? ProcessHandle.open(pid: identity.pid), keeper.identity == identity
    else { return !identity.isAlive }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: nanoseconds)
    guard !keeper.waitUntilEnded(deadline: deadline) else { return true }
    // One that stands still must not wake up and change what is restored here.
    guard (try? keeper.kill()) != nil else { return false }
    let last = MonotonicClock.now().advanced(byNanoseconds: deathNanoseconds)
    _ = keeper.waitUntilEnded(deadline: last)
    return true
  }
}

extension StateDirectory {
  /// Beyond that somebody else makes files there.
  private static let maximumThrottleRecordCount = 4096

  private var throttlePath: String { "\(runPath)/throttle" }

  /// Makes the directory of the records, for this user alone.
  public func prepareThrottleRecords() throws(StateError) {
    try Self.makePrivate(runPath)
    try Self.makePrivate(throttlePath)
  }

  /// What is changed of a control group's bound, while it is: under the group's own number, so that
  /// every session finds it that has to do with that group.
  public func throttleRecordPath(of group: ThrottledGroup) -> String {
    throttleRecordPath(inode: group.inode, isVersion2: group.isVersion2)
  }

  private func throttleRecordPath(inode: UInt64, isVersion2: Bool) -> String {
    "\(throttlePath)/v\(isVersion2 ? 2 : 1)-\(inode)"
  }

  /// Whose VM a record is of: names are unique in one state directory.
  public func throttleOwner(ofVM name: VMName) -> String {
    let state = (try? FileSystem.resolvedPath(statePath)) ?? statePath
    return VMName.hash(state + "\n" + name.text)
  }

  fileprivate func throttleRecordPaths() -> [String] {
    ((try? FileSystem.entryNames(ofDirectory: throttlePath)) ?? [])
      .filter { !$0.hasSuffix(".new") }
      .prefix(Self.maximumThrottleRecordCount).map { "\(throttlePath)/\($0)" }
  }

  fileprivate func throttleRecordPaths(aroundVMM pid: Int32) -> [String] {
    ControlGroup.all(ofPID: pid, controller: "cpu", files: HostFiles()).compactMap { group in
      (try? FileStatus.of(path: group.path)).map {
        throttleRecordPath(inode: $0.inode, isVersion2: group.isVersion2)
      }
    }.filter { FileSystem.exists($0) }
  }
}
