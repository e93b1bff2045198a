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
      ProcessDescriptors.hasDirectIO(pid:)
  ) throws(SystemError) -> PagemapLog? {
    let isHuge = layout.regions.contains { $0.pageSize == .huge }
    let pieces: [Piece]
    let memory: TrackedMemory
    var watched: Watched?
    switch backing.identity {
    case .file(let device, let inode):
      // Pages of a file on a disk come and go as they like.
      guard let file = backing as? FileBacking, file.isVolatile else { return nil }
      let mappings = try ProcessMapping.current(ofPID: processID).filter {
        $0.device == device && $0.inode == inode
      }
      guard let found = Self.pieces(of: layout, in: mappings) else { return nil }
      pieces = found
      memory = .shared
      watched = Watched(file: file, punches: punches)
    case .process(let identity, let ranges):
      guard identity.pid == processID else { return nil }
      let mappings = try ProcessMapping.current(ofPID: processID)
      guard let found = privatePieces(ranges, in: mappings, isHuge: isHuge) else { return nil }
      pieces = found
      memory = isHuge ? .privateFile : .privateAnonymous
    }
    return PagemapLog(
      vmName: vmName, processID: processID, layout, pieces, memory, watched: watched,
      pause: pause, hasDirectIO: hasDirectIO)
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
        pieces.append(piece(at: part.lowerBound, start..<start + UInt64(part.count)))
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
