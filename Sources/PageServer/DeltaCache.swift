internal import Codec
internal import Pages
internal import System

/// Seeds as they were sent last, so that of a page that is written again only what has changed need
/// be sent. Bounded; small pages only.
///
/// What stands here for a page is what the destination has staged of it, byte for byte: whatever is
/// sent of a page goes in, or makes what stands here forgotten; a round that is lost with its link
/// takes with it what the destination has not said it took in.
///
/// A page has one place, by its number; it keeps that for as long as it is looked up in each round.
/// So of a working set that is larger than the cache a part stays here, where one that makes room
/// for whatever comes would lose each page just before it is needed.
final class DeltaCache: Sendable {
  private static let pageByteCount = PageSize.small.byteCount

  private let mostPlaces: Int
  private let state: Lock<State>

  private struct State: ~Copyable {
    /// One page while there are no places: before the beginning, and behind the end.
    var contents: PageBuffer
    var places: [Place] = []
    /// What is still sent of it, or of an earlier round, counts no more.
    var lostRound: UInt64 = 0
  }

  private struct Place {
    /// The page by its flat index; -1: none.
    var page = -1
    /// The round in which it was sent last.
    var sentRound: UInt64 = 0
    /// The round in which it was last looked up.
    var usedRound: UInt64 = 0
  }

  /// What stands here for some pages: a bit for each of them.
  struct Comparison {
    /// Something stands here.
    var known: UInt32 = 0
    /// And it is what the page holds now.
    var same: UInt32 = 0
  }

  /// A cache that takes at most so much memory, once it is used.
  init(byteCount: UInt64) throws(SystemError) {
    mostPlaces = Int(byteCount) / Self.pageByteCount
    state = Lock(State(contents: try PageBuffer(byteCount: Self.pageByteCount)))
  }

  /// Takes the memory, as far as an image of so many pages can use it. False when there is none:
  /// nothing is kept then.
  func begin(imagePageCount: Int) -> Bool {
    let placeCount = min(mostPlaces, imagePageCount)
    guard placeCount > 0 else { return true }
    return state.withLock { state in
      guard let contents = try? PageBuffer(byteCount: placeCount * Self.pageByteCount) else {
        return false
      }
      state.contents = contents
      state.places = Array(repeating: Place(), count: placeCount)
      return true
    }
  }

  /// Looks up pages that are about to be sent, 32 at most.
  func compare(_ pages: Range<Int>, _ contents: RawSpan, round: UInt64) -> Comparison {
    state.withLock { state in
      var comparison = Comparison()
      guard !state.places.isEmpty else { return comparison }
      for (position, page) in pages.enumerated() {
        let place = page % state.places.count
        guard state.places[place].page == page else { continue }
        state.places[place].usedRound = round
        comparison.known |= 1 << UInt32(position)
        let now = contents.extracting(Self.bytes(position))
        if PageDelta.areEqual(now, state.contents.bytes(Self.bytes(place))) {
          comparison.same |= 1 << UInt32(position)
        }
      }
      return comparison
    }
  }

  /// Writes what has changed of pages since they were sent last to the front of `target`; false
  /// when one of them does not stand here any more.
  func writeDelta(
    of pages: Range<Int>, _ contents: RawSpan, to target: inout MutableRawSpan
  ) -> Bool {
    state.withLock { state in
      guard !state.places.isEmpty else { return false }
      for (position, page) in pages.enumerated() {
        let place = page % state.places.count
        guard state.places[place].page == page else { return false }
        PageDelta.write(
          contents.extracting(Self.bytes(position)),
          since: state.contents.bytes(Self.bytes(place)), to: &target,
          at: position * Self.pageByteCount)
      }
      return true
    }
  }

  /// These pages are sent as seeds of a round, or are just about to be. Of those that do not stand
  /// here others may stay away: what stands here is always what was sent.
  func sent(_ pages: Range<Int>, _ contents: RawSpan, round: UInt64, takesNew: Bool = true) {
    state.withLock { state in
      guard !state.places.isEmpty else { return }
      guard round > state.lostRound else { return Self.forget(pages, &state) }
      for (position, page) in pages.enumerated() {
        let place = page % state.places.count
        let before = state.places[place]
        // Whoever has been looked up in this round stays.
        guard
          before.page == page || takesNew && (before.page < 0 || before.usedRound < round)
        else { continue }
        var room = state.contents.mutableBytes(Self.bytes(place))
        room.copyBytes(of: contents.extracting(Self.bytes(position)), at: 0)
        state.places[place] = Place(page: page, sentRound: round, usedRound: round)
      }
    }
  }

  /// Something else was sent of these pages than stands here.
  func forget(_ pages: Range<Int>) {
    state.withLock { Self.forget(pages, &$0) }
  }

  /// A round is lost with its link; these pages of it the destination has taken in. Threads of that
  /// link may still be about to send: that counts no more.
  func lost(round: UInt64, except taken: PageBitmap) {
    state.withLock { state in
      state.lostRound = round
      for place in state.places.indices {
        let page = state.places[place].page
        if page >= 0, state.places[place].sentRound == round, !taken[page] {
          state.places[place].page = -1
        }
      }
    }
  }

  /// Gives the memory back: nothing is sent as a seed any more.
  func end() {
    state.withLock { state in
      state.places = []
      // Smaller memory where there is some; else what there was is kept.
      if let small = try? PageBuffer(byteCount: Self.pageByteCount) { state.contents = small }
    }
  }

  private static func forget(_ pages: Range<Int>, _ state: inout State) {
    guard !state.places.isEmpty else { return }
    for page in pages {
      let place = page % state.places.count
      if state.places[place].page == page { state.places[place].page = -1 }
    }
  }

  private static func bytes(_ place: Int) -> Range<Int> {
    place * pageByteCount..<(place + 1) * pageByteCount
  }
}
