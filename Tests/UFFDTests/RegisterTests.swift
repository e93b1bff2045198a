import Glibc
import Pages
import System
import Testing

@testable import UFFD

extension UFFDTests {
  @Suite struct RegisterTests {
    /// What the kernel offers for each combination of modes on each kind of memory (the kernel's
    /// own register-ioctls test).
    @Test(arguments: MemoryKind.allCases, 1...7)
    func registerIoctls(_ kind: MemoryKind, _ modeBits: Int) throws {
      let modes = RegistrationModes(rawValue: UInt64(modeBits))
      let descriptor = try UserfaultDescriptor(requiring: [])
      let memory = try TestMemory(kind)
      if modes.contains(.minor), kind == .anonymous {
        #expect(
          throws: UFFDError(.register(modes), range: memory.range, errno: .invalidArgument)
        ) {
          try descriptor.handle.register(memory.range, modes: modes)
        }
        return
      }
      var expected: RangeOperations = [.wake, .copy, .poison]
      if !kind.isHugetlb { expected.formUnion([.zero, .move]) }
      if modes.contains(.writeProtect) { expected.formUnion(.writeProtect) }
      if modes.contains(.minor) { expected.formUnion(.mapCached) }
      let operations = try descriptor.handle.register(memory.range, modes: modes)
      #expect(operations == expected)
      try descriptor.handle.unregister(memory.range)
    }

    @Test(arguments: MemoryKind.allCases)
    func aRangeBelongsToOneDescriptor(_ kind: MemoryKind) throws {
      let first = try UserfaultDescriptor(requiring: [])
      let second = try UserfaultDescriptor(requiring: [])
      let memory = try TestMemory(kind)
      _ = try first.handle.register(memory.range, modes: .missing)
      let busy = UFFDError(.register(.missing), range: memory.range, errno: Errno(rawValue: EBUSY))
      #expect(throws: busy) { try second.handle.register(memory.range, modes: .missing) }
      try first.handle.unregister(memory.range)
      _ = try second.handle.register(memory.range, modes: .missing)
    }

    @Test(arguments: MemoryKind.allCases)
    func unregisteringWakesAndTheKernelAnswersAgain(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: [])
      let memory = try TestMemory(kind)
      _ = try descriptor.handle.register(memory.range, modes: .missing)
      let thread = try FaultingThread(loading: memory.base)
      var events = EventReader(descriptor.handle)
      _ = try events.nextFault()
      try descriptor.handle.unregister(memory.range)
      #expect(try thread.value() == 0)
    }

    @Test func oneCallCoversSeveralMappings() throws {
      let descriptor = try UserfaultDescriptor(requiring: [])
      let uffd = descriptor.handle
      let memory = try TestMemory(.anonymous)
      // Other rights make the middle a mapping of its own.
      let middle = memory.pages(1, count: 2)
      #expect(unsafe mprotect(middle.start.pointer, 8192, PROT_READ) == 0)
      _ = try uffd.register(memory.range, modes: .missing)
      // A run is filled within one mapping; across the border it is not found.
      #expect(try uffd.copy(memory.content(3, pageCount: 4), to: memory.base) == .noMapping)
      #expect(try uffd.copy(memory.content(3, pageCount: 2), to: middle.start) == .complete)
      #expect(middle.start.load() == word(3))
    }
  }
}
