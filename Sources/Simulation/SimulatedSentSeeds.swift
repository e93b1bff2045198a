/// What the source remembers of the seeds that it has sent, by the rules of `DeltaCache` and
/// `SentDigests` in `PageServer`. A page's content is its version.
struct SimulatedSentSeeds {
  private struct Place {
    /// -1: none.
    var page = -1
    var version: UInt32 = 0
    var sentRound = 0
    /// The round in which it was last looked up.
    var usedRound = 0
  }

  private let mutation: Mutation?
  private var places: [Place]
  /// By page, what was sent last.
  private var digests: [UInt32?]
  private var lostRound = 0

  /// With room for the contents of so many pages; 0: none are kept.
  init(pageCount: Int, placeCount: Int, mutation: Mutation?) {
    self.mutation = mutation
    places = [Place](repeating: Place(), count: min(placeCount, pageCount))
    digests = [UInt32?](repeating: nil, count: pageCount)
  }

  /// What the destination has of a page that is about to be sent; nil when that is not kept.
  mutating func version(of page: Int, round: Int) -> UInt32? {
    guard let place = place(of: page) else { return nil }
    places[place].usedRound = round
    return places[place].version
  }

  /// A page is sent with its contents, or as what has changed of them.
  mutating func sent(_ page: Int, _ version: UInt32, round: Int, takesNew: Bool) {
    guard !places.isEmpty else { return }
    guard round > lostRound || mutation == .lateSeedRemembered else { return forget(page) }
    let place = page % places.count
    let before = places[place]
    // Whoever has been looked up in this round stays.
    guard before.page == page || takesNew && (before.page < 0 || before.usedRound < round)
    else { return }
    places[place] = Place(page: page, version: version, sentRound: round, usedRound: round)
  }

  /// Something else was sent of a page than stands here.
  mutating func forget(_ page: Int) {
    if let place = place(of: page) { places[place].page = -1 }
  }

  /// A round is lost with its link; these pages of it the destination has said it took in.
  mutating func lost(round: Int, except isTaken: [Bool]) {
    lostRound = round
    if mutation == .deltaBaseOfLostRound { return }
    for place in places.indices where places[place].sentRound == round {
      let page = places[place].page
      if page >= 0, !isTaken[page] { places[place].page = -1 }
    }
  }

  /// A page is read, and is about to be sent if it has to be.
  mutating func noteDigest(of page: Int, _ version: UInt32, round: Int) {
    if round > lostRound { digests[page] = version }
  }

  /// Whether a page holds what was sent of it last.
  func isAsSent(_ page: Int, _ version: UInt32) -> Bool { digests[page] == version }

  private func place(of page: Int) -> Int? {
    guard !places.isEmpty else { return nil }
    let place = page % places.count
    return places[place].page == page ? place : nil
  }
}
