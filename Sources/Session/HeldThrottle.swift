internal import Glibc
internal import System

/// Why a bound was not lowered, or not put back.
enum ThrottleError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A call failed; whatever is there is there still.
  case system(SystemError)
  /// Another process of ours has the group's bound.
  case busy(group: String)
  /// The group was removed.
  case gone(group: String)
  /// Somebody else changes the bound all the time.
  case contended(group: String)
  /// A group above allows less by now than there was (version 1): as much as it allows is there.
  case limited(group: String, quotaMicroseconds: UInt64)

  var description: String {
    switch self {
    case .system(let error): "\(error)"
    case .busy(let group): "another migration slows control group \(group) down"
    case .gone(let group): "control group \(group) is gone"
    case .contended(let group): "somebody else changes the bound of control group \(group)"
    case .limited(let group, let quota):
      "control group \(group) cannot have its bound of processor time back while a group above "
        + "it allows less; it has \(quota) microseconds in each period meanwhile"
    }
  }
}

/// That a group's bound is one process's to change: a lock of its directory, which ends with the
/// process.
final class ThrottledGroupLock: Sendable {
  private let directory: OwnedDescriptor

  private init(_ directory: consuming OwnedDescriptor) { self.directory = directory }

  /// nil: the group is gone.
  static func take(
    _ group: ThrottledGroup, files: HostFiles
  ) throws(ThrottleError) -> ThrottledGroupLock? {
    do throws(SystemError) {
      guard try group.exists(files: files) else { return nil }
      let directory = try OwnedDescriptor.open(
        files.root + group.path, flags: O_RDONLY | O_DIRECTORY)
      if try FileLock.lock(directory, operand: group.path) { return ThrottledGroupLock(directory) }
    } catch { throw .system(error) }
    throw .busy(group: group.path)
  }
}

/// What a keeper does to a group's bound: lowers it, and puts it back. The file comes before each
/// change, and goes behind the last.
struct HeldThrottle {
  /// A bound that is set from elsewhere more often than that has another master.
  private static let maximumAttemptCount = 3

  private struct Held {
    var record: ThrottleRecord
    let path: String
    let lock: ThrottledGroupLock
  }

  private let files: HostFiles
  private let keeper: SavedProcess
  private let boot: String
  /// What is changed now, and where that is recorded; nil for nothing.
  private var held: Held?

  init(keeper: ProcessIdentity, boot: BootID, files: HostFiles) {
    self.files = files
    self.keeper = SavedProcess(keeper)
    self.boot = boot.text
  }

  /// Whether a bound may be ours.
  var isHeld: Bool { held != nil }

  /// Takes so many percent from a group, in place of what was taken before. A bound that somebody
  /// else has set meanwhile is theirs from then on: the one to put back. `owner`: whose VM it is.
  mutating func take(
    percent: Int, of group: ThrottledGroup, recordPath: String, owner: String
  ) throws(ThrottleError) {
    if let held, held.record.group != group || held.path != recordPath { try release() }
    let lock = try lock(group, recordPath)
    for _ in 0..<Self.maximumAttemptCount {
      guard let present = try bound(of: group) else {
        try release()
        throw .gone(group: group.path)
      }
      var original = present
      var written: [ProcessorBound] = []
      if let record = held?.record, record.isOurs(present) {
        original = record.original
        // In version 1 the period may be another one by now.
        original.periodMicroseconds =
          group.isVersion2 ? original.periodMicroseconds : present.periodMicroseconds
        written = [present]
      }
      let next = original.slowed(
        byPercent: percent, usable: group.usableMicrosecondsPerSecond)
      guard next != present else { return }
      let record = ThrottleRecord(
        boot: boot, keeper: keeper, owner: owner, group: group, original: original,
        written: written + [next])
      do throws(SystemError) { try ThrottleRecordFile.write(record, to: recordPath) } catch {
        throw .system(error)
      }
      held = Held(record: record, path: recordPath, lock: lock)
      // Somebody may have set another one while the file was written: that is the one to keep.
      guard try bound(of: group) == present else { continue }
      do throws(SystemError) { try group.group.write(next, files: files) } catch {
        throw .system(error)
      }
      return
    }
    throw .contended(group: group.path)
  }

  /// Puts back what was there before. After an error it is held still.
  mutating func release() throws(ThrottleError) {
    guard let path = held?.path else { return }
    _ = try held?.record.restore(recordedIn: path, files: files)
    do throws(SystemError) { try FileSystem.removeFile(path) } catch { throw .system(error) }
    held = nil
  }

  private func lock(
    _ group: ThrottledGroup, _ recordPath: String
  ) throws(ThrottleError) -> ThrottledGroupLock {
    if let held { return held.lock }
    guard let lock = try ThrottledGroupLock.take(group, files: files) else {
      throw .gone(group: group.path)
    }
    // A bound of a keeper that was killed would be taken for the operator's.
    let left: ThrottleRecord?
    do throws(SystemError) { left = try ThrottleRecordFile.read(recordPath) } catch {
      throw .system(error)
    }
    if var left { _ = try left.restore(recordedIn: recordPath, files: files) }
    return lock
  }

  private func bound(of group: ThrottledGroup) throws(ThrottleError) -> ProcessorBound? {
    do throws(SystemError) { return try group.presentBound(files: files) } catch {
      throw .system(error)
    }
  }
}
