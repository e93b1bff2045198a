import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

extension UFFDTests {
  /// The traps of userfaultfd that cost others a night, by their number in the project's notes.
  /// 9 and 14 need KVM, 15 is a measurement.
  @Suite struct TrapTests {
    @Test(arguments: MemoryKind.allCases)
    func trap1TheLastDescriptorsCloseMakesMissingPagesReadAsZeros(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind)
      let original = try UserfaultDescriptor(requiring: [])
      _ = try original.handle.register(memory.range, modes: .missing)
      let thread = try FaultingThread(loading: memory.base)
      var events = EventReader(original.handle)
      #expect(try events.nextFault().address == memory.base)

      // While a duplicate is held, the thread waits and the page can still come.
      let duplicate = try UserfaultDescriptor(adopting: original.duplicate())
      _ = consume original
      #expect(try duplicate.status().waitingFaultCount == 1)
      #expect(thread.isDone == false)

      // With the last one gone the kernel lets the thread read zeros, and no error shows anywhere.
      _ = consume duplicate
      #expect(try thread.value() == 0)
      #expect(memory.pages(1).start.load() == 0)
    }

    @Test(arguments: MemoryKind.allCases)
    func trap1ADuplicateServesOnAfterTheOriginalIsClosed(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind)
      let original = try UserfaultDescriptor(requiring: [])
      _ = try original.handle.register(memory.range, modes: .missing)
      let duplicate = try UserfaultDescriptor(adopting: original.duplicate())
      _ = consume original
      let thread = try FaultingThread(loading: memory.base)
      var events = EventReader(duplicate.handle)
      #expect(try events.nextFault().address == memory.base)
      #expect(try duplicate.handle.copy(memory.content(8), to: memory.base) == .complete)
      #expect(try thread.value() == word(8))
    }

    @Test(arguments: MemoryKind.allCases)
    func trap2AFaultThatWasReadComesAgainOnlyAfterAWake(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind)
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: .missing)
      let thread = try FaultingThread(loading: memory.base)
      var events = EventReader(uffd)
      #expect(try events.nextFault().address == memory.base)
      // A handler that died here has taken the message with it.
      var successor = EventReader(uffd)
      #expect(try successor.isEmpty())
      #expect(try descriptor.status().waitingFaultCount == 1)
      try uffd.wake(memory.range)
      #expect(try successor.nextFault().address == memory.base)
      #expect(try uffd.copy(memory.content(2), to: memory.base) == .complete)
      #expect(try thread.value() == word(2))
    }

    @Test(arguments: MemoryKind.allCases)
    func trap3ExistsDoesNotMeanThatTheWaiterWasWoken(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind)
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: .missing)
      let thread = try FaultingThread(loading: memory.base)
      var events = EventReader(uffd)
      _ = try events.nextFault()
      #expect(try uffd.copy(memory.content(3), to: memory.base, waking: false) == .complete)
      #expect(try uffd.copy(memory.content(4), to: memory.base) == .exists)
      #expect(try descriptor.status().waitingFaultCount == 1)
      #expect(thread.isDone == false)
      try uffd.wake(memory.pages(0))
      #expect(try thread.value() == word(3))
    }

    @Test(arguments: MemoryKind.allCases)
    func trap4AgainMeansUnreadEventOrPartOfARun(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind)
      let descriptor = try UserfaultDescriptor(requiring: .removeEvents)
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: .missing)
      // (b) A part of a run was done: its bytes are told.
      #expect(try uffd.copy(memory.content(1), to: memory.pages(1).start) == .complete)
      let run = memory.content(2, pageCount: 2)
      #expect(try uffd.copy(run, to: memory.base) == .partial(memory.pages(0).byteCount))
      // (a) An event is unread: nothing was done, and nothing is until it is read.
      let given = memory.pages(1)
      let remove = try FaultingThread { UInt64(given.advise(MADV_DONTNEED)) }
      try #require(pollOnce(uffd) == POLLIN)
      let rest = memory.pages(2, count: 2)
      #expect(try uffd.copy(run, to: rest.start) == .retry)
      #expect(try uffd.copy(run, to: rest.start) == .retry)
      var events = EventReader(uffd)
      #expect(try events.next() == .remove(given))
      #expect(try remove.value() == 0)
      #expect(try uffd.copy(run, to: rest.start) == .complete)
    }

    @Test(arguments: MemoryKind.allCases)
    func trap5AFaultIsReadBeforeARemovalThatCameFirst(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind)
      let descriptor = try UserfaultDescriptor(requiring: .removeEvents)
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: .missing)
      let given = memory.pages(1)
      let remove = try FaultingThread { UInt64(given.advise(MADV_DONTNEED)) }
      try #require(pollOnce(uffd) == POLLIN)
      let thread = try FaultingThread(loading: memory.base)
      try waitUntil("the fault is queued") { try descriptor.status().unreadFaultCount == 1 }
      var events = EventReader(uffd, capacity: 1)
      #expect(try events.nextFault().address == memory.base)
      // The fault cannot be answered yet: it is parked, and reading goes on.
      #expect(try uffd.copy(memory.content(5), to: memory.base) == .retry)
      #expect(try events.next() == .remove(given))
      #expect(try remove.value() == 0)
      #expect(try uffd.copy(memory.content(5), to: memory.base) == .complete)
      #expect(try thread.value() == word(5))
    }

    @Test(arguments: MemoryKind.allCases)
    func trap7NoMappingIsToldApart(_ kind: MemoryKind) throws {
      let memory = try TestMemory(kind)
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: .missing)
      let page = memory.pages(3)
      #expect(memory.unmap(page) == 0)
      #expect(try uffd.copy(memory.content(1), to: page.start) == .noMapping)
      if !kind.isHugetlb { #expect(try uffd.zero(page) == .noMapping) }
      #expect(try uffd.poison(page) == .noMapping)
    }

    @Test(.enabled(if: Machine.isPrivileged, "fork events need CAP_SYS_PTRACE"))
    func trap7AProcessThatIsGoneIsToldApart() throws {
      let memory = try TestMemory(.anonymous)
      let features: UserfaultFeatures = [.forkEvents, .writeProtectFaults, .poison]
      let descriptor = try UserfaultDescriptor(requiring: features)
      _ = try descriptor.handle.register(memory.range, modes: [.missing, .writeProtect])
      let fork = try FaultingThread { UInt64(bitPattern: Int64(uffdtest_fork_waiting())) }
      var events = EventReader(descriptor.handle)
      #expect(try events.next() == .fork)
      let owner = try events.takeForkedDescriptor()
      let uffd = owner.handle
      let child = pid_t(truncatingIfNeeded: try fork.value())
      #expect(try uffd.copy(memory.content(1), to: memory.base) == .complete)
      kill(child, SIGKILL)
      #expect(uffdtest_wait(child) == -1)
      let page = memory.pages(1)
      #expect(try uffd.copy(memory.content(1), to: page.start) == .gone)
      #expect(try uffd.zero(page) == .gone)
      #expect(try uffd.poison(page) == .gone)
      #expect(try uffd.writeProtect(page) == .gone)
    }

    @Test(.enabled(if: Machine.isPrivileged, "a tmpfs of its own needs CAP_SYS_ADMIN"))
    func trap7OutOfMemoryIsToldApartAndNothingIsFilled() throws {
      let file = try MemoryFile(byteCount: 4 * 4096, limitBytes: 2 * 4096)
      let memory = try TestMemory(.shmem, file: file)
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      _ = try uffd.register(memory.range, modes: .missing)
      #expect(try uffd.copy(memory.content(1, pageCount: 2), to: memory.base) == .complete)
      let thread = try FaultingThread(loading: memory.pages(2).start)
      var events = EventReader(uffd)
      _ = try events.nextFault()
      #expect(try uffd.copy(memory.content(1), to: memory.pages(2).start) == .outOfMemory)
      #expect(try uffd.zero(memory.pages(2)) == .outOfMemory)
      #expect(thread.isDone == false)
      // Memory was made: the same fault can be answered now.
      try memory.punch(0)
      #expect(try uffd.copy(memory.content(6), to: memory.pages(2).start) == .complete)
      #expect(try thread.value() == word(6))
    }
  }
}
