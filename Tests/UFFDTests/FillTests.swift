import Glibc
import Pages
import System
import Testing
import UFFD

@Suite struct FillTests {
  @Test func copyInstallsAndAnswersEachState() throws {
    let descriptor = try UserfaultDescriptor(requiring: [.removeEvents, .threadIDs])
    let uffd = descriptor.handle
    let memory = try MemoryMapping(anonymousByteCount: 4 * 4096)
    let base = unsafe HostAddress(memory.base)
    let range = HostRange(start: base, byteCount: ByteCount(4 * 4096))
    let operations = try uffd.register(range, modes: .missing)
    #expect(operations.contains([.copy, .zero, .wake]))
    let page = [UInt8](repeating: 7, count: 4096)
    unsafe #expect(try uffd.copy(page.span.bytes, to: base) == .complete)
    unsafe #expect(try uffd.copy(page.span.bytes, to: base) == .exists)
    let second = HostRange(start: base.advanced(by: ByteCount(4096)), byteCount: ByteCount(4096))
    #expect(try uffd.zero(second) == .complete)
    var buffer = UserfaultMessageBuffer()
    #expect(try uffd.read(into: &buffer) == 0)
    unsafe #expect(memory.bytes[0] == 7)
    unsafe #expect(memory.bytes[4096] == 0)
    #expect(try descriptor.status().waitingFaultCount == 0)
    #expect(descriptor.features == [.removeEvents, .threadIDs])
    let copy = try UserfaultDescriptor(adopting: descriptor.duplicate())
    #expect(copy.features == [.removeEvents, .threadIDs])
  }
}
