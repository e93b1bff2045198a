internal import Pages

extension SourceContext {
  /// Claims every page that the backing does not hold, so that no push ever reads one: the
  /// destination has them. One that is demanded all the same is memory lost.
  func claimUnheld() {
    do throws(MemoryError) {
      for region in layout.regions {
        let start = region.imageOffset.rawValue
        let end = start + region.byteCount.rawValue
        let size = UInt64(region.pageSize.byteCount)
        let first = layout.flatIndex(of: PageID(region: region.index, page: PageIndex(0)))
        var position = start
        while position < end {
          position = try backing.searchUnheld(in: position..<end) { unheld in
            let pages =
              first + Int((unheld.lowerBound - start) / size)..<first
              + Int((unheld.upperBound - start) / size)
            counters.claimed(pageCount: claims.claim(pages))
          }
        }
      }
    } catch {
      loseMemory(error)
    }
  }
}
