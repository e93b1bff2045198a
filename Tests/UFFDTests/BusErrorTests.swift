import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

/// siginfo's code of a SIGBUS for a page that is not there (BUS_ADRERR).
private let noSuchAddress = Int32(2)
/// The same for one that is poisoned: BUS_MCEERR_AR, or BUS_ADRERR where the kernel was built
/// without CONFIG_MEMORY_FAILURE.
private let poisonCodes: Set<Int32> = [2, 4]

/// What an access led to.
private enum Access: Equatable {
  case loaded(UInt64), stored, busError(code: Int32)

  static func load(_ address: HostAddress) -> Access {
    var value: UInt64 = 0
    // unsafe: the result goes into a local variable during the call.
    let code = unsafe uffdtest_try_load(address.rawValue, &value)
    return code == 0 ? .loaded(value) : .busError(code: code)
  }

  var isPoisoned: Bool {
    if case .busError(let code) = self { return poisonCodes.contains(code) }
    return false
  }

  static func store(_ value: UInt64, to address: HostAddress) -> Access {
    let code = uffdtest_try_store(address.rawValue, value)
    return code == 0 ? .stored : .busError(code: code)
  }
}

extension UFFDTests {
  @Suite struct BusErrorTests {
    @Test(arguments: MemoryKind.allCases)
    func sigbus(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: .busErrors)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: .missing)
      #expect(Access.load(memory.base) == .busError(code: noSuchAddress))
      #expect(Access.store(1, to: memory.base) == .busError(code: noSuchAddress))
      #expect(try uffd.copy(memory.content(5), to: memory.base) == .complete)
      #expect(Access.load(memory.base) == .loaded(word(5)))
      var events = EventReader(uffd)
      #expect(try events.isEmpty())
    }

    @Test(arguments: MemoryKind.allCases)
    func sigbusWp(_ kind: MemoryKind) throws {
      let features: UserfaultFeatures = [
        .busErrors, .writeProtectFaults, .writeProtectSharedMemory,
      ]
      let descriptor = try UserfaultDescriptor(requiring: features)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: [.missing, .writeProtect])
      #expect(
        try uffd.copy(memory.content(5), to: memory.base, writeProtected: true) == .complete)
      #expect(Access.load(memory.base) == .loaded(word(5)))
      #expect(Access.store(1, to: memory.base) == .busError(code: noSuchAddress))
      #expect(try uffd.writeProtect(memory.pages(0), isProtected: false) == .complete)
      #expect(Access.store(1, to: memory.base) == .stored)
      #expect(Access.load(memory.base) == .loaded(1))
    }

    @Test(
      .enabled(if: Machine.features.contains(.poison), "needs Linux 6.6"),
      arguments: MemoryKind.allCases)
    func poison(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: .poison)
      let uffd = descriptor.handle
      let memory = try TestMemory(kind)
      _ = try uffd.register(memory.range, modes: .missing)
      let page = memory.pages(1)
      // Who waits for the page gets the error, as everybody after.
      let thread = try FaultingThread { Access.load(page.start).isPoisoned ? 1 : 0 }
      var events = EventReader(uffd)
      #expect(try events.nextFault().address == page.start)
      #expect(try uffd.poison(page) == .complete)
      #expect(try thread.value() == 1)
      #expect(Access.load(page.start).isPoisoned)
      #expect(Access.store(1, to: page.start).isPoisoned)
      #expect(try uffd.poison(page) == .exists)
      // Its neighbours are well.
      #expect(try uffd.copy(memory.content(2), to: memory.pages(2).start) == .complete)
      #expect(Access.load(memory.pages(2).start) == .loaded(word(2)))
      // Poison is a mark and no page: a copy takes its place, so a late one must be held back.
      #expect(try uffd.copy(memory.content(1), to: page.start) == .complete)
      #expect(Access.load(page.start) == .loaded(word(1)))
      #expect(try events.isEmpty())
    }
  }
}
