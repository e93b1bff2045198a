internal import Pages
internal import System
internal import Wire

/// One link's part in the rounds of seeds: what the bulk threads still have to send of a round, and
/// which of them the destination has answered to.
///
/// ```
///   seeder ── begin(round) ──▶ bulk threads: next, next, … then the end of the round, on each
///      ▲                                                                    │ answered on each
///      └──────────────────────────── news ──────────────────────────────────╯
/// ```
///
/// A round ends only when the destination has taken in all of it, on every connection: so no seed
/// can be overtaken by one of a later round, or by the discards (P3).
final class SeedFeed: Sendable {
  /// How a round stands.
  enum Progress {
    case running
    /// All that was sent is taken in. Pages that were not are poisoned, or left over after `stop`.
    case applied(unsent: PageBitmap, sentByteCount: UInt64, savedByteCount: UInt64)
    /// The link is lost. The destination has said of these pages that it has taken them in; of the
    /// others nobody knows.
    case lost(taken: PageBitmap)
  }

  /// Signalled when the round has ended or the link is lost. For the seeder alone.
  let news: WakeEvent
  private let layout: ImageLayout
  private let state: Lock<State>

  private struct State {
    var round: UInt64 = 0
    var pages: PageBitmap
    /// Pages before it were taken, or were none of the round's.
    var position = 0
    var takenCount = 0
    /// Pages whose seeds are to be dropped.
    var stale: PageBitmap?
    var sentByteCount: UInt64 = 0
    var savedByteCount: UInt64 = 0
    var isStopped = false
    /// When the destination, or the round, last went on.
    var lastProgress: Instant
    /// Pages of the round that could not be sent.
    var skipped: PageBitmap
    /// Pages of the round that the destination has taken in, as far as credit tells.
    var taken: PageBitmap
    /// By bulk connection: what is on its way.
    var underWay: [SeedsUnderWay] = []
    /// By bulk connection: the last round whose end was said, and was answered.
    var ended: [UInt64] = []
    var answered: [UInt64] = []
    var isOver = false
    var isApplied: Bool { !answered.isEmpty && answered.allSatisfy { $0 == round } }
  }

  init(layout: ImageLayout) throws(SystemError) {
    self.layout = layout
    news = try WakeEvent()
    let none = PageBitmap(pageCount: Int(layout.totalPageCount.rawValue))
    state = Lock(
      State(pages: none, lastProgress: MonotonicClock.now(), skipped: none, taken: none))
  }

  // MARK: For the seeder

  /// Gives the bulk threads, of which there are so many, a round, at whose end the seeds of some
  /// pages are named as stale; wake them afterwards.
  func begin(
    round: UInt64, _ pages: PageBitmap, naming stale: PageBitmap? = nil, connectionCount: Int
  ) {
    state.withLock { state in
      state.round = round
      state.stale = stale
      state.pages = pages
      state.position = 0
      state.takenCount = 0
      state.sentByteCount = 0
      state.savedByteCount = 0
      state.isStopped = false
      state.lastProgress = MonotonicClock.now()
      state.skipped = PageBitmap(pageCount: pages.pageCount)
      state.taken = state.skipped
      // The last round has come whole, whatever credit has still to tell of it.
      for position in state.underWay.indices { state.underWay[position].forget() }
      while state.underWay.count < connectionCount { state.underWay.append(SeedsUnderWay()) }
      state.ended = Array(repeating: 0, count: connectionCount)
      state.answered = state.ended
    }
  }

  /// Sends no more of the round; its end is said and answered all the same. Wake them afterwards.
  func stop() {
    state.withLock { state in
      state.isStopped = true
      state.position = state.pages.pageCount
    }
  }

  /// What the destination has said of the round that it has taken in.
  var taken: PageBitmap { state.withLock { $0.taken } }

  /// How many pages of the round were taken to be read.
  var takenCount: Int { state.withLock { $0.takenCount } }

  /// The pages of the round that nobody has taken to be read: whoever takes one reads it later.
  var untaken: PageBitmap { state.withLock { $0.pages } }

  /// When the destination, or the round, last went on.
  var lastProgress: Instant { state.withLock { $0.lastProgress } }

  /// How the round stands. `stop` loses nothing of it: what was not sent is told.
  func progress() -> Progress {
    news.drain()
    return state.withLock { state in
      if state.isOver { return .lost(taken: state.taken) }
      guard state.isApplied else { return .running }
      var unsent = state.pages
      unsent.formUnion(state.skipped)
      return .applied(
        unsent: unsent, sentByteCount: state.sentByteCount,
        savedByteCount: state.savedByteCount)
    }
  }

  // MARK: For the link

  /// The round that is being sent.
  var round: UInt64 { state.withLock { $0.round } }

  /// The next pages to send, no more than one frame may hold; nil when there are none now.
  func next() -> PageRun? {
    state.withLock { state in
      guard !state.isOver,
        let first = state.pages.firstSet(from: state.position, before: state.pages.pageCount)
      else { return nil }
      let id = layout.pageID(atFlatIndex: first)
      let region = layout.regions[Int(id.region.rawValue)]
      let end = first + Int(region.pageCount.rawValue - id.page.rawValue)
      let limit = Int(WireLimits.maximumRunPageCount(of: region.pageSize).rawValue)
      guard let run = state.pages.nextRun(from: first, before: end, limit: limit) else {
        invariantBroken("the first page that is set begins a run")
      }
      for page in run { state.pages.remove(page) }
      state.position = run.upperBound
      state.takenCount += run.count
      state.lastProgress = MonotonicClock.now()
      return PageRun(region: id.region, start: id.page, count: PageCount(run.count))
    }
  }

  /// What is taken and not sent yet need not be sent any more: see `skip`.
  var isStopped: Bool { state.withLock { $0.isStopped } }

  /// These pages are about to be sent on a bulk connection: so many bytes of them, which use credit
  /// up, and of which so many need not be sent.
  func sending(
    _ pages: Range<Int>, byteCount: UInt64, savedByteCount: UInt64 = 0, on position: Int
  ) {
    state.withLock { state in
      state.sentByteCount += byteCount - min(savedByteCount, byteCount)
      state.savedByteCount += savedByteCount
      guard position < state.underWay.count else { return }
      state.underWay[position].sent(pages, byteCount: byteCount)
    }
  }

  /// The destination has given credit up to that sum on a bulk connection: it takes in what it is
  /// sent.
  func granted(total: UInt64, on position: Int) {
    state.withLock { state in
      state.lastProgress = MonotonicClock.now()
      while state.underWay.count <= position { state.underWay.append(SeedsUnderWay()) }
      state.underWay[position].granted(total: total) { pages in
        for page in pages { state.taken.insert(page) }
      }
    }
  }

  /// Nothing is awaited of the destination now: it is we who hold back.
  func noteProgress() { state.withLock { $0.lastProgress = MonotonicClock.now() } }

  /// Pages that were taken and are not sent: they are poisoned, or the round was stopped.
  func skip(_ pages: Range<Int>) {
    state.withLock { state in
      for page in pages { state.skipped.insert(page) }
    }
  }

  /// The pages to be named as stale before the round's end is said, on one connection.
  func takeStale() -> PageBitmap? { state.withLock { $0.stale.take() } }

  /// The round whose end is to be said on a bulk connection that has nothing more to send of it;
  /// nil when it was said already.
  func takeEnd(on position: Int) -> UInt64? {
    state.withLock { state in
      guard state.round > 0, position < state.ended.count, state.ended[position] < state.round
      else { return nil }
      state.ended[position] = state.round
      return state.round
    }
  }

  /// The destination has answered a round's end on a bulk connection.
  func applied(_ round: UInt64, on position: Int) throws(WireError) {
    let isWhole = try state.withLock { state throws(WireError) in
      guard position < state.ended.count, round == state.ended[position], round > 0,
        state.answered[position] < round
      else { throw .misplaced(.seedRoundApplied, from: .destination, on: .bulk) }
      state.answered[position] = round
      state.lastProgress = MonotonicClock.now()
      return state.isApplied
    }
    if isWhole { news.signal() }
  }

  /// The link is over.
  func end() {
    state.withLock { $0.isOver = true }
    news.signal()
  }
}
