public import Codec
public import Session
public import System

/// The parts of an export file, for messages.
public enum ExportPart: String, Hashable, Sendable {
  /// What it is and whose.
  case header
  /// Where each page is.
  case index
  /// The pages.
  case pages
  /// What shows that nothing is missing behind the pages.
  case trailer
}

/// Why an export cannot be written, or a file not be served.
public enum ExportError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A call on the file failed.
  case system(SystemError)
  /// Something has the name already.
  case exists(path: String)
  /// An export to this name is under way, or was killed.
  case unfinished(path: String)
  /// Told to stop.
  case stopped(path: String)
  /// The file system has no room.
  case noSpace(path: String, neededByteCount: UInt64, availableByteCount: UInt64)
  /// A directory, device or pipe.
  case notAFile(path: String)
  /// Not one of our files.
  case notAnExport(path: String)
  /// A release with another format wrote it.
  case otherVersion(path: String, version: UInt32)
  /// Guest memory in the clear that others can read.
  case notPrivate(path: String, permissions: UInt32)
  /// Guest memory in the clear that belongs to another user.
  case ownedByOther(path: String, user: UInt32)
  /// It ends too early.
  case truncated(path: String, byteCount: UInt64, expectedByteCount: UInt64)
  /// It goes on where it should end.
  case tooLong(path: String, byteCount: UInt64, expectedByteCount: UInt64)
  /// Its bytes are not those that were written.
  case damaged(path: String, ExportPart, offset: UInt64)
  /// Zeros stand where sealed bytes should: a copy that left a hole.
  case hole(path: String, ExportPart, offset: UInt64)
  /// The token does not belong to the session of the file.
  case otherToken(path: String)
  /// The checksums hold and the seal does not: changed on purpose, or put together from two files.
  case forged(path: String, ExportPart, offset: UInt64)
  /// The checksums hold and the content makes no sense: a bug of the release that wrote it.
  case inconsistent(path: String, reason: String)
  /// The source's memory cannot be read.
  case memory(MemoryError)
  /// The states of the destination's pages cannot be used.
  case awaited(PageStateFileError)
  /// libcrypto failed.
  case seal(SealError)

  /// What is wrong and what to do, for an operator.
  public var description: String {
    switch self {
    case .system(let error): "the export: \(error)"
    case .exists(let path): "\(path) exists; an export never replaces a file: name another one"
    case .unfinished(let path):
      "\(path) exists: an export to that name is under way or was killed; when none is, remove it"
    case .stopped(let path): "stopped: \(path) was not written"
    case .noSpace(let path, let needed, let available):
      "no room for \(path): it needs up to \(needed) bytes and \(available) are free; free "
        + "\(needed > available ? needed - available : 1) bytes or name another place"
    case .notAFile(let path): "\(path) is not a regular file"
    case .notAnExport(let path): "\(path) is no export of page-server"
    case .otherVersion(let path, let version):
      "\(path) has version \(version) of the export format, and this release reads version "
        + "\(ExportFormat.version); use the release that wrote it"
    case .notPrivate(let path, let permissions):
      "\(path) holds guest memory in the clear and can be read by other users (mode "
        + "0\(String(permissions, radix: 8))); run: chmod 600 \(path)"
    case .ownedByOther(let path, let user):
      "\(path) holds guest memory in the clear and belongs to user \(user); take it over with "
        + "chown before it is served"
    case .truncated(let path, let byteCount, let expected):
      "\(path) is cut off: it has \(byteCount) of \(expected) bytes; copy it again"
    case .tooLong(let path, let byteCount, let expected):
      "\(path) has \(byteCount) bytes, more than the \(expected) that were written; copy it again"
    case .damaged(let path, let part, let offset):
      "\(path) is damaged in its \(part.rawValue) at byte \(offset); copy it again"
    case .hole(let path, let part, let offset):
      "\(path) has a hole in its \(part.rawValue) at byte \(offset): the copy was not finished; "
        + "copy it again"
    case .otherToken(let path):
      "\(path) belongs to a session with another token; give the token file of that session"
    case .forged(let path, let part, let offset):
      "\(path) was changed in its \(part.rawValue) at byte \(offset) by someone who knew the "
        + "format, or was put together from two exports; trust only a new copy of the original"
    case .inconsistent(let path, let reason):
      "\(path) is sealed by its token and contradicts itself (\(reason)): a bug of the release "
        + "that wrote it"
    case .memory(let error): "\(error)"
    case .awaited(let error): "\(error)"
    case .seal(let error): "\(error)"
    }
  }
}
