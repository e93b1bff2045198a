internal import FoundationEssentials
internal import Glibc
internal import Pages
internal import System

/// What a keeper has changed of a control group's bound: enough for another process to put it back.
struct ThrottleRecord: Codable, Hashable, Sendable {
  /// The version of the file; another one is not read.
  static let currentVersion = 1

  var version = Self.currentVersion
  /// The boot in which it was written: groups do not outlive it.
  var boot: String
  /// Who puts the bound back as long as it lives.
  var keeper: SavedProcess
  /// Whose VM it is: `StateDirectory.throttleOwner`.
  var owner: String
  var group: ThrottledGroup
  /// The bound that is not ours.
  var original: ProcessorBound
  /// The bounds of ours that may stand there: the last one, and the one that was to follow.
  var written: [ProcessorBound]

  /// Whether such a bound is one of ours.
  func isOurs(_ bound: ProcessorBound) -> Bool {
    written.contains { group.group.has(bound, asWritten: $0) }
  }

  /// Puts the original bound back, unless somebody else has set another one meanwhile, or the group
  /// is gone; whether it did. Where a group above allows less by now (version 1), it puts as much
  /// back as that allows, notes it in the file, and throws `limited`.
  mutating func restore(
    recordedIn path: String, files: HostFiles
  ) throws(ThrottleError) -> Bool {
    do throws(SystemError) {
      guard let present = try group.presentBound(files: files), isOurs(present) else {
        return false
      }
      do throws(SystemError) {
        try group.group.write(original, files: files)
        return true
      } catch {
        // Removed a moment ago.
        guard try group.exists(files: files) else { return false }
        guard error.errno == .invalidArgument, !group.isVersion2 else { throw error }
        let allowed = try group.allowed(original, files: files)
        guard let quota = allowed.quotaMicroseconds, allowed != original else { throw error }
        if let present = present.quotaMicroseconds, present < quota {
          written = [present, quota].map {
            ProcessorBound(
              quotaMicroseconds: $0, periodMicroseconds: allowed.periodMicroseconds)
          }
          try ThrottleRecordFile.write(self, to: path)
          try group.group.write(allowed, files: files)
        }
      }
    } catch { throw .system(error) }
    throw .limited(
      group: group.path, quotaMicroseconds: written.last?.quotaMicroseconds ?? 0)
  }
}

/// The file of a record: mode 0600, replaced whole, there only while a bound may be ours. It is in
/// memory, as the group is: nothing that a keeper does waits for a disk.
enum ThrottleRecordFile {
  /// What every version has.
  private struct Beginning: Decodable {
    let version: Int
    let boot: String
  }

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
    let unknown = SystemError("read", "\(path), which is no record of a bound", .badMessage)
    guard let beginning = try? JSONDecoder().decode(Beginning.self, from: Data(bytes)) else {
      throw unknown
    }
    // One of an earlier boot says nothing, whatever version it is.
    guard beginning.boot == (try BootID.current()).text else { return nil }
    guard beginning.version == ThrottleRecord.currentVersion,
      let record = try? JSONDecoder().decode(ThrottleRecord.self, from: Data(bytes))
    else { throw unknown }
    return record
  }

  static func write(_ record: ThrottleRecord, to path: String) throws(SystemError) {
    try FileSystem.replaceFile(
      path, with: ControlLine.bytes(of: record), permissions: 0o600, isDurable: false)
  }
}
