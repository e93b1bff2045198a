import CLinux
import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

extension UFFDTests {
  @Suite struct DescriptorTests {
    @Test func theHandshakeGrantsWhatWasAskedForAndNoMore() throws {
      let optional: UserfaultFeatures = [.poison, UserfaultFeatures(rawValue: 1 << 40)]
      let descriptor = try UserfaultDescriptor(requiring: .removeEvents, optionally: optional)
      let offered = try UserfaultDescriptor.offeredFeatures()
      #expect(descriptor.features == offered.intersection([.removeEvents, .poison]))
      #expect(try descriptor.status().features == descriptor.features)
    }

    @Test func aFeatureThatNoKernelHasIsRefusedByName() throws {
      let unknown = UserfaultFeatures(rawValue: 1 << 40)
      #expect(throws: UFFDError(.negotiate(missing: unknown), errno: .notSupported)) {
        _ = try UserfaultDescriptor(requiring: [.removeEvents, unknown])
      }
      #expect("\(unknown.union(.poison))" == "POISON|0x10000000000")
    }

    @Test func itNeverBlocksAndIsClosedOnExec() throws {
      let descriptor = try UserfaultDescriptor(requiring: [])
      let number = descriptor.handle.rawValue
      #expect(clinux_fcntl_int(number, F_GETFL, 0) & O_NONBLOCK != 0)
      #expect(clinux_fcntl_int(number, F_GETFD, 0) & FD_CLOEXEC != 0)
      var buffer = UserfaultMessageBuffer(capacity: 1)
      #expect(try descriptor.handle.read(into: &buffer) == 0)
    }

    @Test func anAdoptedDescriptorKnowsItsFeaturesAndNeverBlocks() throws {
      let number = uffdtest_blocking_userfaultfd()
      try #require(number >= 0)
      let blocking = try UserfaultDescriptor(adopting: OwnedDescriptor(adopting: number))
      #expect(blocking.features == [])
      #expect(clinux_fcntl_int(number, F_GETFL, 0) & O_NONBLOCK != 0)

      let features: UserfaultFeatures = [.removeEvents, .threadIDs]
      let original = try UserfaultDescriptor(requiring: features)
      let adopted = try UserfaultDescriptor(adopting: original.duplicate())
      #expect(adopted.features == features)
      #expect(adopted.handle != original.handle)
    }

    @Test func whatIsNoUserfaultfdIsNotAdopted() throws {
      // The second is one that has not shaken hands: it cannot serve anybody.
      let numbers = [try OwnedDescriptor.event().release(), clinux_userfaultfd(O_CLOEXEC)]
      for number in numbers {
        try #require(number >= 0)
        #expect(throws: UFFDError(.adopt(descriptor: number), errno: .invalidArgument)) {
          _ = try UserfaultDescriptor(adopting: OwnedDescriptor(adopting: number))
        }
      }
    }

    @Test func whatIsNotAdoptedIsClosed() throws {
      // Told by its peer: the number alone may be another thread's by now.
      var pair = try DescriptorStreamPair.packets()
      let witness = pair.takeFirst()
      let refused = pair.takeSecond().release()
      #expect(throws: UFFDError(.adopt(descriptor: refused), errno: .invalidArgument)) {
        _ = try UserfaultDescriptor(adopting: OwnedDescriptor(adopting: refused))
      }
      var bytes = [UInt8](repeating: 0, count: 1)
      var descriptors = DescriptorList()
      let deadline = MonotonicClock.now().advanced(byNanoseconds: 10_000_000_000)
      let received = try witness.receive(into: &bytes, descriptors: &descriptors, until: deadline)
      #expect(received == .endOfStream)
    }

    @Test func anErrorTellsTheCallThePlaceAndTheReason() {
      let range = HostRange(start: HostAddress(rawValue: 0x7000), byteCount: ByteCount(4096))
      let text = "\(UFFDError(.copy, range: range, errno: .badAddress))"
      #expect(text == "userfaultfd copy at 0x7000, 4096 bytes: Bad address (errno 14)")
      #expect("\(UFFDError(.create, errno: .notPermitted))".contains("CAP_SYS_PTRACE"))
    }

    @Test func rangesKnowWhatTheyHold() {
      let start = HostAddress(rawValue: 0x10_0000)
      let range = HostRange(start: start, byteCount: ByteCount(0x3000))
      #expect(range.contains(start) && !range.contains(range.end))
      #expect(range.dropping(first: ByteCount(0x1000)).start.rawValue == 0x10_1000)
      #expect(range.dropping(first: ByteCount(0x1000)).end == range.end)
      #expect(range.overlaps(range.dropping(first: ByteCount(0x2000))))
      #expect(!range.overlaps(HostRange(start: range.end, byteCount: ByteCount(1))))
      let page = HostRange(pageOf: .huge, holding: HostAddress(rawValue: 0x3f_ffff))
      #expect(page.start.rawValue == 0x20_0000 && page.byteCount == ByteCount(0x20_0000))
    }
  }
}
