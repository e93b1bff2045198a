import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

/// What write-protection takes on any kind of memory.
private let protection: UserfaultFeatures = [.writeProtectFaults, .writeProtectSharedMemory]

extension UFFDTests {
  @Suite(
    .enabled(if: Machine.features.isSuperset(of: protection), "needs write-protect faults"))
  struct WriteProtectTests {
    @Test(arguments: MemoryKind.allCases)
    func aWriteToAProtectedPageWaitsAndAReadDoesNot(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: protection)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: [.missing, .writeProtect])
      let page = memory.pages(1)
      #expect(
        try uffd.copy(memory.content(4), to: page.start, writeProtected: true) == .complete)
      #expect(page.start.load() == word(4))
      let thread = try FaultingThread(storing: 11, to: page.start)
      var events = EventReader(uffd)
      let fault = try events.nextFault()
      #expect(
        fault == PageFault(address: page.start, flags: [.write, .writeProtected], threadID: 0))
      #expect(page.start.load() == word(4))
      #expect(try uffd.writeProtect(page, isProtected: false) == .complete)
      #expect(try thread.value() == 11)
      #expect(page.start.load() == 11)
      // What is there already can be protected again, and lifting can leave the waking to `wake`.
      #expect(try uffd.writeProtect(page) == .complete)
      let second = try FaultingThread(storing: 12, to: page.start)
      #expect(try events.nextFault().flags == [.write, .writeProtected])
      #expect(try uffd.writeProtect(page, isProtected: false, waking: false) == .complete)
      #expect(try descriptor.status().waitingFaultCount == 1)
      #expect(second.isDone == false)
      try uffd.wake(page)
      #expect(try second.value() == 12)
    }

    /// The kernel's wp-unpopulated: protection holds on pages that are not there.
    @Test(
      .enabled(if: Machine.features.contains(.writeProtectUnpopulated), "needs Linux 6.4"),
      arguments: MemoryKind.allCases)
    func wpUnpopulated(_ kind: MemoryKind) throws {
      let features = protection.union(.writeProtectUnpopulated)
      let descriptor = try UserfaultDescriptor(requiring: features)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: .writeProtect)
      let page = memory.pages(0)
      #expect(try !isMarkedProtected(page.start))
      #expect(try uffd.writeProtect(page) == .complete)
      #expect(try isMarkedProtected(page.start))
      #expect(try uffd.writeProtect(page, isProtected: false) == .complete)
      #expect(try !isMarkedProtected(page.start))
      // Reading brings a page of zeros, which is protected like the place was.
      #expect(try uffd.writeProtect(page) == .complete)
      #expect(page.start.load() == 0)
      #expect(try isMarkedProtected(page.start))
      let thread = try FaultingThread(storing: 6, to: page.start)
      var events = EventReader(uffd)
      #expect(try events.nextFault().flags == [.write, .writeProtected])
      #expect(try uffd.writeProtect(page, isProtected: false) == .complete)
      #expect(try thread.value() == 6)
      // Giving a page back takes the mark with it where the content goes too, else keeps both.
      #expect(try uffd.writeProtect(page) == .complete)
      #expect(page.advise(MADV_DONTNEED) == 0)
      #expect(try isMarkedProtected(page.start) == kind.isFileBacked)
    }

    /// Without the feature, protecting what is not there is without effect on private memory.
    @Test func anUnpopulatedPrivatePageCannotBeProtectedWithoutTheFeature() throws {
      let descriptor = try UserfaultDescriptor(requiring: protection)
      let memory = try TestMemory(.anonymous)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      #expect(try descriptor.handle.writeProtect(memory.range) == .complete)
      #expect(try !isMarkedProtected(memory.base))
      memory.base.store(3)
      #expect(memory.base.load() == 3)
    }

    @Test func protectingWhatIsNotRegisteredForItIsAnError() throws {
      let descriptor = try UserfaultDescriptor(requiring: protection)
      let memory = try TestMemory(.anonymous)
      _ = try descriptor.handle.register(memory.range, modes: .missing)
      #expect(try descriptor.handle.writeProtect(memory.range) == .noMapping)
      let expected = UFFDError(.copy, range: memory.pages(0), errno: .invalidArgument)
      #expect(throws: expected) {
        try descriptor.handle.copy(memory.content(1), to: memory.base, writeProtected: true)
      }
    }
  }
}

/// Whether the page table's entry carries userfaultfd's protection: bit 57 of /proc/PID/pagemap.
func isMarkedProtected(_ address: HostAddress) throws -> Bool {
  let file = try OwnedDescriptor.open("/proc/self/pagemap", flags: O_RDONLY)
  var entry: UInt64 = 0
  // 8 bytes for each page of 4 KiB.
  let offset = off_t(address.rawValue / 4096 * 8)
  // unsafe: the kernel writes the 8 bytes of one integer.
  let count = unsafe pread(file.rawValue, &entry, 8, offset)
  try #require(count == 8)
  return entry & (1 << 57) != 0
}
