import Glibc
import Pages
import System
import Testing

@testable import UFFD

extension UFFDTests {
  @Suite struct FillTests {
    @Test(arguments: MemoryKind.allCases)
    func copyResolvesAMissingFault(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: .threadIDs)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: .missing)
      let page = memory.pages(1)
      let thread = try FaultingThread(loading: page.start)
      var events = EventReader(uffd)
      let fault = try events.nextFault()
      #expect(fault.address == page.start)
      #expect(fault.flags == [])
      #expect(fault.threadID != 0)
      #expect(try uffd.copy(memory.content(7), to: page.start) == .complete)
      #expect(try thread.value() == word(7))
      #expect(try uffd.copy(memory.content(8), to: page.start) == .exists)
      #expect(page.start.load() == word(7))
    }

    @Test(arguments: MemoryKind.allCases)
    func aWriteFaultSaysSo(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: [])
      let memory = try TestMemory(kind)
      _ = try descriptor.handle.register(memory.range, modes: .missing)
      let thread = try FaultingThread(storing: 5, to: memory.base)
      var events = EventReader(descriptor.handle)
      let fault = try events.nextFault()
      #expect(fault.flags == .write)
      #expect(fault.threadID == 0)
      #expect(try descriptor.handle.copy(memory.content(1), to: memory.base) == .complete)
      #expect(try thread.value() == 5)
      #expect(memory.base.load() == 5)
      #expect(memory.base.advanced(by: ByteCount(8)).load() == word(1))
    }

    @Test(arguments: MemoryKind.allCases)
    func zeropage(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      let operations = try uffd.register(memory.range, modes: .missing)
      #expect(operations.contains(.zero) == !kind.isHugetlb)
      let page = memory.pages(2)
      if kind.isHugetlb {
        #expect(throws: UFFDError(.zero, range: page, errno: .invalidArgument)) {
          try uffd.zero(page)
        }
        return
      }
      let thread = try FaultingThread(loading: page.start)
      var events = EventReader(uffd)
      #expect(try events.nextFault().address == page.start)
      #expect(try uffd.zero(page) == .complete)
      #expect(try thread.value() == 0)
      #expect(try uffd.zero(page) == .exists)
      #expect(try uffd.copy(memory.content(9), to: page.start) == .exists)
    }

    @Test(arguments: MemoryKind.allCases)
    func aRunOfPagesStopsAtOneThatIsThere(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: .missing)
      #expect(try uffd.copy(memory.content(1), to: memory.pages(2).start) == .complete)
      let outcome = try uffd.copy(memory.content(2, pageCount: 4), to: memory.base)
      #expect(outcome == .partial(memory.pages(0, count: 2).byteCount))
      #expect(
        try uffd.copy(memory.content(2, pageCount: 2), to: memory.pages(2).start) == .exists)
      #expect(try uffd.copy(memory.content(2), to: memory.pages(3).start) == .complete)
      #expect((0..<4).map { memory.pages($0).start.load() } == [2, 2, 1, 2].map(word))
    }

    @Test func badArgumentsAreThrownWithAllThatWasAsked() throws {
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      let memory = try TestMemory(.anonymous)
      _ = try uffd.register(memory.range, modes: .missing)
      let crooked = HostRange(start: memory.base, byteCount: ByteCount(100))
      #expect(throws: UFFDError(.zero, range: crooked, errno: .invalidArgument)) {
        try uffd.zero(crooked)
      }
      #expect(throws: UFFDError(.wake, range: crooked, errno: .invalidArgument)) {
        try uffd.wake(crooked)
      }
      let empty = HostRange(start: memory.base, byteCount: .zero)
      #expect(throws: UFFDError(.copy, range: empty, errno: .invalidArgument)) {
        try uffd.copy([], to: memory.base)
      }
      // The source of a copy is not mapped.
      let hole = try TestMemory(.anonymous, pageCount: 1)
      let source = unsafe UnsafeRawBufferPointer(start: hole.base.pointer, count: 4096)
      _ = hole.unmap(hole.range)
      #expect(throws: UFFDError(.copy, range: memory.pages(0), errno: .badAddress)) {
        try unsafe uffd.copy(source, to: memory.base)
      }
      #expect(try uffd.zero(memory.pages(0)) == .complete)
    }
  }
}
