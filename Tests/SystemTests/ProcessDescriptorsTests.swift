import Glibc
import Testing

@testable import System

@Suite struct ProcessDescriptorsTests {
  @Test func aFileThatIsOpenForDirectIOIsFound() throws {
    let path = "/tmp/postcopy-direct-io-\(getpid())"
    let file = try OwnedDescriptor.open(path, flags: O_RDWR | O_CREAT | O_DIRECT)
    defer { try? FileSystem.removeFile(path) }
    #expect(try ProcessDescriptors.hasDirectIO(pid: getpid()))
    withExtendedLifetime(file.rawValue) {}
  }

  /// Texts of /proc/PID/fdinfo, Linux 6.18.
  @Test(
    arguments: [
      ("pos:\t0\nflags:\t02100002\nmnt_id:\t15\n", false),
      ("pos:\t0\nflags:\t02140002\nmnt_id:\t15\n", true),
      ("flags:\t02000002\nSqMask:\t0x1f\nUserFiles:\t0\nUserBufs:\t0\n", false),
      ("flags:\t02000002\nUserFiles:\t0\nUserBufs:\t2\n", true),
      ("flags:\t02000002\nUserFiles:\t1\nUserBufs:\t0\n", true),
      ("flags:\twhat\n", true),
    ])
  func fdinfoIsRead(text: String, isUnseen: Bool) {
    #expect(ProcessDescriptors.mayWriteUnseen(text) == isUnseen)
  }

  @Test func aProcessThatIsGoneIsAnError() {
    #expect(throws: SystemError.self) {
      _ = try ProcessDescriptors.hasDirectIO(pid: .max)
    }
  }
}
