import Glibc
import System
import Testing
import Uring

@testable import Session

@Suite struct TLSDirectoryTests {
  private func store() throws -> (ScratchDirectory, String) {
    let scratch = try ScratchDirectory()
    let path = "\(scratch.path)/certificates"
    try CertificateStore.make(path, hosts: [["source", "10.0.0.1"], ["target"]], days: 2)
    return (scratch, path)
  }

  private func failure(_ path: String) -> TLSDirectoryError? {
    do throws(TLSDirectoryError) {
      _ = try TLSDirectory.load(path)
      return nil
    } catch { return error }
  }

  private func replace(_ path: String, _ bytes: [UInt8], mode: UInt32 = 0o600) throws {
    let file = try OwnedDescriptor.open(path, flags: O_WRONLY | O_TRUNC | O_CREAT, mode: mode)
    try file.writeAll(bytes, atOffset: 0, operand: path)
  }

  @Test func whatIsMadeCanBeUsedAndIsPrivate() throws {
    let (scratch, path) = try store()
    defer { withExtendedLifetime(scratch) {} }
    for host in ["source", "target"] {
      #expect(failure("\(path)/\(host)") == nil)
      #expect(try FileStatus.of(path: "\(path)/\(host)/key.pem").permissions == 0o600)
      #expect(try FileStatus.of(path: "\(path)/\(host)").permissions == 0o700)
    }
    #expect(try FileStatus.of(path: "\(path)/ca-key.pem").permissions == 0o600)
    // The same authority signs a third; a host that is there is left alone.
    try CertificateStore.make(path, hosts: [["third"]], days: 2)
    #expect(failure("\(path)/third") == nil)
    #expect(
      try TLSDirectory.read("\(path)/third/ca.pem", isSecret: false)
        == TLSDirectory.read("\(path)/source/ca.pem", isSecret: false))
    #expect(throws: TLSDirectoryError.self) {
      try CertificateStore.make(path, hosts: [["third"]], days: 2)
    }
  }

  @Test(arguments: ["", "..", "a/b", "a,DNS:b", "x y", ".", "a..b"])
  func namesThatAreNoneAreRefused(_ name: String) throws {
    let scratch = try ScratchDirectory()
    let error = #expect(throws: TLSDirectoryError.self) {
      try CertificateStore.make("\(scratch.path)/c", hosts: [[name]], days: 2)
    }
    #expect(error == .contents(directory: "\(scratch.path)/c", .badPeerName(name)))
  }

  @Test func whatOthersMayReadOrChangeIsRefused() throws {
    let (scratch, path) = try store()
    defer { withExtendedLifetime(scratch) {} }
    let key = "\(path)/source/key.pem"
    #expect(unsafe chmod(key, 0o640) == 0)
    #expect(failure("\(path)/source") == .keyNotPrivate(path: key, permissions: 0o640))
    #expect(unsafe chmod(key, 0o600) == 0)
    let authority = "\(path)/source/ca.pem"
    #expect(unsafe chmod(authority, 0o666) == 0)
    #expect(
      failure("\(path)/source") == .changeableByOthers(path: authority, permissions: 0o666))
  }

  @Test func whatIsMissingOrNoFileIsNamed() throws {
    let (scratch, path) = try store()
    defer { withExtendedLifetime(scratch) {} }
    let certificate = "\(path)/source/certificate.pem"
    try FileSystem.removeFile(certificate)
    #expect(failure("\(path)/source")?.description.contains(certificate) == true)
    try FileSystem.createDirectories(certificate, permissions: 0o700)
    #expect(failure("\(path)/source") == .notAFile(path: certificate))
    let large = "\(path)/target/ca.pem"
    try replace(large, [UInt8](repeating: 10, count: TLSDirectory.maximumByteCount + 1))
    #expect(failure("\(path)/target") == .notAFile(path: large))
  }

  @Test func whatDoesNotGoTogetherIsNamed() throws {
    let (scratch, path) = try store()
    defer { withExtendedLifetime(scratch) {} }
    let source = "\(path)/source"
    let key = try TLSDirectory.read("\(source)/key.pem", isSecret: true)
    try replace("\(source)/key.pem", TLSDirectory.read("\(path)/target/key.pem", isSecret: true))
    #expect(failure(source) == .contents(directory: source, .keyMismatch))
    try replace("\(source)/key.pem", Array("no key\n".utf8))
    #expect(failure(source) == .contents(directory: source, .unreadable(.key)))
    try replace("\(source)/key.pem", key)
    #expect(failure(source) == nil)
    let other = "\(scratch.path)/other"
    try CertificateStore.make(other, hosts: [["x"]], days: 2)
    try replace("\(source)/ca.pem", TLSDirectory.read("\(other)/ca.pem", isSecret: false))
    #expect(
      failure(source) == .contents(directory: source, .ownCertificate(.otherAuthority)))
    try replace("\(source)/ca.pem", [])
    #expect(failure(source) == .contents(directory: source, .unreadable(.authority)))
  }

  @Test func aCertificateThatIsOverOrNotYetBegunIsNamed() throws {
    let scratch = try ScratchDirectory()
    let authority = try CertificateMaker.makeAuthority(named: "a", .days(1))
    let spans: [(CertificateFault, CertificateMaker.Validity)] = [
      (.expired, .init(fromSeconds: -7200, untilSeconds: -3600)),
      (.notYetValid, .init(fromSeconds: 3600, untilSeconds: 7200)),
    ]
    for (fault, validity) in spans {
      let host = try CertificateMaker.makeHost(names: ["x"], validity, signedBy: authority)
      try replace("\(scratch.path)/ca.pem", authority.certificate)
      try replace("\(scratch.path)/certificate.pem", host.certificate)
      try replace("\(scratch.path)/key.pem", host.key)
      #expect(
        failure(scratch.path) == .contents(directory: scratch.path, .ownCertificate(fault)))
    }
  }
}
