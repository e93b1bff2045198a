public import Pages

/// What a fault asks of the fault handler, decided by the page's state.
@frozen
public enum FaultAnswer: Hashable, Sendable {
  /// First fault on a page of the source: send a request. The page is marked requested.
  case request
  /// Asked for already; its arrival wakes this waiter as well. Duplicates are normal.
  case alreadyRequested
  /// Reads as zeros: ZEROPAGE (hugetlb: COPY of zeros), then `installed`; EEXIST ⇒ wake.
  case zeroFill
  /// We hold it as present, yet it faulted: either the message is a duplicate, or the page was
  /// punched out without an event (fallocate). ZEROPAGE tells the two apart: EEXIST ⇒ wake.
  /// Waking alone livelocks on a punched page.
  case refillOrWake
  /// Poisoned at the source: POISON again; EEXIST ⇒ wake.
  case poison
  /// Seeded: COPY from the stage, then `installed`; EEXIST ⇒ wake.
  case stageFill
}

/// What a REMOVE event changed.
@frozen
public struct RemovalOutcome: Hashable, Sendable {
  /// Pages that are removed now and were not before.
  public var removedCount: Int
  /// Pages among them that vCPUs wait for. When it is not 0, wake the event's range: the waiters
  /// fault again and are answered `zeroFill`, since no answer of the source will wake them now.
  public var waiterCount: Int

  /// An outcome with both counts.
  @inlinable
  public init(removedCount: Int, waiterCount: Int) {
    self.removedCount = removedCount
    self.waiterCount = waiterCount
  }
}

/// Why recorded page states cannot be trusted: the session parks, an operator decides.
public enum PageStateError: Error, Hashable, Sendable {
  /// The byte is no page state.
  case invalidByte(flatIndex: Int, byte: UInt8)
}

/// The rules of the destination for each page: what a fault, an arrival, a zero map and a removal
/// do, with the number of pages in each state.
///
/// ```
///                fault                       COPY done, EEXIST
///    missing ───────────▶ requested ─────────────────────────────▶ present
///       │ ╰──────────────────┼───────────── push arrives ────────────▶ ▲
///       │ zero map           │ zero map ⇒ ZEROPAGE now ────────────────╯
///       ▼                    │                                         ▲
///      zero ─────────────────┼──── fault ⇒ ZEROPAGE ───────────────────╯
///    missing, requested, present, zero, poisoned ── REMOVE (private) ──▶ removed ── fault ⇒ zeros
///
///    before faults are answered:     missing ⇄ staged ⇄ zero      (seeds, discards)
///    then:                           staged ── COPY from the stage ──▶ present
///      or, of seeds in the memory itself, all at once before the first fault
/// ```
///
/// Whoever holds the *fill lock* calls it: reading events and marking them excludes every check,
/// fill and mark. Nothing here allocates. Ranges are flat indices inside one region.
///
/// A fill is marked only *after* its ioctl succeeded, so a process that dies in between leaves
/// `missing` for a page that is there; EEXIST on the next fill puts that right (P2).
public struct PageLedger<Store: PageStateStore & ~Copyable>: ~Copyable {
  @usableFromInline var states: Store
  @usableFromInline var counts: [7 of Int]

  /// A ledger for a fresh session: every byte of the store must be `missing`.
  @inlinable
  public init(fresh store: consuming Store) {
    let pageCount = store.pageCount
    for flatIndex in 0..<pageCount {
      invariant(
        store.load(flatIndex) == PageState.missing.rawValue,
        "a fresh page-state store holds missing pages only")
    }
    states = store
    counts = .init(repeating: 0)
    counts[Int(PageState.missing.rawValue)] = pageCount
  }

  /// A ledger over states that an earlier process recorded.
  ///
  /// Recorded requests become missing: whoever waited is woken (UFFDIO_WAKE over every range) and
  /// faults again. What was staged is lost with its process, and missing as well; what was staged
  /// in the memory itself is not lost, and whoever recovers it has to see to that first. The two
  /// disagreements with the kernel heal at the first touch: recorded missing but there ⇒ EEXIST ⇒
  /// present; recorded present but absent ⇒ the guest removed it ⇒ `refillOrWake` gives zeros, and
  /// the source's old bytes are never fetched again.
  @inlinable
  public init(recovering store: consuming Store) throws(PageStateError) {
    var store = store
    var counts: [7 of Int] = .init(repeating: 0)
    for flatIndex in 0..<store.pageCount {
      let byte = store.load(flatIndex)
      guard var state = PageState(rawValue: byte) else {
        throw .invalidByte(flatIndex: flatIndex, byte: byte)
      }
      if state == .requested || state == .staged {
        state = .missing
        store.store(state.rawValue, at: flatIndex)
      }
      counts[Int(state.rawValue)] += 1
    }
    states = store
    self.counts = counts
  }

  /// How many pages it keeps.
  @inlinable
  public var pageCount: Int { states.pageCount }

  /// How many pages are in that state. Constant time.
  @inlinable
  public func count(of state: PageState) -> Int { counts[Int(state.rawValue)] }

  /// Everything is installed, or needs no installing (P4). Staged pages are not.
  @inlinable
  public var isComplete: Bool { isAllHere && count(of: .staged) == 0 }

  /// Nothing is awaited from the source: what is not installed lies in the stage.
  @inlinable
  public var isAllHere: Bool { count(of: .missing) == 0 && count(of: .requested) == 0 }

  /// The page's state.
  @inlinable
  public subscript(flatIndex: Int) -> PageState {
    guard let state = PageState(rawValue: states.load(flatIndex)) else {
      invariantBroken("only the ledger writes the page states while it lives")
    }
    return state
  }
}

extension PageLedger: Copyable where Store: Copyable {}
extension PageLedger: Sendable where Store: Sendable & ~Copyable {}

extension PageLedger where Store: ~Copyable {
  /// A vCPU (or the VMM, loading device state) touched a page that is not mapped.
  @inlinable
  public mutating func fault(at flatIndex: Int) -> FaultAnswer {
    switch self[flatIndex] {
    case .missing:
      set(.requested, at: flatIndex)
      return .request
    case .requested: return .alreadyRequested
    case .present: return .refillOrWake
    case .zero, .removed: return .zeroFill
    case .poisoned: return .poison
    case .staged: return .stageFill
    }
  }

  /// The next pages of an arrived run that may be filled (COPY, POISON); nil when the rest is to be
  /// dropped. Call it anew after each fill and whenever the fill lock was released in between.
  @inlinable
  public func nextAwaitedRun(in range: Range<Int>) -> Range<Int>? {
    nextRun(in: range) { $0.isAwaited }
  }

  /// The next pages of a range that vCPUs wait for: to fill after a zero map, to ask for again
  /// after a reconnect.
  @inlinable
  public func nextRequestedRun(in range: Range<Int>) -> Range<Int>? {
    nextRun(in: range) { $0 == .requested }
  }

  /// The next pages of a range that are in `state`.
  @inlinable
  public func nextRun(of state: PageState, in range: Range<Int>) -> Range<Int>? {
    nextRun(in: range) { $0 == state }
  }

  /// The pages are in place: COPY or ZEROPAGE succeeded for them, or said EEXIST (then wake).
  ///
  /// Legal from every state: a fill that raced nobody comes from an awaited page, a zero fill from
  /// zero or removed, a refill from present; EEXIST proves presence whatever we believed.
  @inlinable
  public mutating func installed(_ range: Range<Int>) {
    for flatIndex in range where self[flatIndex] != .present { set(.present, at: flatIndex) }
  }

  /// POISON succeeded for these pages. EEXIST instead of success is `installed`.
  @inlinable
  public mutating func poisoned(_ range: Range<Int>) {
    for flatIndex in range where self[flatIndex] != .poisoned { set(.poisoned, at: flatIndex) }
  }

  /// The source says that the range reads as zeros. Missing pages become zero.
  ///
  /// Requested ones stay requested and are counted in the result: a vCPU waits, so ZEROPAGE them
  /// now (`nextRequestedRun`) and call `installed`. All other pages keep their state: one that is
  /// here already may have been written by the guest. A seed says nothing else, or is overruled.
  @inlinable
  public mutating func zeroArrived(_ range: Range<Int>) -> Int {
    var waiterCount = 0
    for flatIndex in range {
      switch self[flatIndex] {
      case .missing, .staged: set(.zero, at: flatIndex)
      case .requested: waiterCount += 1
      case .present, .zero, .removed, .poisoned: break
      }
    }
    return waiterCount
  }

  /// Seeds of these pages lie in the stage now.
  ///
  /// For the time before faults are answered, as `seededZero` and `discarded`: pages are missing,
  /// zero or staged then. One that is anything else keeps its state, and no seed touches it.
  @inlinable
  public mutating func staged(_ range: Range<Int>) { seed(range, as: .staged) }

  /// These pages read as zeros at the source when they were seeded.
  @inlinable
  public mutating func seededZero(_ range: Range<Int>) { seed(range, as: .zero) }

  /// The seeds of these pages are stale: they are missing again (P3).
  @inlinable
  public mutating func discarded(_ range: Range<Int>) { seed(range, as: .missing) }

  @inlinable
  mutating func seed(_ range: Range<Int>, as state: PageState) {
    for flatIndex in range {
      switch self[flatIndex] {
      case .missing, .zero, .staged: set(state, at: flatIndex)
      case .requested, .present, .removed, .poisoned: break
      }
    }
  }

  /// A REMOVE event was read for the range.
  ///
  /// On shared memory it changes nothing: the kernel cannot tell MADV_DONTNEED, which keeps the
  /// content, from MADV_REMOVE, which frees it; old content is legal after the latter (the guest
  /// gave the page away), zeros after the former would be corruption.
  @inlinable
  public mutating func removed(_ range: Range<Int>, from memory: MemoryKind) -> RemovalOutcome {
    var outcome = RemovalOutcome(removedCount: 0, waiterCount: 0)
    guard memory == .privateAnonymous else { return outcome }
    for flatIndex in range {
      let state = self[flatIndex]
      if state == .removed { continue }
      if state == .requested { outcome.waiterCount += 1 }
      set(.removed, at: flatIndex)
      outcome.removedCount += 1
    }
    return outcome
  }

  @inlinable
  func nextRun(in range: Range<Int>, where isWanted: (PageState) -> Bool) -> Range<Int>? {
    var start = range.lowerBound
    while start < range.upperBound, !isWanted(self[start]) { start += 1 }
    if start == range.upperBound { return nil }
    var end = start + 1
    while end < range.upperBound, isWanted(self[end]) { end += 1 }
    return start..<end
  }

  @inlinable
  mutating func set(_ state: PageState, at flatIndex: Int) {
    counts[Int(self[flatIndex].rawValue)] -= 1
    counts[Int(state.rawValue)] += 1
    states.store(state.rawValue, at: flatIndex)
  }
}
