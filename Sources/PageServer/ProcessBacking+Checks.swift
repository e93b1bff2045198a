internal import Glibc
internal import Pages
internal import System

extension ProcessBacking {
  static func opening(
    _ source: MemorySource, pid: Int32, _ error: SystemError
  ) -> MemorySourceError {
    switch error.errno {
    case .noSuchProcess, .noSuchEntry: .noSuchProcess(pid: pid)
    case .accessDenied, .notPermitted: .notPermitted(pid: pid, error)
    default: .cannotOpen(source, error)
    }
  }

  /// The one mapping that looks like a guest's memory; an error when there is none, or a choice.
  static func candidate(
    in mappings: [ProcessMapping], pid: Int32
  ) throws(MemorySourceError) -> [Range<UInt64>] {
    let found = candidates(in: mappings)
    guard !found.isEmpty else { throw .noCandidate(pid: pid) }
    guard found.count == 1 else {
      throw .manyCandidates(pid: pid, ranges: found.map(MemorySource.hexadecimal))
    }
    return found
  }

  /// Large, readable and writable, no code; anonymous, or shared memory without a place on a disk.
  /// Neighbours of one kind are one: the kernel splits a mapping when its flags change in between.
  private static func candidates(in mappings: [ProcessMapping]) -> [Range<UInt64>] {
    var merged: [Range<UInt64>] = []
    var previous: ProcessMapping?
    for mapping in mappings {
      defer { previous = mapping }
      guard isGuestLike(mapping) else { continue }
      if let last = merged.last, let previous, isGuestLike(previous),
        last.upperBound == mapping.addresses.lowerBound, previous.inode == mapping.inode,
        previous.pageByteCount == mapping.pageByteCount, previous.isShared == mapping.isShared
      {
        merged[merged.count - 1] = last.lowerBound..<mapping.addresses.upperBound
      } else {
        merged.append(mapping.addresses)
      }
    }
    return merged.filter { UInt64($0.count) >= smallestCandidateByteCount }
  }

  private static func isGuestLike(_ mapping: ProcessMapping) -> Bool {
    guard mapping.isReadable, mapping.isWritable, !mapping.isExecutable else { return false }
    if mapping.isPrivateAnonymous {
      return mapping.name.isEmpty || mapping.name.hasPrefix("[anon:")
    }
    let kinds = ["/memfd:", "/dev/shm/", "/dev/zero", "/anon_hugepage", "/dev/hugepages/"]
    return kinds.contains { mapping.name.hasPrefix($0) }
  }

  /// One region for each range.
  static func layout(
    of ranges: [Range<UInt64>], in mappings: [ProcessMapping], pid: Int32, _ source: MemorySource
  ) throws(MemorySourceError) -> ImageLayout {
    var regions: [Region] = []
    var offset: UInt64 = 0
    for (position, range) in ranges.enumerated() {
      let pageByteCount = try pageByteCount(of: range, in: mappings, pid: pid)
      guard let number = UInt32(exactly: pageByteCount), let size = PageSize(rawValue: number)
      else {
        throw .layout(
          source, .unsupportedPageSize(RegionIndex(position), byteCount: pageByteCount))
      }
      // Rounded up to the page size, so that a region of huge pages behind small ones is aligned.
      let start = (offset + pageByteCount - 1) / pageByteCount * pageByteCount
      regions.append(
        Region(
          index: RegionIndex(position), imageOffset: ByteCount(rawValue: start),
          byteCount: ByteCount(rawValue: UInt64(range.count)), pageSize: size))
      offset = start + UInt64(range.count)
    }
    do throws(LayoutError) {
      return try ImageLayout(regions)
    } catch {
      throw .layout(source, error)
    }
  }

  /// The size of all pages of a range, which must be mapped, readable and complete.
  private static func pageByteCount(
    of range: Range<UInt64>, in mappings: [ProcessMapping], pid: Int32
  ) throws(MemorySourceError) -> UInt64 {
    let name = MemorySource.hexadecimal(range)
    if let gap = firstGap(in: range, mappings) {
      throw .notMapped(pid: pid, range: name, at: gap)
    }
    let parts = mappings.filter { $0.addresses.overlaps(range) }
    guard !parts.contains(where: { $0.isUserfaultMissing }) else {
      throw .incomplete(pid: pid, range: name)
    }
    guard parts.allSatisfy({ $0.pageByteCount == parts[0].pageByteCount }) else {
      throw .mixedPageSizes(pid: pid, range: name)
    }
    return parts[0].pageByteCount
  }

  /// The first address of the range that is not mapped readable; nil when all of it is.
  static func firstGap(in range: Range<UInt64>, _ mappings: [ProcessMapping]) -> UInt64? {
    var reached = range.lowerBound
    for mapping in mappings where mapping.addresses.overlaps(range) {
      guard mapping.addresses.lowerBound <= reached, mapping.isReadable else { return reached }
      reached = mapping.addresses.upperBound
    }
    return reached >= range.upperBound ? nil : reached
  }

  static func privateAnonymous(_ mappings: [ProcessMapping]) -> [Range<UInt64>] {
    mappings.filter(\.isPrivateAnonymous).map(\.addresses)
  }
}
