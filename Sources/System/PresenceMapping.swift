internal import Glibc

/// A mapping of a shared memory file that nobody ever reads: only which of its pages are there
/// matters. What takes a page out of the file takes it out of every mapping of it, and nothing but
/// `populate` puts one into this.
///
/// A fault maps more pages than the one it is for (fault-around, large folios), but none outside of
/// the kernel's mapping (VMA) in which it happens. So `populate` first makes its range one of its
/// own, by an advice that means nothing here: a neighbour that has gone stays gone. (Linux 6.18,
/// `do_fault_around` and `finish_fault` in mm/memory.c. MADV_RANDOM does not prevent it, and
/// registering the mapping with a userfaultfd, which does, needs leave to write the file.)
public struct PresenceMapping: ~Copyable, Sendable {
  /// Where it begins in this process.
  public let startAddress: UInt64
  /// How many bytes of the file it shows, from the first one on.
  public let byteCount: Int

  /// Maps a file, opened for reading, that is at least `byteCount` long. Reads and allocates
  /// nothing.
  public init(
    of descriptor: borrowing OwnedDescriptor, byteCount: Int
  ) throws(SystemError) {
    let address = unsafe mmap(
      nil, byteCount, PROT_READ, MAP_SHARED | Int32(MAP_NORESERVE), descriptor.rawValue, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError("mmap", "\(byteCount) bytes of a memory file")
    }
    // Where memory of ours is locked, the guest's is none of it.
    _ = unsafe munlock(address, byteCount)
    // Nobody is to map huge pages here behind our back. EINVAL: the kernel has none.
    _ = unsafe madvise(address, byteCount, MADV_NOHUGEPAGE)
    // A guest's memory belongs in no core file of ours, and in no child.
    // Mappings of hugetlbfs that are marked alike share page tables, and then what another process
    // reads appears here (`page_table_shareable`, Linux 6.18, mm/hugetlb.c): nobody's are.
    guard unsafe madvise(address, byteCount, MADV_DONTDUMP) == 0,
      unsafe madvise(address, byteCount, MADV_DONTFORK) == 0
    else {
      let error = SystemError("madvise", "\(byteCount) bytes of a memory file")
      unsafe munmap(address, byteCount)
      throw error
    }
    startAddress = UInt64(UInt(bitPattern: address))
    self.byteCount = byteCount
  }

  /// So much is unmapped at once: some milliseconds, for which no other thread can map anything.
  private static let unmappedByteCount = 32 << 20

  deinit {
    var offset = 0
    while offset < byteCount {
      let count = min(Self.unmappedByteCount, byteCount - offset)
      // unsafe: these ranges make up what mmap returned, and nobody else unmaps them.
      _ = unsafe munmap(pointer(startAddress + UInt64(offset)), count)
      offset += count
    }
  }

  /// Makes the pages of a range of addresses, whole ones inside of the mapping, present, and none
  /// beside them; those of a hole of the file are allocated. False when that could not be, or not
  /// for all of them: the file was shortened, a page is poisoned, memory or mappings ran out.
  ///
  /// What it makes apart stays so until `rejoin`: ranges must have a page between them, or it must
  /// not matter that pages of one appear with the other.
  public borrowing func populate(_ addresses: Range<UInt64>) -> Bool {
    let start = unsafe pointer(addresses.lowerBound)
    guard unsafe madvise(start, addresses.count, MADV_SEQUENTIAL) == 0 else { return false }
    return unsafe madvise(start, addresses.count, MADV_POPULATE_READ) == 0
  }

  /// Makes everything one mapping again: a process has some 65 000. After false, what is populated
  /// may appear with neighbours.
  public borrowing func rejoin() -> Bool {
    unsafe madvise(pointer(startAddress), byteCount, MADV_NORMAL) == 0
  }

  // unsafe: only for addresses inside of the mapping, which lives as long as its owner; the kernel
  // refuses others, and nothing is read or written there.
  private func pointer(_ address: UInt64) -> UnsafeMutableRawPointer? {
    unsafe UnsafeMutableRawPointer(bitPattern: UInt(address))
  }
}
