internal import FoundationEssentials
internal import Glibc
internal import Pages
public import System

/// One life of one process, as it is saved.
public struct SavedProcess: Codable, Hashable, Sendable {
  /// The process id.
  public var pid: Int32
  /// When it started, in clock ticks since boot.
  public var startTicks: UInt64

  /// That process.
  public init(_ identity: ProcessIdentity) {
    pid = identity.pid
    startTicks = identity.startTicks
  }

  /// That process.
  public var identity: ProcessIdentity { ProcessIdentity(pid: pid, startTicks: startTicks) }
}

/// What a new process needs to go on with a session where all of ours died, beside the journal and
/// what the engine saves: the command's options. Names of files, never a secret.
public struct SavedSession: Codable, Hashable, Sendable {
  /// The version of the file; another one is not read.
  public static let currentVersion = 1

  /// The version that wrote it.
  public var version: Int
  /// The VM's name.
  public var vm: String
  /// "source" or "destination".
  public var side: String
  /// The boot in which it was written: processes and memory mean nothing in another one.
  public var boot: String
  /// The options of the command as they were given, without the verb.
  public var arguments: [String]
  /// Where relative paths among them begin.
  public var workingDirectory: String
  /// The parent of the worker that wrote it: it keeps descriptors as long as it lives.
  public var parent: SavedProcess?
  /// A session that has just begun.
  public init(
    vmName: VMName, side: JournalSide, boot: BootID, arguments: [String],
    workingDirectory: String
  ) {
    version = Self.currentVersion
    vm = vmName.text
    self.side = side.name
    self.boot = boot.text
    self.arguments = arguments
    self.workingDirectory = workingDirectory
  }
}

/// Why a saved session cannot be used.
public enum SavedSessionError: Error, Hashable, Sendable, CustomStringConvertible {
  /// There is none: no session of this VM was begun here, or it has ended.
  case none(path: String)
  /// It cannot be read or written.
  case system(SystemError)
  /// Its directory, or that of its control socket, cannot be used.
  case state(StateError)
  /// Others may have written it.
  case notPrivate(path: String)
  /// It is no saved session of this version.
  case notUnderstood(path: String)
  /// It is of another VM, whose name has the same short form.
  case foreign(path: String, vmName: String)
  /// It was written before the host was booted: the VM's memory is gone.
  case otherBoot(path: String)

  /// One message.
  public var description: String {
    switch self {
    case .none(let path): "no session is saved in \(path): none was begun, or it has ended"
    case .system(let error): "the saved session cannot be used: \(error)"
    case .state(let error): "\(error)"
    case .notPrivate(let path):
      "the saved session \(path) belongs to, or may be written by, another user"
    case .notUnderstood(let path):
      "\(path) is no saved session of this version of the program; say all options again"
    case .foreign(let path, let vmName): "\(path) is of VM \"\(vmName)\""
    case .otherBoot(let path):
      "the session in \(path) was before this host was booted: what was in memory is gone"
    }
  }
}

/// The file of a saved session: mode 0600, replaced whole.
public enum SavedSessionFile {
  /// Above any command line of ours.
  static let maximumByteCount = 1 << 18

  /// Reads and checks the file of that VM and side. `boot` is the present one; nil when only the
  /// options are wanted.
  public static func read(
    _ path: String, vmName: VMName, side: JournalSide, boot: BootID?
  ) throws(SavedSessionError) -> SavedSession {
    let status: FileStatus
    let bytes: [UInt8]
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(path, flags: O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
      status = try FileStatus.of(file)
      bytes = try file.read(byteCount: maximumByteCount + 1, atOffset: 0, operand: path)
    } catch {
      throw error.errno == .noSuchEntry ? .none(path: path) : .system(error)
    }
    guard status.ownerUser == geteuid() || status.ownerUser == 0, status.permissions & 0o022 == 0
    else { throw .notPrivate(path: path) }
    guard let saved = parse(bytes), saved.side == side.name else {
      throw .notUnderstood(path: path)
    }
    guard saved.vm == vmName.text else { throw .foreign(path: path, vmName: saved.vm) }
    if let boot, saved.boot != boot.text { throw .otherBoot(path: path) }
    return saved
  }

  /// Reads the file's content; nil when it is none of this version.
  package static func parse(_ bytes: [UInt8]) -> SavedSession? {
    guard bytes.count <= maximumByteCount,
      let saved = try? JSONDecoder().decode(SavedSession.self, from: Data(bytes)),
      saved.version == SavedSession.currentVersion
    else { return nil }
    return saved
  }

  /// The file's content.
  package static func bytes(of saved: SavedSession) -> [UInt8] { ControlLine.bytes(of: saved) }

  static func write(_ saved: SavedSession, to path: String) throws(SavedSessionError) {
    do throws(SystemError) {
      try FileSystem.replaceFile(path, with: bytes(of: saved), permissions: 0o600)
    } catch {
      throw .system(error)
    }
  }
}
