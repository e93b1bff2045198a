import CLinux
import Glibc
import Pages
import ProgramHarness
import System
import Testing
import UFFD

extension EndToEnd {
  /// VMMs whose description of their memory cannot be used. This process plays them; nothing of
  /// theirs is ever registered, and a refused VMM is never touched.
  @Suite("A VMM that attaches")
  struct AttachTests {
    private static func region(
      base: UInt64, size: UInt64, offset: UInt64, pageSize: UInt64 = 4096
    ) -> String {
      "{\"base_host_virt_addr\":\(base),\"size\":\(size),\"offset\":\(offset),"
        + "\"page_size\":\(pageSize),\"page_size_kib\":\(pageSize)}"
    }

    private static let base: UInt64 = 0x7000_0000_0000
    private static let size: UInt64 = 4 << 20

    static let documents: [(String, [String])] = [
      (
        "overlap",
        [
          region(base: base, size: size, offset: 0),
          region(base: base + 2 * size, size: size, offset: size - 4096),
        ]
      ),
      (
        "overlap in the VMM's addresses",
        [
          region(base: base, size: size, offset: 0),
          region(base: base + size - 4096, size: size, offset: size),
        ]
      ),
      ("base_host_virt_addr", [region(base: base + 512, size: size, offset: 0)]),
      ("size", [region(base: base, size: size - 512, offset: 0)]),
      ("1 GiB pages", [region(base: 1 << 45, size: 1 << 30, offset: 0, pageSize: 1 << 30)]),
      ("no base_host_virt_addr", ["{\"size\":4096,\"offset\":0}"]),
      ("not JSON", ["{\"size\":}"]),
      ("nothing mapped", [region(base: base, size: size, offset: 0)]),
    ]

    @Test("with memory that is no image is refused, and the source untouched", arguments: documents)
    func badDocuments(document: (word: String, regions: [String])) throws {
      let migration = try Migration()
      let receiver = try migration.startReceiver()
      try send("[\(document.regions.joined(separator: ","))]", to: migration.attachPath)
      try receiver.expectEnd(
        "refused", exitCode: 10, saying: document.word, destination: Phrase.untouched)
      try migration.expectSourceRunsOn()
    }

    @Test("with something else than an array is refused")
    func noArray() throws {
      let migration = try Migration()
      let receiver = try migration.startReceiver()
      try send("GET / HTTP/1.1\r\n\r\n", to: migration.attachPath)
      try receiver.expectEnd("refused", exitCode: 10, destination: Phrase.untouched)
      try migration.expectSourceRunsOn()
    }

    /// Says it with a userfaultfd that watches nothing.
    private func send(_ text: String, to path: String) throws {
      let userfault = try UserfaultDescriptor(requiring: [])
      let descriptor = try OwnedDescriptor(adopting: userfault.duplicate().release())
      let number = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      try #require(number >= 0)
      let owner = OwnedDescriptor(adopting: number)
      var address = sockaddr_un()
      let length = unsafe clinux_unix_address(path, &address)
      // unsafe: the address lives through the call, and its length is what was filled in.
      let result = unsafe withUnsafePointer(to: &address) {
        unsafe clinux_connect(number, UnsafeRawPointer($0), UInt32(length))
      }
      try #require(result == 0)
      let bytes = Array(text.utf8)
      // unsafe: both arrays live through the call, which gets their lengths.
      let count = unsafe clinux_send_with_descriptors(
        owner.rawValue, bytes, bytes.count, [descriptor.rawValue], 1)
      try #require(count == bytes.count)
    }
  }
}
