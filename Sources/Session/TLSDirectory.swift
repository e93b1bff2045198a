internal import Glibc
public import System
public import Uring

/// Why a directory of certificates cannot be used.
public enum TLSDirectoryError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A file cannot be opened, read or made.
  case system(SystemError)
  /// Others can read the private key.
  case keyNotPrivate(path: String, permissions: UInt32)
  /// Others can change whom we trust, or who we are.
  case changeableByOthers(path: String, permissions: UInt32)
  /// It belongs to another user, who could change it.
  case ownedByOther(path: String, user: UInt32)
  /// It is a directory, device or pipe, or longer than any certificate.
  case notAFile(path: String)
  /// What the files hold does not go together, or is no longer or not yet valid.
  case contents(directory: String, TLSContextError)

  /// One message with what to do.
  public var description: String {
    switch self {
    case .system(let error):
      error.errno == .noSuchEntry
        ? "there is no \(error.operand); --tls takes a directory with ca.pem, certificate.pem and "
          + "key.pem, as postcopyctl certificates makes one for each host"
        : "the certificates: \(error)"
    case .keyNotPrivate(let path, let permissions):
      "the private key \(path) can be read by other users (mode 0"
        + "\(String(permissions, radix: 8))); run: chmod 600 \(path), and make a new one if "
        + "anybody may have read it"
    case .changeableByOthers(let path, let permissions):
      "\(path) can be changed by other users (mode 0\(String(permissions, radix: 8))); "
        + "run: chmod go-w \(path)"
    case .ownedByOther(let path, let user):
      "\(path) belongs to user \(user); run: chown \(geteuid()) \(path)"
    case .notAFile(let path):
      "\(path) is no regular file of at most \(TLSDirectory.maximumByteCount) bytes"
    case .contents(let directory, let error): "\(directory): \(error)"
    }
  }
}

/// A host's directory of certificates: `ca.pem`, whom it trusts; `certificate.pem`, who it is;
/// `key.pem`, the proof.
public enum TLSDirectory {
  /// Eight certificates with all that tools write around them.
  static let maximumByteCount = 65_536

  static let authorityName = "ca.pem"
  static let certificateName = "certificate.pem"
  static let keyName = "key.pem"

  /// Reads the three files. `peerName`: whom the peer's certificate must be made out for.
  public static func load(
    _ directory: String, peerName: String? = nil
  ) throws(TLSDirectoryError) -> TLSContext {
    let authority = try read("\(directory)/\(authorityName)", isSecret: false)
    let certificate = try read("\(directory)/\(certificateName)", isSecret: false)
    let key = try read("\(directory)/\(keyName)", isSecret: true)
    do throws(TLSContextError) {
      return try TLSContext(
        authority: authority, certificate: certificate, key: key, peerName: peerName)
    } catch { throw .contents(directory: directory, error) }
  }

  /// The checks are made on the open file, so that it cannot be exchanged behind them.
  static func read(_ path: String, isSecret: Bool) throws(TLSDirectoryError) -> [UInt8] {
    let status: FileStatus
    let bytes: [UInt8]
    do throws(SystemError) {
      // Non-blocking: a pipe of that name must not hang us.
      let file = try OwnedDescriptor.open(path, flags: O_RDONLY | O_NONBLOCK)
      status = try FileStatus.of(file)
      guard status.isRegularFile else { throw SystemError("read", path, .invalidArgument) }
      bytes = try file.read(byteCount: maximumByteCount + 1, atOffset: 0, operand: path)
    } catch {
      throw error.errno == .invalidArgument ? .notAFile(path: path) : .system(error)
    }
    guard bytes.count <= maximumByteCount else { throw .notAFile(path: path) }
    guard status.ownerUser == geteuid() || status.ownerUser == 0 else {
      throw .ownedByOther(path: path, user: status.ownerUser)
    }
    if isSecret, status.permissions & 0o077 != 0 {
      throw .keyNotPrivate(path: path, permissions: status.permissions)
    }
    guard status.permissions & 0o022 == 0 else {
      throw .changeableByOthers(path: path, permissions: status.permissions)
    }
    return bytes
  }
}

/// Makes an authority and the directories of hosts: for tests, first use, and whoever has no
/// authority of his own.
public enum CertificateStore {
  /// Beside the directories of the hosts, for none of which it is.
  static let authorityKeyName = "ca-key.pem"
  /// Ten years: replacing an authority means touching every host.
  private static let authorityDays = 3650

  /// Makes `directory`, with an authority unless one is there, and one directory for each host,
  /// named after the first of its names. A host that is there already is an error (EEXIST).
  public static func make(
    _ directory: String, hosts: [[String]], days: Int
  ) throws(TLSDirectoryError) {
    do throws(SystemError) {
      try FileSystem.createDirectories(directory, permissions: 0o700)
    } catch { throw .system(error) }
    let authority = try self.authority(in: directory)
    for names in hosts {
      let host: CertifiedKey
      do throws(TLSContextError) {
        host = try CertificateMaker.makeHost(names: names, .days(days), signedBy: authority)
      } catch { throw .contents(directory: directory, error) }
      let path = "\(directory)/\(names[0])"
      do throws(SystemError) {
        try FileSystem.createDirectories(path, permissions: 0o700)
        // The key last: with it the directory is whole.
        try write(authority.certificate, to: "\(path)/\(TLSDirectory.authorityName)", mode: 0o644)
        try write(host.certificate, to: "\(path)/\(TLSDirectory.certificateName)", mode: 0o644)
        try write(host.key, to: "\(path)/\(TLSDirectory.keyName)", mode: 0o600)
      } catch { throw .system(error) }
    }
  }

  private static func authority(
    in directory: String
  ) throws(TLSDirectoryError) -> CertifiedKey {
    let certificatePath = "\(directory)/\(TLSDirectory.authorityName)"
    let keyPath = "\(directory)/\(authorityKeyName)"
    do throws(TLSDirectoryError) {
      return CertifiedKey(
        certificate: try TLSDirectory.read(certificatePath, isSecret: false),
        key: try TLSDirectory.read(keyPath, isSecret: true))
    } catch {
      guard case .system(let cause) = error, cause.errno == .noSuchEntry else { throw error }
    }
    let authority: CertifiedKey
    do throws(TLSContextError) {
      authority = try CertificateMaker.makeAuthority(
        named: "postcopy authority", .days(authorityDays))
    } catch { throw .contents(directory: directory, error) }
    do throws(SystemError) {
      try write(authority.key, to: keyPath, mode: 0o600)
      try write(authority.certificate, to: certificatePath, mode: 0o644)
    } catch { throw .system(error) }
    return authority
  }

  /// A new file: what exists is left alone (EEXIST).
  private static func write(
    _ bytes: [UInt8], to path: String, mode: UInt32
  ) throws(SystemError) {
    let file = try OwnedDescriptor.open(
      path, flags: O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: mode)
    do throws(SystemError) {
      try file.writeAll(bytes, atOffset: 0, operand: path)
      try file.synchronize(operand: path)
    } catch {
      // Half a file is none, and the name is ours: we made it.
      try? FileSystem.removeFile(path)
      throw error
    }
  }
}
