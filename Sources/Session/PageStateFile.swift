internal import Glibc
public import Pages
public import System
public import Wire

/// Why a file of page states cannot be used.
public enum PageStateFileError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A call on it failed. ENOSPC: the run directory's tmpfs is full.
  case system(SystemError)
  /// It is not on tmpfs: a disk would stall the fault path, and lie after a reboot.
  case notOnTmpfs(path: String)
  /// It belongs to another session or another image, or is cut: it says nothing about this VM.
  case foreign(path: String, reason: String)

  /// One message.
  public var description: String {
    switch self {
    case .system(let error):
      error.errno == .noSpace
        ? "no room for the page states: \(error); free space on that tmpfs" : "\(error)"
    case .notOnTmpfs(let path):
      "\(path) is not on tmpfs; page states must live in memory: mount a tmpfs at /dev/shm"
    case .foreign(let path, let reason):
      "\(path) does not hold this session's page states: \(reason)"
    }
  }
}

/// The state of each page of a session, one byte a page by flat index, in a file on tmpfs that
/// survives the death of all our processes: "removed" is known nowhere else.
///
/// The states stand at the start of the file, so that the mapping is nothing but states. Behind
/// them, from the next page border on, 64 bytes say whose they are:
/// `"PCPS" · version u32 · session high u64 · low u64 · page count u64 · zeros`.
/// All space is taken when the file is made: a store into the mapping cannot meet a full tmpfs,
/// which would be a SIGBUS on the fault path.
public enum PageStateFile {
  private static let identityByteCount = 64
  private static let borderByteCount = 4096
  private static let magic: UInt32 = 0x5350_4350
  private static let version: UInt32 = 1

  /// Makes the file, with every page in state 0 (missing), and maps it. EEXIST when there is one.
  public static func create(
    _ path: String, session: SessionID, pageCount: PageCount
  ) throws(PageStateFileError) -> MemoryMapping {
    invariant(pageCount.rawValue > 0, "an image has pages")
    var isOurs = false
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(
        path, flags: O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
      isOurs = true
      guard try FileSystem.isOnTmpfs(path) else {
        try FileSystem.removeFile(path)
        throw SystemError("statfs", path, .notSupported)
      }
      let offset = identityOffset(pageCount)
      try file.reserve(byteCount: offset + UInt64(identityByteCount), operand: path)
      // The identity comes last: a file that has one is whole.
      try file.writeAll(
        identity(session: session, pageCount: pageCount), atOffset: offset, operand: path)
      return try MemoryMapping(sharing: file, byteCount: Int(pageCount.rawValue))
    } catch {
      if isOurs { try? FileSystem.removeFile(path) }
      throw error.operation == "statfs" && error.errno == .notSupported
        ? .notOnTmpfs(path: path) : .system(error)
    }
  }

  /// Maps the file of a session that began earlier, after checking that it is this session's.
  public static func open(
    _ path: String, session: SessionID, pageCount: PageCount
  ) throws(PageStateFileError) -> MemoryMapping {
    let expected = identity(session: session, pageCount: pageCount)
    let offset = identityOffset(pageCount)
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(path, flags: O_RDWR | O_NOFOLLOW)
      let found = try file.read(byteCount: identityByteCount, atOffset: offset, operand: path)
      if found == expected {
        return try MemoryMapping(sharing: file, byteCount: Int(pageCount.rawValue))
      }
    } catch {
      throw .system(error)
    }
    throw .foreign(
      path: path,
      reason: "session \(session.text) with \(pageCount.rawValue) pages was expected")
  }

  /// Checks that an open file, which may be a copy on a disk, is a whole one of that session.
  /// EINVAL when it is not.
  public static func check(
    _ file: borrowing OwnedDescriptor, _ path: String, session: SessionID, pageCount: PageCount
  ) throws(SystemError) {
    let found = try file.read(
      byteCount: identityByteCount, atOffset: identityOffset(pageCount), operand: path)
    guard found == identity(session: session, pageCount: pageCount) else {
      throw SystemError("read", path, .invalidArgument)
    }
  }

  /// Rounded up to the next page border.
  private static func identityOffset(_ pageCount: PageCount) -> UInt64 {
    let border = UInt64(borderByteCount)
    return (pageCount.rawValue + border - 1) / border * border
  }

  private static func identity(session: SessionID, pageCount: PageCount) -> [UInt8] {
    var writer = JournalWriter()
    writer.append(magic)
    writer.append(version)
    writer.append(session.high)
    writer.append(session.low)
    writer.append(pageCount.rawValue)
    return writer.bytes + [UInt8](repeating: 0, count: identityByteCount - writer.bytes.count)
  }
}
