import CLiburing
import Glibc
import System
import Testing

@testable import Uring

/// What a ring cannot be made to do any more, by whoever gets hold of it: a seccomp filter does not
/// see a ring's operations.
@Suite(.timeLimit(.minutes(5)), .enabled(if: Machine.hasRing, "needs io_uring"))
struct RingRestrictionTests {
  @Test("A ring takes no new files, buffers, identities or restrictions once it is made")
  func registrations() async {
    // A process of its own: there, the one ring among the descriptors is the one of the test.
    await #expect(processExitsWith: .success) {
      var ring = try Ring(entryCount: 4, memoryByteCount: 4096)
      try ring.activate()
      let number = try #require((3..<64).first { Self.isRing($0) })
      for operation in [
        IORING_REGISTER_PERSONALITY, IORING_REGISTER_FILES, IORING_REGISTER_BUFFERS,
        IORING_REGISTER_EVENTFD, IORING_REGISTER_RESTRICTIONS,
      ] {
        let result = io_uring_register(UInt32(number), UInt32(operation), nil, 0)
        try #require(result == -EACCES, "\(operation) gave \(result)")
      }
      // What it is for still works.
      let event = try WakeEvent()
      event.signal()
      try ring.poll(event.rawValue, tag: RingTag(rawValue: 1))
      try ring.submitAndWait()
      var batch = CompletionBatch()
      ring.reap(into: &batch)
      try #require(batch.count == 1)
    }
  }

  private static func isRing(_ descriptor: Int32) -> Bool {
    var bytes = [UInt8](repeating: 0, count: 64)
    // unsafe: readlink fills at most as many bytes as the array has.
    let count = unsafe bytes.withUnsafeMutableBytes {
      unsafe readlink("/proc/self/fd/\(descriptor)", $0.baseAddress!, $0.count)
    }
    return count > 0
      && String(decoding: bytes.prefix(count), as: UTF8.self) == "anon_inode:[io_uring]"
  }
}
