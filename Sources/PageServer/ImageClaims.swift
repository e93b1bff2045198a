internal import Pages
internal import Prefetch
internal import System

/// Which pages are sent or about to be sent, shared by all threads of one session: what makes each
/// page pushed once.
final class ImageClaims: ClaimedPages, Sendable {
  private let bitmap: AtomicPageBitmap

  init(layout: ImageLayout) {
    bitmap = AtomicPageBitmap(pageCount: Int(layout.totalPageCount.rawValue))
  }

  /// Claims one page; true for the one caller that may push it.
  func claim(_ flatIndex: Int) -> Bool { bitmap.insert(flatIndex) }

  /// Claims all pages of a range; how many of them were not claimed before.
  func claim(_ range: Range<Int>) -> Int { bitmap.insert(range) }

  /// Claims exactly these pages. Before anything is pushed or answered.
  func reset(to pages: PageBitmap) {
    bitmap.removeAll()
    var position = 0
    while let run = pages.nextRun(
      from: position, before: pages.pageCount, limit: pages.pageCount)
    {
      _ = bitmap.insert(run)
      position = run.upperBound
    }
  }

  func isClaimed(_ flatIndex: Int) -> Bool { bitmap.contains(flatIndex) }

  func firstUnclaimed(from start: Int, before end: Int) -> Int? {
    bitmap.first(isSet: false, from: start, before: end)
  }

  func firstClaimed(from start: Int, before end: Int) -> Int? {
    bitmap.first(isSet: true, from: start, before: end)
  }
}
