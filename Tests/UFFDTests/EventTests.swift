import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

private let allEvents: UserfaultFeatures = [
  .forkEvents, .remapEvents, .removeEvents, .unmapEvents,
]
private let protection: UserfaultFeatures = [.writeProtectFaults, .writeProtectSharedMemory]

extension UFFDTests {
  @Suite(.enabled(if: Machine.isPrivileged, "fork events need CAP_SYS_PTRACE"))
  struct EventTests {
    /// The kernel's events: fork, remap, remove, unmap, in this order, each from a thread that goes
    /// on when its message is read.
    @Test(arguments: MemoryKind.allCases)
    func events(_ kind: MemoryKind) throws {
      // The descriptor goes first at the end: an unmapping that it hears of would wait for a
      // reader.
      let memory = try TestMemory(kind, isMoved: true)
      let elsewhere = try TestMemory(kind)
      let descriptor = try UserfaultDescriptor(requiring: allEvents)
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: .missing)
      var reader = EventReader(uffd)

      let page = memory.pages(1)
      let fork = try FaultingThread {
        UInt64(bitPattern: Int64(uffdtest_fork_expecting(page.start.rawValue, word(3))))
      }
      #expect(try reader.next() == .fork)
      let child = try reader.takeForkedDescriptor()
      #expect(child.features == allEvents)
      let childID = pid_t(truncatingIfNeeded: try fork.value())
      var childReader = EventReader(child.handle)
      #expect(try childReader.nextFault().address == page.start)
      #expect(try child.handle.copy(memory.content(3), to: page.start) == .complete)
      #expect(uffdtest_wait_reading(childID, child.handle.rawValue) == 0)

      let source = memory.pages(0)
      let target = elsewhere.pages(2)
      memory.noteHole(source)
      let remap = try FaultingThread {
        UInt64(
          uffdtest_move_mapping(
            source.start.rawValue, source.byteCount.rawValue, target.start.rawValue))
      }
      #expect(try reader.next() == .remap(source: source, target: target.start))
      // The old place is unmapped, which is told too.
      #expect(try reader.next() == .unmap(source))
      #expect(try remap.value() == 0)
      // The registration went with it: the page is missing at its new place.
      let load = try FaultingThread(loading: target.start)
      #expect(try reader.nextFault().address == target.start)
      #expect(try uffd.copy(memory.content(5), to: target.start) == .complete)
      #expect(try load.value() == word(5))

      let given = memory.pages(2)
      let remove = try FaultingThread { UInt64(given.advise(MADV_DONTNEED)) }
      #expect(try reader.next() == .remove(given))
      #expect(try remove.value() == 0)

      let last = memory.pages(3)
      memory.noteHole(last)
      let unmap = try FaultingThread {
        // unsafe: the page is the test's own, and nobody uses it any more.
        unsafe UInt64(munmap(last.start.pointer, Int(last.byteCount.rawValue)))
      }
      #expect(try reader.next() == .unmap(last))
      #expect(try unmap.value() == 0)
      #expect(try uffd.copy(memory.content(1), to: last.start) == .noMapping)
      #expect(try reader.isEmpty())
    }

    /// The same with protection, which a fork and a move carry along.
    @Test(arguments: MemoryKind.allCases)
    func eventsWp(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind, isMoved: true)
      let elsewhere = try TestMemory(kind)
      let descriptor = try UserfaultDescriptor(requiring: allEvents.union(protection))
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: [.missing, .writeProtect])
      let content = memory.content(7, pageCount: 2)
      #expect(try uffd.copy(content, to: memory.base, writeProtected: true) == .complete)
      var reader = EventReader(uffd)

      let page = memory.pages(1)
      let fork = try FaultingThread {
        UInt64(bitPattern: Int64(uffdtest_fork_storing(page.start.rawValue, 71)))
      }
      #expect(try reader.next() == .fork)
      let child = try reader.takeForkedDescriptor()
      let childID = pid_t(truncatingIfNeeded: try fork.value())
      var childReader = EventReader(child.handle)
      #expect(try childReader.nextFault().flags == [.write, .writeProtected])
      #expect(try child.handle.writeProtect(page, isProtected: false) == .complete)
      #expect(uffdtest_wait_reading(childID, child.handle.rawValue) == 0)
      // A shared page was written by the child, a private one only in the child's copy.
      #expect(page.start.load() == (kind.isShared ? 71 : word(7)))

      let source = memory.pages(0)
      let target = elsewhere.pages(2)
      memory.noteHole(source)
      let remap = try FaultingThread {
        UInt64(
          uffdtest_move_mapping(
            source.start.rawValue, source.byteCount.rawValue, target.start.rawValue))
      }
      #expect(try reader.next() == .remap(source: source, target: target.start))
      // The old place is unmapped, which is told too.
      #expect(try reader.next() == .unmap(source))
      #expect(try remap.value() == 0)
      let store = try FaultingThread(storing: 72, to: target.start)
      #expect(try reader.nextFault().flags == [.write, .writeProtected])
      #expect(try uffd.writeProtect(target, isProtected: false) == .complete)
      #expect(try store.value() == 72)
    }

    /// While it is open, the child waits for its page; its end shows that it was closed (trap 1).
    @Test(arguments: [false, true])
    func aForkedDescriptorThatNobodyTakesIsClosed(byTheNextRead: Bool) throws {
      let memory = try TestMemory(.anonymous)
      let descriptor = try UserfaultDescriptor(requiring: allEvents)
      _ = try descriptor.handle.register(memory.range, modes: .missing)
      let address = memory.base.rawValue
      let fork = try FaultingThread {
        UInt64(bitPattern: Int64(uffdtest_fork_expecting(address, 0)))
      }
      var reader = EventReader(descriptor.handle)
      #expect(try reader.next() == .fork)
      let child = pid_t(truncatingIfNeeded: try fork.value())
      if byTheNextRead { #expect(try reader.isEmpty()) } else { _ = consume reader }
      #expect(uffdtest_wait(child) == 0)
    }

    /// EAGAIN as errno and in the answer field, while an event is unread: the kernel's
    /// mmap-changing.
    @Test(arguments: MemoryKind.allCases)
    func mmapChanging(_ kind: MemoryKind) throws {
      let features: UserfaultFeatures = [
        .removeEvents, .poison, .minorSharedMemory, .minorHugetlb, .move,
      ]
      let descriptor = try UserfaultDescriptor(requiring: features.union(protection))
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      let modes: RegistrationModes =
        kind.isShared ? [.missing, .writeProtect, .minor] : [.missing, .writeProtect]
      _ = try uffd.register(memory.range, modes: modes)
      let page = memory.pages(0)
      let given = memory.pages(1)
      let remove = try FaultingThread { UInt64(given.advise(MADV_DONTNEED)) }
      try #require(pollOnce(uffd) == POLLIN)

      var field: Int64 = 12_345
      let content = memory.content(9)
      // unsafe: the array and the variable outlive the call.
      let number = unsafe content.withUnsafeBytes { bytes in
        unsafe uffdtest_copy_raw(
          uffd.rawValue, page.start.rawValue, UInt64(UInt(bitPattern: bytes.baseAddress)),
          UInt64(bytes.count), &field)
      }
      #expect(number == EAGAIN)
      // Kernels before 6.15 leave the field alone, which is why it is zeroed before each call.
      #expect(field == -Int64(EAGAIN) || field == 12_345)

      #expect(try uffd.copy(content, to: page.start) == .retry)
      if !kind.isHugetlb { #expect(try uffd.zero(page) == .retry) }
      if kind.isShared { #expect(try uffd.mapCached(page) == .retry) }
      #expect(try uffd.poison(page) == .retry)
      #expect(try uffd.writeProtect(page) == .retry)
      #expect(remove.isDone == false)

      var reader = EventReader(uffd)
      #expect(try reader.next() == .remove(given))
      #expect(try remove.value() == 0)
      #expect(try uffd.copy(content, to: page.start) == .complete)
      #expect(page.start.load() == word(9))
    }
  }
}
