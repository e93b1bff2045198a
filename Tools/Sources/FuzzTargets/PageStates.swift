import FaultHandler
import Glibc
import Migration
import Pages
import Session
import System
import Wire

/// Input: a byte for the number of pages, one for what to do with the file's end, the states, then
/// events of a data plane, three bytes each.
enum PageStates {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let pageCount = Int(reader.byte()) + 1
    let ending = reader.byte()
    let states = reader.bytes(pageCount)
    openFile(states, pageCount: pageCount, ending)
    let recorded = states + [UInt8](repeating: 0, count: pageCount - states.count)
    var ledger: PageLedger<PageStateArray>
    do throws(PageStateError) {
      ledger = try PageLedger(recovering: PageStateArray(bytes: recorded))
      invariant(
        recorded.allSatisfy { $0 < PageState.count }, "a byte that is no state is refused")
    } catch {
      guard case .invalidByte(let flatIndex, let byte) = error else { return }
      invariant(
        recorded[flatIndex] == byte && byte >= PageState.count, "the refusal names the byte")
      return
    }
    for flatIndex in 0..<pageCount {
      invariant(
        ledger[flatIndex] != .requested && ledger[flatIndex] != .staged,
        "neither request nor stage outlives its process")
      invariant(
        recorded[flatIndex] == PageState.requested.rawValue
          || recorded[flatIndex] == PageState.staged.rawValue
          || ledger[flatIndex].rawValue == recorded[flatIndex], "all other states are kept")
    }
    while !reader.isAtEnd {
      step(&ledger, reader.byte(), Int(reader.byte()), Int(reader.byte()))
      check(ledger)
    }
  }

  private static func step(
    _ ledger: inout PageLedger<PageStateArray>, _ choice: UInt8, _ first: Int, _ count: Int
  ) {
    let start = first % ledger.pageCount
    let range = start..<min(ledger.pageCount, start + count % 16 + 1)
    let before = range.map { ledger[$0] }
    switch choice % 9 {
    case 0:
      let answer = ledger.fault(at: start)
      invariant((answer == .request) == (before[0] == .missing), "a page is asked for once")
    case 1:
      // As a filler does: only what is awaited, and never over what the guest may have written.
      while let run = ledger.nextAwaitedRun(in: range) { ledger.installed(run) }
      for (flatIndex, state) in zip(range, before) where !state.isAwaited {
        invariant(ledger[flatIndex] == state, "a fill touches awaited pages alone")
      }
    case 2: ledger.installed(range)
    case 3: ledger.poisoned(range)
    case 4:
      let waiterCount = ledger.zeroArrived(range)
      invariant(
        waiterCount == before.count { $0 == .requested }, "a zero map counts those who wait")
    case 5: ledger.staged(range)
    case 6: ledger.seededZero(range)
    case 7: ledger.discarded(range)
    default:
      let kind: MemoryKind = choice & 0x80 == 0 ? .privateAnonymous : .shared
      let outcome = ledger.removed(range, from: kind)
      invariant(
        kind == .privateAnonymous || range.map { ledger[$0] } == before,
        "a removal on shared memory changes nothing")
      invariant(outcome.removedCount >= outcome.waiterCount, "waiters are among the removed")
    }
  }

  private static func check(_ ledger: borrowing PageLedger<PageStateArray>) {
    var counts = [Int](repeating: 0, count: PageState.count)
    for flatIndex in 0..<ledger.pageCount { counts[Int(ledger[flatIndex].rawValue)] += 1 }
    for state in PageState.allCases {
      invariant(ledger.count(of: state) == counts[Int(state.rawValue)], "the counts are true")
    }
    invariant(
      ledger.isComplete
        == [PageState.missing, .requested, .staged].allSatisfy { counts[Int($0.rawValue)] == 0 },
      "complete means that nothing is awaited or staged")
  }

  /// A real file, for the kernel's part of it: what is cut short must be refused, not fault later.
  private static func openFile(_ states: [UInt8], pageCount: Int, _ ending: UInt8) {
    let path = ScratchFile.nextPath("page-states")
    let count = PageCount(pageCount)
    do {
      try? FileSystem.removeFile(path)
      defer { try? FileSystem.removeFile(path) }
      _ = try PageStateFile.create(path, session: Given.session, pageCount: count)
      let file = try OwnedDescriptor.open(path, flags: O_RDWR)
      try file.writeAll(states, atOffset: 0, operand: path)
      let identityOffset = (pageCount + 4095) / 4096 * 4096
      var isSound = true
      switch ending % 4 {
      case 0: break
      case 1:
        isSound = false
        guard ftruncate(file.rawValue, off_t(Int(ending) * 16)) == 0 else { return }
        isSound = Int(ending) * 16 >= identityOffset + 64
      case 2:
        // A byte of the identity that differs: another session, another image, another version.
        let position = UInt64(identityOffset + Int(ending / 4))
        let found = try file.read(byteCount: 1, atOffset: position, operand: path)
        try file.writeAll([found[0] ^ 0x10], atOffset: position, operand: path)
        isSound = false
      default:
        let other = SessionID(high: Given.session.high, low: Given.session.low ^ UInt64(ending))
        isSound = other == Given.session
        expect(isSound, opens: path, other, count, states)
        return
      }
      expect(isSound, opens: path, Given.session, count, states)
    } catch { invariantBroken("a small file on /dev/shm can be made") }
  }

  private static func expect(
    _ isSound: Bool, opens path: String, _ session: SessionID, _ count: PageCount,
    _ states: [UInt8]
  ) {
    do throws(PageStateFileError) {
      let file = MappedPageStates(
        try PageStateFile.open(path, session: session, pageCount: count))
      invariant(isSound, "a file of other states is refused")
      for (flatIndex, byte) in states.enumerated() {
        invariant(file.load(flatIndex) == byte, "the file's states are those that were written")
      }
      invariant(file.pageCount == Int(count.rawValue), "there is a state for each page")
    } catch { invariant(!isSound, "a sound file is opened") }
  }
}
