public import Pages

/// Which pages somebody has sent already or is about to send, by flat index.
///
/// Claims are only ever added. The source keeps them in a bitmap of atomic words that urgent and
/// bulk threads share; `PageBitmap` serves tests and simulation. A search may be a moment old: a
/// page that it calls unclaimed can be claimed by the time that it is sent, so the sender claims
/// first and sends what it won.
public protocol ClaimedPages: ~Copyable {
  /// Whether the page is claimed.
  func isClaimed(_ flatIndex: Int) -> Bool
  /// The first unclaimed page in `start..<end`; takes 64 pages at a time.
  func firstUnclaimed(from start: Int, before end: Int) -> Int?
  /// The first claimed page in `start..<end`; takes 64 pages at a time.
  func firstClaimed(from start: Int, before end: Int) -> Int?
}

extension PageBitmap: ClaimedPages {
  /// Whether the page's bit is set.
  public func isClaimed(_ flatIndex: Int) -> Bool { self[flatIndex] }

  /// The first page in `start..<end` whose bit is clear.
  public func firstUnclaimed(from start: Int, before end: Int) -> Int? {
    firstClear(from: start, before: end)
  }

  /// The first page in `start..<end` whose bit is set.
  public func firstClaimed(from start: Int, before end: Int) -> Int? {
    firstSet(from: start, before: end)
  }
}
