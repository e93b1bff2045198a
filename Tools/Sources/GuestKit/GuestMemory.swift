internal import CLinux
internal import Glibc
public import Pages
internal import Synchronization
public import System

/// What guest memory is made of.
public enum MemoryBacking: Hashable, Sendable, CustomStringConvertible {
  /// A memfd, shared: its file can be handed to others.
  case memfd
  /// A file on tmpfs or hugetlbfs, shared. It is made new, and deleted with the VMM.
  case file(String)
  /// Anonymous memory of this process alone.
  case anonymous

  /// Parses `memfd`, `file:PATH` or `private`.
  public init?(_ text: String) {
    switch text {
    case "memfd": self = .memfd
    case "private": self = .anonymous
    default:
      guard text.hasPrefix("file:"), text.count > 5 else { return nil }
      self = .file(String(text.dropFirst(5)))
    }
  }

  /// What `init` parses.
  public var description: String {
    switch self {
    case .memfd: "memfd"
    case .file(let path): "file:\(path)"
    case .anonymous: "private"
    }
  }

  /// Whether the memory is a file that others can map too.
  public var isShared: Bool { self != .anonymous }
}

/// How pages are given back to the host.
public enum RemovalMethod: String, CaseIterable, Sendable {
  /// MADV_DONTNEED: zeros on private memory; on shared memory the content stays.
  case dontNeed = "dontneed"
  /// MADV_REMOVE: a hole in the file, and the userfaultfd hears of it. Shared memory only.
  case remove = "remove"
  /// fallocate(PUNCH_HOLE): a hole, and the userfaultfd hears nothing. Shared memory only.
  case punchHole = "punch"
}

/// The memory of one guest in this process: regions with gaps between them.
@safe
public final class GuestMemory: @unchecked Sendable {
  /// Each region's host addresses differ from its neighbour's by at least this much more than its
  /// size, so that a handler that mixes regions up hits nothing.
  private static let gapByteCount = PageSize.huge.byteCount

  /// A region of guest memory and its place in this process.
  @safe
  public struct MappedRegion: @unchecked Sendable {
    /// The region's place in the image.
    public let region: Region
    /// Its first byte in this process, valid while the memory's owner lives.
    public let base: UnsafeMutableRawPointer

    /// Its first byte's address, as told to a fault handler.
    public var hostAddress: UInt64 { unsafe UInt64(UInt(bitPattern: base)) }
  }

  /// The regions in the order of the image: dense, from offset 0.
  public let regions: [MappedRegion]
  /// The size of all regions together.
  public let byteCount: UInt64
  /// The pages that back it.
  public let pageSize: PageSize
  /// What it is made of.
  public let backing: MemoryBacking
  private let reservation: UnsafeMutableRawPointer
  private let reservedByteCount: Int
  // Closed in deinit; -1 for anonymous memory.
  private let descriptor: Int32

  /// Maps `byteCount` bytes in `regionCount` regions. Nothing is touched: every page is missing.
  public init(
    byteCount: UInt64, regionCount: Int, pageSize: PageSize, backing: MemoryBacking
  ) throws(SystemError) {
    self.byteCount = byteCount
    self.pageSize = pageSize
    self.backing = backing
    descriptor = try Self.openFile(backing, byteCount: byteCount, pageSize: pageSize)
    reservedByteCount = Int(byteCount) + (regionCount + 1) * Self.gapByteCount
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | Int32(MAP_NORESERVE)
    guard let reserved = unsafe mmap(nil, reservedByteCount, PROT_NONE, flags, -1, 0),
      unsafe reserved != MAP_FAILED
    else {
      let error = SystemError("mmap", "\(reservedByteCount) reserved bytes")
      _ = close(descriptor)
      throw error
    }
    unsafe reservation = reserved
    let unit = UInt(Self.gapByteCount)
    // unsafe: rounded up inside the reservation, which has one gap more than there are regions.
    let first = unsafe UnsafeMutableRawPointer(
      bitPattern: (UInt(bitPattern: reserved) + unit - 1) / unit * unit)!
    var mapped: [MappedRegion] = []
    for region in Self.split(byteCount, into: regionCount, pageSize: pageSize) {
      let gaps = mapped.count * Self.gapByteCount
      let base = unsafe first + Int(region.imageOffset.rawValue) + gaps
      do throws(SystemError) {
        try unsafe Self.map(region, at: base, backing: backing, descriptor: descriptor)
      } catch {
        unsafe munmap(reserved, reservedByteCount)
        _ = close(descriptor)
        throw error
      }
      unsafe mapped.append(MappedRegion(region: region, base: base))
    }
    regions = mapped
  }

  // unsafe: the reservation covers every mapping of ours, and nobody else unmaps it.
  deinit {
    unsafe munmap(reservation, reservedByteCount)
    if descriptor >= 0 { _ = close(descriptor) }
    removeFile()
  }
}

extension GuestMemory {
  /// Takes the memory file's name away, as the end of the owner does: for a process that ends
  /// without ending its owners. ENOENT: somebody did it before.
  public func removeFile() {
    if case .file(let path) = backing { _ = unsafe unlink(path) }
  }

  /// The memory file's descriptor; nil for anonymous memory. Valid while the owner lives.
  public var fileDescriptor: Int32? { descriptor >= 0 ? descriptor : nil }

  /// Where the image's byte at `offset` is. The rest of its 4 KiB page follows there.
  func pointer(at offset: UInt64) -> UnsafeMutableRawPointer {
    for mapped in regions {
      let start = mapped.region.imageOffset.rawValue
      if offset >= start, offset - start < mapped.region.byteCount.rawValue {
        // unsafe: just checked to lie inside the region.
        return unsafe mapped.base + Int(offset - start)
      }
    }
    invariantBroken("an image offset lies inside the guest's memory")
  }

  /// The 64-bit word of the image at `offset`, an aligned one. May wait for a page.
  func word(at offset: UInt64) -> UInt64 {
    unsafe atomicWord(at: offset).pointee.load(ordering: .relaxed)
  }

  /// Sets the 64-bit word of the image at `offset`, an aligned one. May wait for a page.
  func setWord(at offset: UInt64, to value: UInt64) {
    unsafe atomicWord(at: offset).pointee.store(value, ordering: .relaxed)
  }

  /// Counters are read while the guest counts, and requests are left for it: each word by itself
  /// must be whole.
  private func atomicWord(at offset: UInt64) -> UnsafeMutablePointer<Atomic<UInt64>> {
    // unsafe: 8 aligned bytes inside the memory, which have the layout of an atomic word.
    unsafe pointer(at: offset).assumingMemoryBound(to: Atomic<UInt64>.self)
  }

  /// How pages go back unless somebody asks for another way.
  public var usualRemoval: RemovalMethod { backing.isShared ? .remove : .dontNeed }

  /// Gives one backing page back to the host.
  func removePage(at offset: UInt64, by method: RemovalMethod) throws(SystemError) {
    let size = pageSize.byteCount
    let result: Int32
    switch method {
    case .dontNeed: result = unsafe madvise(pointer(at: offset), size, MADV_DONTNEED)
    case .remove: result = unsafe madvise(pointer(at: offset), size, Int32(MADV_REMOVE))
    case .punchHole:
      let mode = Int32(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
      result = fallocate(descriptor, mode, Int(offset), size)
    }
    guard result == 0 else { throw SystemError("madvise", "\(method) of offset \(offset)") }
  }

  /// Whether this process has the page mapped, so that touching it cannot wait. nil: unknown.
  func isMapped(at offset: UInt64) -> Bool {
    guard let pagemap = try? OwnedDescriptor.open("/proc/self/pagemap", flags: O_RDONLY) else {
      return false
    }
    let address = unsafe UInt(bitPattern: pointer(at: offset))
    var entry: UInt64 = 0
    // One entry of 8 bytes for each 4 KiB of address space; bit 63: present.
    let position = Int(address / 4096 * 8)
    return unsafe pread(pagemap.rawValue, &entry, 8, position) == 8 && entry >> 63 == 1
  }

  private static func openFile(
    _ backing: MemoryBacking, byteCount: UInt64, pageSize: PageSize
  ) throws(SystemError) -> Int32 {
    var file: OwnedDescriptor
    switch backing {
    case .anonymous: return -1
    case .memfd:
      let huge = pageSize == .huge ? clinux_memfd_huge_2mb : 0
      let number = unsafe clinux_memfd_create("microvm", UInt32(MFD_CLOEXEC) | huge)
      guard number >= 0 else { throw SystemError("memfd_create") }
      file = OwnedDescriptor(adopting: number)
    case .file(let path):
      // EEXIST: somebody's memory; never ours to truncate.
      file = try .open(path, flags: O_RDWR | O_CREAT | O_EXCL)
    }
    guard ftruncate(file.rawValue, Int(byteCount)) == 0 else {
      let error = SystemError("ftruncate", "\(backing) to \(byteCount)")
      if case .file(let path) = backing { _ = unsafe unlink(path) }
      throw error
    }
    return file.release()
  }

  private static func split(
    _ byteCount: UInt64, into count: Int, pageSize: PageSize
  ) -> [Region] {
    let unit = UInt64(PageSize.huge.byteCount)
    // Rounded down to 2 MiB; the last region takes what is left.
    let each = byteCount / UInt64(count) / unit * unit
    invariant(each > 0, "every region has at least 2 MiB")
    return (0..<count).map { index in
      let start = UInt64(index) * each
      let size = index == count - 1 ? byteCount - start : each
      return Region(
        index: RegionIndex(index), imageOffset: ByteCount(rawValue: start),
        byteCount: ByteCount(rawValue: size), pageSize: pageSize)
    }
  }

  private static func map(
    _ region: Region, at base: UnsafeMutableRawPointer, backing: MemoryBacking, descriptor: Int32
  ) throws(SystemError) {
    let size = Int(region.byteCount.rawValue)
    var flags = MAP_FIXED
    if backing.isShared {
      flags |= MAP_SHARED
    } else {
      flags |= MAP_PRIVATE | MAP_ANONYMOUS
      if region.pageSize == .small { flags |= Int32(MAP_NORESERVE) }
      if region.pageSize == .huge { flags |= clinux_map_huge_2mb }
    }
    let offset = backing.isShared ? Int(region.imageOffset.rawValue) : 0
    // unsafe: base lies in our own reservation, which MAP_FIXED may replace.
    let address = unsafe mmap(base, size, PROT_READ | PROT_WRITE, flags, descriptor, offset)
    guard unsafe address != MAP_FAILED else {
      throw SystemError("mmap", "region \(region.index.rawValue), \(size) bytes of \(backing)")
    }
    // A huge page would make 511 neighbours present that nobody wrote. EINVAL: the kernel has no
    // transparent huge pages, or the memory is hugetlb; either way there is nothing to turn off.
    _ = unsafe madvise(base, size, MADV_NOHUGEPAGE)
  }
}
