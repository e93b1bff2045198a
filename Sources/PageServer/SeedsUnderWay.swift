/// What is on its way to the destination on one bulk connection, and of which of it the credit that
/// comes back tells that it has been taken in. Pure.
///
/// A destination gives credit for what it has taken in, beyond the window that it begins with; what
/// goes over one connection is taken in in the order in which it was sent. So its grants tell, as
/// far as they go, what is there whatever becomes of the link.
struct SeedsUnderWay {
  /// Pages in the order in which they were sent, and the sum of bytes that the destination has
  /// taken in when they are there.
  private var sent: [(pages: Range<Int>, threshold: UInt64)] = []
  /// Those before it are taken in.
  private var first = 0
  private var sentByteCount: UInt64 = 0
  /// The first grant, of which nothing was taken in yet.
  private var window: UInt64?

  /// Pages have been sent, behind all others: so many bytes that use credit up. Pages without any,
  /// zeros, are told to be there by bytes that come behind them.
  mutating func sent(_ pages: Range<Int>, byteCount: UInt64) {
    sentByteCount += byteCount
    // Content is bounded by the window, zeros by nothing: what is not noted is sent again.
    guard byteCount > 0 || sent.count - first < Self.maximumRunCount else { return }
    sent.append((pages, byteCount > 0 ? sentByteCount : sentByteCount + 1))
  }

  /// Credit was given up to that sum; `taken` is called with what is there, by that, for the first
  /// time. A peer that gives more than it was sent tells of all that was sent, and no more.
  mutating func granted(total: UInt64, taken: (Range<Int>) -> Void) {
    guard let window else {
      window = total
      return
    }
    let takenByteCount = total > window ? total - window : 0
    while first < sent.count, sent[first].threshold <= takenByteCount {
      taken(sent[first].pages)
      first += 1
    }
    // Moved up now and then: a window holds a few hundred runs.
    if first > Self.moveUpCount {
      sent.removeFirst(first)
      first = 0
    }
  }

  /// The destination has taken in everything: that says nothing of what is sent from now on, of
  /// the same pages perhaps.
  mutating func forget() {
    sent.removeAll(keepingCapacity: true)
    first = 0
  }

  private static let moveUpCount = 1024
  /// A window of single pages, and as many runs of zeros again.
  static let maximumRunCount = 2048
}
