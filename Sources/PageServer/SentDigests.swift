internal import Codec
internal import Pages
internal import System

/// A digest of each page as it was sent last, for whoever has to find out what was written by
/// looking at all of it. Of no use, and of no cost, before `begin`.
///
/// What stands here for a page must be what was sent of it: what is still sent of a lost round,
/// by a thread of its link, does not count; its pages are sent again in any case.
final class SentDigests: Sendable {
  private let state = Lock(State())

  private struct State {
    var digests: [PageDigest] = []
    /// Pages that were sent.
    var sent = PageBitmap(pageCount: 0)
    var lostRound: UInt64 = 0
  }

  /// Nothing was sent yet of so many pages.
  func begin(pageCount: Int) {
    state.withLock { state in
      state.sent = PageBitmap(pageCount: pageCount)
      state.digests = Array(repeating: PageDigest.none, count: pageCount)
    }
  }

  /// Whether anybody wants digests.
  var isWanted: Bool { state.withLock { !$0.digests.isEmpty } }

  /// A page is just about to be sent as a seed of a round.
  func sent(_ page: Int, _ digest: PageDigest, round: UInt64) {
    state.withLock { state in
      guard round > state.lostRound, page < state.digests.count else { return }
      state.digests[page] = digest
      state.sent.insert(page)
    }
  }

  /// A round is lost with its link.
  func lost(round: UInt64) { state.withLock { $0.lostRound = round } }

  /// Whether a page holds what was sent of it. Of an ended session nothing is known.
  func isAsSent(_ page: Int, _ digest: PageDigest) -> Bool {
    state.withLock { state in
      page < state.digests.count && state.sent[page] && state.digests[page] == digest
    }
  }

  /// Gives the memory back. Ends a look that is under way, on whatever thread.
  func end() {
    state.withLock { state in
      state.digests = []
      state.sent = PageBitmap(pageCount: 0)
    }
  }
}
