internal import Pages
internal import System
internal import UFFD

extension PagemapLog {
  /// The log of a process's writes to its private memory, or to a memory file that it has mapped;
  /// nil where the kernel cannot tell all of them.
  static func make(
    vmName: String, processID: Int32, _ backing: any MemoryBacking, _ layout: ImageLayout,
    punches: PunchWatch, pause: LookPause?,
    hasDirectIO: @escaping @Sendable (Int32) throws(SystemError) -> Bool =
      ProcessDescriptors.hasDirectIO(pid:),
    hugePageSetting: @escaping @Sendable (UInt64, Int32) throws(SystemError) -> String? =
      SharedMemoryHugePages.setting(ofDevice:seenBy:)
  ) throws(SystemError) -> PagemapLog? {
    let isHuge = layout.regions.contains { $0.pageSize == .huge }
    let pieces: [Piece]
    let memory: TrackedMemory
    var watched: Watched?
    switch backing.identity {
    case .file(let device, let inode):
      // Pages of a file on a disk come and go as they like.
      guard let file = backing as? FileBacking, file.isVolatile else { return nil }
      let ofFile = Watched(
        file: file, device: device, inode: inode, hugePageSetting: hugePageSetting)
      guard let found = try ofFile.pieces(of: layout, processID: processID) else { return nil }
      pieces = found
      memory = .shared
      watched = ofFile
    case .process(let identity, let ranges):
      guard identity.pid == processID else { return nil }
      let mappings = try ProcessMapping.current(ofPID: processID)
      guard let found = privatePieces(ranges, in: mappings, isHuge: isHuge) else { return nil }
      pieces = found
      memory = isHuge ? .privateFile : .privateAnonymous
    }
    return PagemapLog(
      vmName: vmName, processID: processID, layout, pieces, memory, punches: punches,
      watched: watched, pause: pause, hasDirectIO: hasDirectIO)
  }

  private static func privatePieces(
    _ ranges: [Range<UInt64>], in mappings: [ProcessMapping], isHuge: Bool
  ) -> [Piece]? {
    var pieces: [Piece] = []
    var offset: UInt64 = 0
    for range in ranges {
      // Private huge pages have a name.
      guard
        mappings.allSatisfy({
          !$0.addresses.overlaps(range) || $0.isPrivateAnonymous || isHuge && !$0.isShared
        })
      else { return nil }
      pieces.append(piece(at: offset, range))
      offset += UInt64(range.count)
    }
    return pieces
  }

  /// Where each page of the image is, given a process's mappings of its file; nil unless all of it
  /// is mapped shared and writable, once. What is written through a second mapping is not seen.
  /// However the kernel has split its mappings, the same memory makes the same pieces.
  static func pieces(of layout: ImageLayout, in mappings: [ProcessMapping]) -> [Piece]? {
    let writable = mappings.filter { $0.isShared && $0.isWritable }
      .sorted { $0.fileOffset < $1.fileOffset }
    var pieces: [Piece] = []
    for region in layout.regions {
      var reached = region.imageOffset.rawValue
      let end = reached + region.byteCount.rawValue
      for mapping in writable {
        let bytes = mapping.fileOffset..<mapping.fileOffset + UInt64(mapping.addresses.count)
        let part = bytes.clamped(to: region.imageOffset.rawValue..<end)
        guard !part.isEmpty else { continue }
        // A gap, or what was mapped before.
        guard part.lowerBound == reached else { return nil }
        let start = mapping.addresses.lowerBound + (part.lowerBound - mapping.fileOffset)
        let next = piece(at: part.lowerBound, start..<start + UInt64(part.count))
        if let last = pieces.last, let whole = last.joined(with: next) {
          pieces[pieces.count - 1] = whole
        } else {
          pieces.append(next)
        }
        reached = part.upperBound
      }
      guard reached == end else { return nil }
    }
    return pieces
  }

  private static func piece(at imageOffset: UInt64, _ addresses: Range<UInt64>) -> Piece {
    Piece(
      imageOffset: imageOffset,
      range: HostRange(
        start: HostAddress(rawValue: addresses.lowerBound),
        end: HostAddress(rawValue: addresses.upperBound)))
  }
}

extension PagemapLog.Watched {
  /// Where a process has the image in this file, now; nil unless all of it once.
  func pieces(
    of layout: ImageLayout, processID: Int32
  ) throws(SystemError) -> [PagemapLog.Piece]? {
    let mappings = try ProcessMapping.current(ofPID: processID).filter {
      $0.device == device && $0.inode == inode
    }
    return PagemapLog.pieces(of: layout, in: mappings)
  }
}

extension PagemapLog.Piece {
  /// Both, where one goes on in the image and in the process where the other ends.
  fileprivate func joined(with next: PagemapLog.Piece) -> PagemapLog.Piece? {
    guard bytes.upperBound == next.imageOffset, range.end == next.range.start else { return nil }
    return PagemapLog.Piece(
      imageOffset: imageOffset, range: HostRange(start: range.start, end: next.range.end))
  }
}
