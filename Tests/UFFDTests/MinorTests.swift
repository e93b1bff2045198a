import Glibc
import Pages
import System
import Testing

@testable import UFFD

private let minorFaults: UserfaultFeatures = [
  .minorSharedMemory, .minorHugetlb, .writeProtectFaults, .writeProtectSharedMemory,
]

extension UFFDTests {
  @Suite(.enabled(if: Machine.features.isSuperset(of: minorFaults), "needs minor faults"))
  struct MinorTests {
    @Test(arguments: MemoryKind.shared)
    func minor(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: minorFaults)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: .minor)
      let page = memory.pages(1)
      let alias = try memory.aliasAddress(1)
      alias.store(21)
      let thread = try FaultingThread(loading: page.start)
      var events = EventReader(uffd)
      let fault = try events.nextFault()
      #expect(fault == PageFault(address: page.start, flags: .minor, threadID: 0))
      // What is in the page cache at the time of the answer is what the thread sees.
      alias.store(22)
      #expect(try uffd.mapCached(page) == .complete)
      #expect(try thread.value() == 22)
      #expect(try uffd.mapCached(page) == .exists)
      // Nothing is in the page cache there.
      let hole = memory.pages(2)
      #expect(throws: UFFDError(.mapCached, range: hole, errno: .badAddress)) {
        try uffd.mapCached(hole)
      }
    }

    @Test(arguments: MemoryKind.shared)
    func minorWp(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: minorFaults)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: [.minor, .writeProtect])
      let page = memory.pages(1)
      try memory.aliasAddress(1).store(31)
      let thread = try FaultingThread(storing: 32, to: page.start)
      var events = EventReader(uffd)
      #expect(try events.nextFault().flags == [.write, .minor])
      #expect(try uffd.mapCached(page, writeProtected: true) == .complete)
      // It goes on, and stops again at the protection.
      #expect(try events.nextFault().flags == [.write, .writeProtected])
      #expect(page.start.load() == 31)
      #expect(try uffd.writeProtect(page, isProtected: false) == .complete)
      #expect(try thread.value() == 32)
      #expect(try memory.aliasAddress(1).load() == 32)
    }

    /// Receiving into the page cache is sound only with both modes: a page that is not there is
    /// missing, one that is there but not mapped is minor.
    @Test(arguments: MemoryKind.shared)
    func bothModesTellThePagesApart(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: minorFaults)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: [.missing, .minor])
      try memory.aliasAddress(0).store(41)
      var events = EventReader(uffd)
      let first = try FaultingThread(loading: memory.pages(0).start)
      #expect(try events.nextFault().flags == .minor)
      let second = try FaultingThread(loading: memory.pages(1).start)
      #expect(try events.nextFault().flags == [])
      #expect(try uffd.mapCached(memory.pages(0)) == .complete)
      #expect(try uffd.copy(memory.content(2), to: memory.pages(1).start) == .complete)
      #expect(try first.value() == 41)
      #expect(try second.value() == word(2))
    }
  }
}
