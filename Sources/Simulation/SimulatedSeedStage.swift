/// Neighbouring pages as they go over one bulk connection in a round.
struct SeedFrame {
  /// What goes of them.
  enum Content {
    /// All that they hold.
    case whole
    /// What has changed of them since they held these versions.
    case delta(since: [UInt32])
    /// That they read as zeros.
    case zeros
    /// Nothing: the destination has them as they are.
    case same
  }

  let pages: Range<Int>
  let versions: [UInt32]
  let content: Content
}

/// What a destination has taken in of the rounds.
struct SimulatedSeedStage {
  /// What a delta makes of another page than it was made against.
  private static let garbage = SimulatedMemory.poison - 2

  private let mutation: Mutation?
  /// By page, what came last: 0 is a page of zeros, nil one that is missing.
  private(set) var versions: [UInt32?]

  init(pageCount: Int, mutation: Mutation?) {
    self.mutation = mutation
    versions = [UInt32?](repeating: nil, count: pageCount)
  }

  /// Takes a frame in; `isFull`: there is no memory for what has to be written. False, and nothing
  /// taken in, when its checksum is another than that of its pages: that ends the link.
  mutating func take(_ frame: SeedFrame, isFull: Bool) -> Bool {
    switch frame.content {
    case .same: break
    case .zeros: put(frame.versions, at: frame.pages)
    case .whole: isFull ? drop(frame.pages) : put(frame.versions, at: frame.pages)
    case .delta(let bases):
      // Zeros lie nowhere that a delta could be applied to.
      guard frame.pages.allSatisfy({ (versions[$0] ?? 0) != 0 }) else {
        if mutation != .staleSeedBesideDelta { drop(frame.pages) }
        return true
      }
      let made = frame.pages.indices.map { page in
        let offset = page - frame.pages.lowerBound
        return versions[page] == bases[offset] ? frame.versions[offset] : Self.garbage
      }
      guard made == frame.versions else { return false }
      isFull ? drop(frame.pages) : put(made, at: frame.pages)
    }
    return true
  }

  private mutating func put(_ contents: [UInt32], at pages: Range<Int>) {
    for (page, content) in zip(pages, contents) { versions[page] = content }
  }

  private mutating func drop(_ pages: Range<Int>) {
    for page in pages { versions[page] = nil }
  }
}
