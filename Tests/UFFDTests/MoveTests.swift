import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

extension UFFDTests {
  @Suite(.enabled(if: Machine.features.contains(.move), "needs Linux 6.8"))
  struct MoveTests {
    @Test func move() throws {
      let descriptor = try UserfaultDescriptor(requiring: .move)
      let uffd = descriptor.handle
      let source = try TestMemory(.anonymous)
      let target = try TestMemory(.anonymous)
      _ = try uffd.register(target.range, modes: .missing)
      for index in [0, 1, 3] { source.pages(index).start.store(UInt64(100 + index)) }

      let page = target.pages(1)
      let thread = try FaultingThread(loading: page.start)
      var events = EventReader(uffd)
      #expect(try events.nextFault().address == page.start)
      #expect(try uffd.move(from: source.pages(1).start, to: page) == .complete)
      #expect(try thread.value() == 101)
      // The source is a hole now, and reads as zeros.
      #expect(source.pages(1).start.load() == 0)
      #expect(try uffd.move(from: source.pages(0).start, to: page) == .exists)

      // A hole at the source is an error, unless it is allowed: then the target stays missing.
      #expect(try uffd.move(from: source.pages(2).start, to: target.pages(2)) == .noMapping)
      let rest = target.pages(2, count: 2)
      #expect(
        try uffd.move(from: source.pages(2).start, to: rest, allowingHoles: true) == .complete)
      #expect(target.pages(3).start.load() == 103)
      #expect(try uffd.zero(target.pages(2)) == .complete)
    }

    /// A transparent huge page goes as one; moving half of it splits it first.
    @Test(arguments: [1.0, 0.5])
    func movePmd(part: Double) throws {
      let descriptor = try UserfaultDescriptor(requiring: .move)
      let uffd = descriptor.handle
      // Room for one aligned huge page wherever the mapping begins.
      let source = try TestMemory(.anonymous, pageCount: 1024)
      let target = try TestMemory(.anonymous, pageCount: 1024)
      #expect(source.range.advise(MADV_HUGEPAGE) == 0)
      #expect(target.range.advise(MADV_HUGEPAGE) == 0)
      let size = ByteCount(PageSize.huge.byteCount)
      let from = source.base.advanced(by: size).roundedDown(to: .huge)
      let place = target.base.advanced(by: size).roundedDown(to: .huge)
      from.store(7)
      let last = ByteCount(Int(Double(size.rawValue) * part) - 8)
      from.advanced(by: last).store(8)
      _ = try uffd.register(target.range, modes: .missing)
      let range = HostRange(start: place, byteCount: ByteCount(Int(Double(size.rawValue) * part)))
      #expect(try uffd.move(from: from, to: range) == .complete)
      #expect(place.load() == 7)
      #expect(place.advanced(by: last).load() == 8)
      #expect(from.load() == 0)
    }

    @Test func pagesThatAreSharedWithAChildAreNotMoved() throws {
      let descriptor = try UserfaultDescriptor(requiring: .move)
      let source = try TestMemory(.anonymous)
      let target = try TestMemory(.anonymous)
      _ = try descriptor.handle.register(target.range, modes: .missing)
      source.base.store(5)
      let child = uffdtest_fork_waiting()
      try #require(child > 0)
      let expected = UFFDError(
        .move(source: source.base), range: target.pages(0), errno: Errno(rawValue: EBUSY))
      #expect(throws: expected) {
        try descriptor.handle.move(from: source.base, to: target.pages(0))
      }
      kill(child, SIGKILL)
      #expect(uffdtest_wait(child) == -1)
      #expect(source.base.load() == 5)
    }

    @Test(arguments: [MemoryKind.shmem, .hugetlb])
    func onlyPrivatePagesCanBeMoved(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: .move)
      let source = try TestMemory(kind)
      let target = try TestMemory(kind)
      let operations = try descriptor.handle.register(target.range, modes: .missing)
      #expect(operations.contains(.move) == !kind.isHugetlb)
      source.base.store(5)
      let expected = UFFDError(
        .move(source: source.base), range: target.pages(0), errno: .invalidArgument)
      #expect(throws: expected) {
        try descriptor.handle.move(from: source.base, to: target.pages(0))
      }
    }
  }
}
