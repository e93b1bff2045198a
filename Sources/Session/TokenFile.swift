internal import Glibc
public import System
public import Wire

/// Why a token file cannot be used.
public enum TokenFileError: Error, Hashable, Sendable, CustomStringConvertible {
  /// It cannot be opened, read or made.
  case system(SystemError)
  /// Others can read it, so it is no secret.
  case notPrivate(path: String, permissions: UInt32)
  /// It belongs to another user, who could change it.
  case ownedByOther(path: String, user: UInt32)
  /// It has another length than a token.
  case wrongByteCount(path: String, byteCount: UInt64)
  /// It is a directory, device or pipe.
  case notAFile(path: String)

  /// One message with what to run.
  public var description: String {
    switch self {
    case .system(let error):
      error.errno == .noSuchEntry
        ? "there is no token file \(error.operand); make one on either host and copy it to the "
          + "other: postcopyctl token \(error.operand)"
        : "the token file: \(error)"
    case .notPrivate(let path, let permissions):
      "the token file \(path) can be read by other users (mode 0\(String(permissions, radix: 8))); "
        + "run: chmod 600 \(path)"
    case .ownedByOther(let path, let user):
      "the token file \(path) belongs to user \(user); run: chown \(geteuid()) \(path)"
    case .wrongByteCount(let path, let byteCount):
      "the token file \(path) has \(byteCount) bytes; a token has \(SessionToken.byteCount). Make "
        + "a new one and copy it to the other host: rm \(path) && postcopyctl token \(path)"
    case .notAFile(let path): "the token file \(path) is not a regular file"
    }
  }
}

/// The secret of a session in a file: 32 random bytes, readable for its owner alone.
public enum TokenFile {
  /// Reads the token. The checks are made on the open file, so that it cannot be exchanged behind
  /// them.
  public static func read(_ path: String) throws(TokenFileError) -> SessionToken {
    let status: FileStatus
    let bytes: [UInt8]
    do throws(SystemError) {
      // Non-blocking: a pipe of that name must not hang us.
      let file = try OwnedDescriptor.open(path, flags: O_RDONLY | O_NONBLOCK)
      status = try FileStatus.of(file)
      guard status.isRegularFile else { throw SystemError("read", path, .invalidArgument) }
      bytes = try file.read(byteCount: SessionToken.byteCount + 1, atOffset: 0, operand: path)
    } catch {
      throw error.errno == .invalidArgument ? .notAFile(path: path) : .system(error)
    }
    guard status.ownerUser == geteuid() || status.ownerUser == 0 else {
      throw .ownedByOther(path: path, user: status.ownerUser)
    }
    guard status.permissions & 0o077 == 0 else {
      throw .notPrivate(path: path, permissions: status.permissions)
    }
    guard let token = SessionToken(bytes: bytes) else {
      throw .wrongByteCount(path: path, byteCount: status.byteCount)
    }
    return token
  }

  /// Makes a token in a new file of mode 0600. A file that exists is left alone: EEXIST.
  public static func create(_ path: String) throws(TokenFileError) {
    do throws(SystemError) {
      let bytes = try RandomBytes.make(SessionToken.byteCount)
      let file = try OwnedDescriptor.open(
        path, flags: O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
      do throws(SystemError) {
        try file.writeAll(bytes, atOffset: 0, operand: path)
        try file.synchronize(operand: path)
      } catch {
        // Half a token is none, and the name is ours: we made it.
        try? FileSystem.removeFile(path)
        throw error
      }
    } catch {
      throw .system(error)
    }
  }
}
