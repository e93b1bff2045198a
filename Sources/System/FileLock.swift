internal import CLinux
internal import Glibc
internal import Pages

/// An exclusive lock that the kernel gives back when its holder dies: flock(2) on a small file that
/// says, for a person, who holds it.
public struct FileLock: ~Copyable, Sendable {
  /// Bounds the holder's line that is read back from the file.
  public static let maximumHolderByteCount = 512

  private let file: OwnedDescriptor

  /// Whether the lock was taken, or by whom it is held.
  public enum Outcome: ~Copyable, Sendable {
    /// It is ours as long as the value lives.
    case taken(FileLock)
    /// Somebody else has it; the line is what the holder wrote, empty when it had no time to.
    case held(holder: String)
  }

  private init(file: consuming OwnedDescriptor) { self.file = file }

  /// The lock belongs to the open file, not to the descriptor: a child that is between its fork and
  /// its exec has a copy of every descriptor, and would keep the lock until then (flock(2)).
  deinit { _ = flock(file.rawValue, LOCK_UN) }

  /// Locks an open file for as long as it is open anywhere, without waiting; false when somebody
  /// else has the lock. `operand` names the file in the error.
  public static func lock(
    _ file: borrowing OwnedDescriptor, operand: String
  ) throws(SystemError) -> Bool {
    if flock(file.rawValue, LOCK_EX | LOCK_NB) == 0 { return true }
    let reason = Errno.current
    guard reason == .tryAgain else { throw SystemError("flock", operand, reason) }
    return false
  }

  /// Whether somebody has the lock of the file at `path`, seen without touching it (/proc/locks of
  /// proc(5)): whoever wants it meanwhile gets it.
  public static func isHeld(_ path: String) -> Bool {
    guard let inode = try? FileStatus.of(path: path).inode,
      let locks = try? FileSystem.contents(ofSmallFile: "/proc/locks")
    else { return false }
    // Not by the device as well, which file systems on others tell in two ways.
    return String(decoding: locks, as: UTF8.self).split(separator: "\n").contains { line in
      let fields = line.split(separator: " ")
      return fields.contains("FLOCK") && fields.contains { $0.hasSuffix(":\(inode)") }
    }
  }

  /// Takes the lock of the file at `path`, made when missing, without waiting for it. `holder` is
  /// one line such as "pid 42". The file is never removed: removing it would let two hold it.
  public static func take(_ path: String, holder: String) throws(SystemError) -> Outcome {
    let file = try OwnedDescriptor.open(path, flags: O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
    guard try lock(file, operand: path) else {
      let line = try file.read(
        byteCount: maximumHolderByteCount, atOffset: 0, operand: path)
      return .held(holder: String(decoding: line.prefix { $0 != 0x0A }, as: UTF8.self))
    }
    try file.setByteCount(0, operand: path)
    try file.writeAll(
      Array(holder.utf8.prefix(maximumHolderByteCount - 1)) + [0x0A], atOffset: 0, operand: path)
    return .taken(FileLock(file: file))
  }
}
