internal import Glibc
internal import Pages
internal import System
internal import UFFD

/// Finds what was sent and is not there any more, for a log that is not told of it. Of no use, and
/// of no cost, before `begin`.
///
/// Of anonymous and of shared memory: places without a page of which nobody can tell since when
/// they have none. Told is what went with content; what went as zeros is zeros still.
///
/// Of a memory file also pages that were punched out, whether or not the VM has read them since,
/// which makes new ones of zeros:
///
/// ```
///   willSend: pages appear in a mapping of ours ─▶ they are read ─▶ sending: they have content
///                                                                            │
///   look: whatever has content and is not in our mapping is told ◀───────────╯
/// ```
///
/// A punch takes the page out of every mapping, and what the VM does then brings it back into the
/// VM's alone. So, page by page: a punch before the read is sent, as zeros or as what is new, and
/// one behind the read is behind the appearance too, and found. For that nothing may appear in our
/// mapping that is not read behind it: `willSend` makes appear only pages of the round that it is
/// for, with no neighbours, on the one thread that looks, too; they are read in that round, or are
/// left over and sent in a later one. A page that was sent as zeros can be punched unseen: it is
/// zeros still, unless it was written, which the log tells.
///
/// What the host takes away itself (by swapping, by making huge pages) is found as well, and sent
/// again for nothing. A page that could not be made to appear is told at each look.
///
/// Sound where no small page is a part of a large one, see `PagemapLog`.
final class PunchWatch: Sendable {
  /// Pages that went with content, by flat index.
  private let contents = Lock<PageBitmap?>(nil)
  /// nil for memory without a file.
  private let view = Lock<FileView?>(nil)

  /// Nothing was sent yet. Of a file, huge pages are watched where `vmm` tells that the VMM has
  /// them mapped: the file cannot tell which it has.
  func begin(
    _ layout: ImageLayout, file: FileBacking?, vmm: PagemapPieces
  ) throws(SystemError) {
    if let file {
      try view.withLock { view throws(SystemError) in
        view = try FileView(file, layout, vmm: vmm)
      }
    }
    contents.withLock { $0 = PageBitmap(pageCount: Int(layout.totalPageCount.rawValue)) }
  }

  /// Pages are going to be read for a round, from now on. One round at a time.
  func willSend(_ pages: PageBitmap) {
    let isWatched = contents.withLock { contents in
      contents?.subtract(pages)
      return contents != nil
    }
    guard isWatched else { return }
    view.withLock { $0?.populate(pages) }
  }

  /// Pages are just about to be sent with what was read. A thread that still sends for a link that
  /// is lost makes more be told than has to be.
  func sending(_ pages: Range<Int>) {
    contents.withLock { contents in
      guard contents != nil else { return }
      for page in pages { contents?.insert(page) }
    }
  }

  /// Adds what is not in the file any more as it was sent; and of `unmapped`, of which nobody can
  /// tell whether it was written (offsets in the image), whatever is not zeros at both ends.
  func look(
    unmapped: [Range<UInt64>], of layout: ImageLayout, into found: inout ImagePageSet
  ) throws(UFFDError) {
    guard let contents = contents.withLock({ $0 }) else { return }
    for range in unmapped { found.insert(contents, in: range, of: layout) }
    try view.withLock { view throws(UFFDError) in
      try view?.look(contents, unmapped, &found)
    }
  }

  /// Watches no more. Gives the mapping back, which takes a tenth of a second for each GiB.
  func end() {
    contents.withLock { $0 = nil }
    view.withLock { $0 = nil }
  }
}

/// Where a process has pages of the image.
struct PagemapPieces: Sendable {
  let processID: Int32
  let pieces: [PagemapLog.Piece]
}

/// What is mapped here of a memory file.
private struct FileView: ~Copyable, Sendable {
  /// So many ranges stand apart in the mapping at most: the kernel allows some 65 000 mappings.
  private static let maximumApartCount = 4096

  private let file: FileBacking
  private let layout: ImageLayout
  private let mapping: PresenceMapping
  /// Of this process, and of the VMM.
  private let ours: PagemapScanner
  private let vmms: PagemapScanner
  private let pieces: [PagemapLog.Piece]
  private var runs = PagemapRunBuffer()
  private var apartCount = 0
  /// Nothing appears any more beside what is populated; else nothing is.
  private var isSound = true

  init(
    _ file: FileBacking, _ layout: ImageLayout, vmm: PagemapPieces
  ) throws(SystemError) {
    let ours = try Self.scanner(of: getpid())
    let vmms = try Self.scanner(of: vmm.processID)
    let mapping = try file.makePresenceMapping()
    self.file = file
    self.layout = layout
    pieces = vmm.pieces
    self.ours = ours
    self.vmms = vmms
    self.mapping = mapping
  }

  private static func scanner(of processID: Int32) throws(SystemError) -> PagemapScanner {
    do throws(UFFDError) { return try PagemapScanner(processID: processID) } catch {
      throw SystemError("open", "/proc/\(processID)/pagemap", error.errno)
    }
  }

  mutating func look(
    _ contents: PageBitmap, _ unmapped: [Range<UInt64>], _ found: inout ImagePageSet
  ) throws(UFFDError) {
    for region in layout.regions {
      for absent in try absentRanges(in: bytes(of: region)) {
        found.insert(contents, in: absent, of: layout)
      }
      for range in unmapped {
        let range = range.clamped(to: bytes(of: region))
        guard !range.isEmpty else { continue }
        // What is a hole now reads as zeros, and what was sent without content was zeros.
        for data in fileData(in: range) {
          found.insert(from: data.lowerBound, byteCount: UInt64(data.count))
        }
      }
    }
  }

  /// Makes those of the pages present that are in the file, and no others.
  mutating func populate(_ pages: PageBitmap) {
    for region in layout.regions {
      // What cannot be found out stays absent, and is told at the next look.
      guard let absent = try? absentRanges(in: bytes(of: region)) else { continue }
      for range in absent {
        var wanted: [Range<UInt64>] = []
        layout.forEachRun(of: pages, in: range) { wanted.append($0) }
        for run in wanted {
          for data in data(in: run, of: region) { populate(data) }
        }
      }
    }
    rejoin()
  }

  private mutating func populate(_ range: Range<UInt64>) {
    guard isSound else { return }
    let start = mapping.startAddress
    _ = mapping.populate(start + range.lowerBound..<start + range.upperBound)
    apartCount += 1
    if apartCount >= Self.maximumApartCount { rejoin() }
  }

  private mutating func rejoin() {
    if apartCount > 0, !mapping.rejoin() { isSound = false }
    apartCount = 0
  }

  /// What is not in our mapping. Asked the other way round: the kernel does not speak of every
  /// stretch without a page table.
  private mutating func absentRanges(
    in range: Range<UInt64>
  ) throws(UFFDError) -> [Range<UInt64>] {
    let base = mapping.startAddress
    var absent: [Range<UInt64>] = []
    var position = range.lowerBound
    let addresses = HostRange(
      start: HostAddress(rawValue: base + range.lowerBound),
      end: HostAddress(rawValue: base + range.upperBound))
    try ours.scanAll(addresses, for: PagemapQuestion(required: .isPresent), into: &runs) {
      let start = $0.range.start.rawValue - base
      if position < start { absent.append(position..<start) }
      position = $0.range.end.rawValue - base
    }
    if position < range.upperBound { absent.append(position..<range.upperBound) }
    return absent
  }

  private mutating func data(in range: Range<UInt64>, of region: Region) -> [Range<UInt64>] {
    region.pageSize == .small ? fileData(in: range) : vmmPages(in: range)
  }

  /// What is no hole of the file; of huge pages everything.
  private func fileData(in range: Range<UInt64>) -> [Range<UInt64>] {
    var found: [Range<UInt64>] = []
    var position = range.lowerBound
    var start = position
    while position < range.upperBound {
      do throws(MemoryError) {
        position = try file.searchAbsent(in: position..<range.upperBound) { hole in
          if start < hole.lowerBound { found.append(start..<hole.lowerBound) }
          start = hole.upperBound
        }
      } catch {
        // It may be there.
        break
      }
    }
    if start < range.upperBound { found.append(start..<range.upperBound) }
    return found
  }

  /// Huge pages that the VMM has mapped. One that is punched in this moment is allocated anew.
  private mutating func vmmPages(in range: Range<UInt64>) -> [Range<UInt64>] {
    var found: [Range<UInt64>] = []
    for piece in pieces {
      let part = range.clamped(to: piece.bytes)
      guard !part.isEmpty else { continue }
      let shift = piece.range.start.rawValue &- piece.imageOffset
      let addresses = HostRange(
        start: HostAddress(rawValue: part.lowerBound &+ shift),
        end: HostAddress(rawValue: part.upperBound &+ shift))
      // What is not found is told at the next look.
      try? vmms.scanAll(
        addresses, for: PagemapQuestion(required: .isPresent), into: &runs
      ) { found.append($0.range.start.rawValue &- shift..<$0.range.end.rawValue &- shift) }
    }
    return found
  }

  private func bytes(of region: Region) -> Range<UInt64> {
    let start = region.imageOffset.rawValue
    return start..<start + region.byteCount.rawValue
  }
}
