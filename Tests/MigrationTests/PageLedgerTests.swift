import Migration
import Testing

private func ledger(_ states: [PageState]) throws -> PageLedger<PageStateArray> {
  try PageLedger(recovering: PageStateArray(bytes: states.map(\.rawValue)))
}

private func states(_ ledger: PageLedger<PageStateArray>) -> [PageState] {
  (0..<ledger.pageCount).map { ledger[$0] }
}

/// Counts kept step by step must equal counts taken anew.
private func countsAgree(_ ledger: PageLedger<PageStateArray>) -> Bool {
  PageState.allCases.allSatisfy { state in
    states(ledger).count { $0 == state } == ledger.count(of: state)
  }
}

@Suite("PageLedger: the destination's rules for each page")
struct PageLedgerTests {
  @Test("a first fault requests, a second one waits")
  func faultRequestsOnce() {
    var pages = PageLedger(fresh: PageStateArray(pageCount: 4))
    #expect(pages.fault(at: 2) == .request)
    #expect(pages.fault(at: 2) == .alreadyRequested)
    #expect(states(pages) == [.missing, .missing, .requested, .missing])
    #expect(countsAgree(pages))
  }

  @Test("a fault is answered by the page's state, and changes none but missing")
  func faultAnswers() throws {
    var pages = try ledger([.present, .zero, .removed, .poisoned])
    #expect(pages.fault(at: 0) == .refillOrWake)
    #expect(pages.fault(at: 1) == .zeroFill)
    #expect(pages.fault(at: 2) == .zeroFill)
    #expect(pages.fault(at: 3) == .poison)
    #expect(states(pages) == [.present, .zero, .removed, .poisoned])
  }

  @Test("only awaited pages of an arrived run are filled, the rest is dropped")
  func arrivalFillsAwaitedOnly() throws {
    var pages = try ledger([.missing, .missing, .present, .removed, .missing, .zero, .poisoned])
    #expect(pages.fault(at: 1) == .request)
    #expect(pages.nextAwaitedRun(in: 0..<7) == 0..<2)
    pages.installed(0..<2)
    #expect(pages.nextAwaitedRun(in: 2..<7) == 4..<5)
    pages.installed(4..<5)
    #expect(pages.nextAwaitedRun(in: 5..<7) == nil)
    #expect(
      states(pages)
        == [.present, .present, .present, .removed, .present, .zero, .poisoned])
    #expect(pages.nextAwaitedRun(in: 0..<7) == nil, "a duplicate run installs nothing")
    #expect(countsAgree(pages))
  }

  @Test("a page removed between request and arrival stays removed: old content is not resurrected")
  func removalBeatsLateArrival() {
    var pages = PageLedger(fresh: PageStateArray(pageCount: 3))
    _ = pages.fault(at: 1)
    let outcome = pages.removed(0..<2, from: .privateAnonymous)
    #expect(outcome == RemovalOutcome(removedCount: 2, waiterCount: 1))
    #expect(pages.nextAwaitedRun(in: 0..<2) == nil)
    #expect(pages.fault(at: 1) == .zeroFill, "the woken waiter gets zeros")
    pages.installed(1..<2)
    #expect(states(pages) == [.removed, .present, .missing])
    #expect(countsAgree(pages))
  }

  @Test("a removal on private memory takes every state; a second one counts nothing")
  func removalFromEveryState() throws {
    var pages = try ledger([.missing, .present, .zero, .removed, .poisoned])
    let first = pages.removed(0..<5, from: .privateAnonymous)
    #expect(first == RemovalOutcome(removedCount: 4, waiterCount: 0))
    let second = pages.removed(0..<5, from: .privateAnonymous)
    #expect(second == RemovalOutcome(removedCount: 0, waiterCount: 0))
    #expect(pages.count(of: .removed) == 5)
    #expect(pages.isComplete)
  }

  @Test("on shared memory a removal keeps the source's page")
  func removalOnSharedMemory() throws {
    var pages = try ledger([.missing, .present, .zero])
    _ = pages.fault(at: 0)
    let outcome = pages.removed(0..<3, from: .shared)
    #expect(outcome == RemovalOutcome(removedCount: 0, waiterCount: 0))
    #expect(states(pages) == [.requested, .present, .zero])
  }

  @Test("a seed is staged, replaced, discarded, and installed from the stage")
  func seeds() {
    var pages = PageLedger(fresh: PageStateArray(pageCount: 6))
    pages.staged(0..<4)
    pages.seededZero(3..<5)
    pages.staged(4..<5)
    #expect(states(pages) == [.staged, .staged, .staged, .zero, .staged, .missing])
    pages.discarded(1..<4)
    #expect(states(pages) == [.staged, .missing, .missing, .missing, .staged, .missing])
    #expect(pages.fault(at: 0) == .stageFill)
    #expect(pages.fault(at: 1) == .request)
    #expect(pages.nextAwaitedRun(in: 0..<6) == 1..<4, "what is staged is not awaited")
    pages.installed(0..<4)
    pages.installed(5..<6)
    #expect(!pages.isComplete, "what is staged is not installed yet")
    #expect(pages.zeroArrived(4..<5) == 0)
    #expect(pages.isComplete && states(pages)[4] == .zero)
    #expect(countsAgree(pages))
  }

  @Test("a seed touches no page that is more than a seed")
  func lateSeeds() throws {
    let late: [PageState] = [.present, .removed, .poisoned]
    var pages = try ledger(late + [.missing])
    #expect(pages.fault(at: 3) == .request)
    pages.staged(0..<4)
    pages.seededZero(0..<4)
    pages.discarded(0..<4)
    #expect(states(pages) == late + [.requested])
    #expect(countsAgree(pages))
  }

  @Test("what was staged is missing to the next process")
  func stageDiesWithItsProcess() throws {
    let pages = try ledger([.staged, .present])
    #expect(states(pages) == [.missing, .present])
    #expect(PageState.allCases.filter(\.isSettled) == [.present, .zero, .removed, .poisoned])
  }

  @Test("a removal on private memory takes a staged page as well")
  func removalOfStaged() throws {
    var pages = PageLedger(fresh: PageStateArray(pageCount: 2))
    pages.staged(0..<2)
    #expect(pages.removed(0..<1, from: .privateAnonymous).removedCount == 1)
    #expect(pages.removed(1..<2, from: .shared).removedCount == 0)
    #expect(states(pages) == [.removed, .staged])
  }

  @Test("a zero map leaves the pages that are waited for to be zero-filled now")
  func zeroMap() throws {
    var pages = try ledger([.missing, .missing, .present, .removed, .poisoned, .zero])
    _ = pages.fault(at: 1)
    #expect(pages.zeroArrived(0..<6) == 1)
    #expect(states(pages) == [.zero, .requested, .present, .removed, .poisoned, .zero])
    #expect(!pages.isComplete, "a waiter that was not filled holds completion back")
    #expect(pages.nextRequestedRun(in: 0..<6) == 1..<2)
    pages.installed(1..<2)
    #expect(pages.isComplete)
    #expect(countsAgree(pages))
  }

  @Test("poison replaces what is awaited and is answered again on a duplicate fault")
  func poison() {
    var pages = PageLedger(fresh: PageStateArray(pageCount: 2))
    _ = pages.fault(at: 0)
    #expect(pages.nextAwaitedRun(in: 0..<2) == 0..<2)
    pages.poisoned(0..<2)
    #expect(pages.fault(at: 0) == .poison)
    #expect(pages.isComplete)
    #expect(countsAgree(pages))
  }

  @Test("after a reconnect exactly the requested pages are asked for again, in runs")
  func reRequest() {
    var pages = PageLedger(fresh: PageStateArray(pageCount: 6))
    for flatIndex in [1, 2, 4] { _ = pages.fault(at: flatIndex) }
    #expect(pages.nextRequestedRun(in: 0..<6) == 1..<3)
    #expect(pages.nextRequestedRun(in: 3..<6) == 4..<5)
    #expect(pages.nextRequestedRun(in: 5..<6) == nil)
    #expect(pages.nextRun(of: .missing, in: 1..<6) == 3..<4)
  }

  @Test("a restart turns requested into missing and keeps all else")
  func recovery() throws {
    let bytes = PageState.allCases.map(\.rawValue)
    let pages = try PageLedger(recovering: PageStateArray(bytes: bytes))
    #expect(states(pages) == [.missing, .missing, .present, .zero, .removed, .poisoned, .missing])
    #expect(pages.count(of: .requested) == 0)
    #expect(countsAgree(pages))
  }

  @Test("a byte that is no state is refused, with its place")
  func recoveryOfGarbage() {
    #expect(throws: PageStateError.invalidByte(flatIndex: 1, byte: 7)) {
      _ = try PageLedger(recovering: PageStateArray(bytes: [0, 7]))
    }
  }

  @Test("complete means nothing missing and nothing requested")
  func completeness() {
    var pages = PageLedger(fresh: PageStateArray(pageCount: 2))
    #expect(!pages.isComplete)
    pages.installed(0..<1)
    _ = pages.fault(at: 1)
    #expect(!pages.isComplete)
    pages.installed(1..<2)
    #expect(pages.isComplete)
  }

  @Test("a fresh ledger over used bytes is a bug of ours and stops the process")
  func freshOverUsedBytes() async {
    await #expect(processExitsWith: .failure) {
      _ = PageLedger(fresh: PageStateArray(bytes: [PageState.present.rawValue]))
    }
  }
}
