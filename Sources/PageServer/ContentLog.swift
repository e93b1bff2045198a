internal import Codec
internal import Pages
internal import System
internal import VMM
internal import Wire

/// Finds what was written by comparing all of the memory with what was sent: for a VM whose writes
/// nobody tells.
///
/// It costs a read of all memory and a digest of each page, a second and more for each GiB, at each
/// look, the last one included, for which the VM stands still. It needs nothing of the VMM, and is
/// never wrong: what it calls unwritten is what the destination has.
final class ContentLog: DirtyLog {
  private let vmName: String
  private let backing: any MemoryBacking
  private let layout: ImageLayout
  private let digests: SentDigests
  private let reader: Lock<Reader>

  private struct Reader: ~Copyable {
    var buffer: PageBuffer
    var hasher = PageHasher()
  }

  init(
    vmName: String, _ backing: any MemoryBacking, _ layout: ImageLayout, _ digests: SentDigests
  ) throws(SystemError) {
    self.vmName = vmName
    self.backing = backing
    self.layout = layout
    self.digests = digests
    reader = Lock(
      Reader(buffer: try PageBuffer(byteCount: RunLoader.largestByteCount(of: layout))))
  }

  var isCheap: Bool { false }

  /// From now on it is noted what is sent.
  func startDirtyLog() throws(VMMError) {
    digests.begin(pageCount: Int(layout.totalPageCount.rawValue))
  }

  /// What is not as it was sent, and what was not sent.
  func fetchDirtyLog() throws(VMMError) -> [UInt8] {
    var written = ImagePageSet(layout)
    do throws(MemoryError) {
      for region in layout.regions { try compare(region, &written) }
    } catch {
      throw self.error("\(error)")
    }
    guard digests.isWanted else { throw error("the rounds were ended meanwhile") }
    return written.bits
  }

  /// Notes nothing any more.
  func stopDirtyLog() throws(VMMError) { digests.end() }

  private func error(_ text: String) -> VMMError {
    VMMError(
      vmName: vmName, verb: .fetchDirtyLog, address: backing.source.description,
      problem: .failed(text))
  }

  private func compare(_ region: Region, _ written: inout ImagePageSet) throws(MemoryError) {
    let size = region.pageSize.byteCount
    let count = Int(region.pageCount.rawValue)
    let step = Int(WireLimits.maximumRunPageCount(of: region.pageSize).rawValue)
    let first = layout.flatIndex(of: PageID(region: region.index, page: PageIndex(rawValue: 0)))
    let base = region.imageOffset.rawValue
    var page = 0
    // Whoever has ended the rounds waits for nobody to look at all of the memory.
    while page < count, digests.isWanted {
      let pages = page..<min(page + step, count)
      let found = try reader.withLock { reader throws(MemoryError) in
        try read(base + UInt64(page * size), pages.count, size, &reader)
      }
      for (position, digest) in found.enumerated() {
        // Behind a page that is broken nothing was read: these are looked at the next time.
        let isAsSent = digest.map { digests.isAsSent(first + page + position, $0) } ?? false
        if !isAsSent {
          written.insert(from: base + UInt64((page + position) * size), byteCount: UInt64(size))
        }
      }
      page = pages.upperBound
    }
  }

  /// The digests of pages; nil of those that are broken, and behind them.
  private func read(
    _ offset: UInt64, _ pageCount: Int, _ pageByteCount: Int, _ reader: inout Reader
  ) throws(MemoryError) -> [PageDigest?] {
    var soundCount = pageCount
    var room = reader.buffer.mutableBytes(0..<pageCount * pageByteCount)
    if case .poisoned(let place) = try backing.read(
      into: &room, at: offset, pageByteCount: pageByteCount)
    {
      soundCount = place / pageByteCount
    }
    var found: [PageDigest?] = []
    for position in 0..<pageCount {
      let bytes = position * pageByteCount..<(position + 1) * pageByteCount
      found.append(
        position < soundCount ? Self.digest(reader.buffer, bytes, by: &reader.hasher) : nil)
    }
    return found
  }

  // A span of one property and a change of another: apart they exclude each other not.
  private static func digest(
    _ buffer: borrowing PageBuffer, _ range: Range<Int>, by hasher: inout PageHasher
  ) -> PageDigest { hasher.digest(of: buffer.bytes(range)) }
}
