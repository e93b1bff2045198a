internal import Glibc
public import Pages
internal import Synchronization
internal import System

/// Memory in a file: tmpfs, memfd, hugetlbfs, or a snapshot on a disk.
public final class FileBacking: MemoryBacking {
  /// Where it is, as the user wrote it.
  public let source: MemorySource
  /// The file's device and inode.
  public let identity: MemoryIdentity
  /// tmpfs, memfd and hugetlbfs end with the boot.
  public var isVolatile: Bool { file.medium != .storage }
  /// One region: the whole file.
  public let naturalLayout: ImageLayout
  private let file: MemoryFile
  // The file's state when the VM was stopped; the flag publishes the two others.
  private let isFrozen = Atomic<Bool>(false)
  private let frozenByteCount = Atomic<UInt64>(0)
  private let frozenModified = Atomic<Int64>(0)

  /// Opens the file that `source` names.
  public init(_ source: MemorySource) throws(MemorySourceError) {
    let path: String
    switch source {
    case .file(let name), .snapshot(let name): path = name
    case .process, .export: invariantBroken("a file backing is made for a file")
    }
    do throws(SystemError) {
      file = try MemoryFile.open(path)
    } catch {
      throw .cannotOpen(source, error)
    }
    guard file.status.isRegularFile else { throw .notARegularFile(path: path) }
    let isHuge = file.medium == .hugePages
    do throws(LayoutError) {
      let pageByteCount = isHuge ? file.blockByteCount : UInt64(PageSize.small.byteCount)
      guard let number = UInt32(exactly: pageByteCount), let size = PageSize(rawValue: number)
      else { throw .unsupportedPageSize(RegionIndex(0), byteCount: pageByteCount) }
      naturalLayout = try ImageLayout([
        Region(
          index: RegionIndex(0), imageOffset: .zero,
          byteCount: ByteCount(rawValue: file.status.byteCount), pageSize: size)
      ])
    } catch {
      throw .layout(source, error)
    }
    self.source = source
    identity = .file(device: file.status.device, inode: file.status.inode)
  }

  /// Remembers the file's length and time of change, against which every later read is held. This
  /// also finds what a length alone would not: a file that was shortened and extended again, or
  /// punched (QEMU's `discard-data`), reads as zeros without an error.
  public func markFrozen() throws(MemoryError) {
    let state = try currentState()
    guard state.byteCount >= imageEnd else {
      throw .truncated(name: source.description, byteCount: state.byteCount)
    }
    frozenByteCount.store(state.byteCount, ordering: .relaxed)
    frozenModified.store(state.modifiedNanoseconds, ordering: .relaxed)
    isFrozen.store(true, ordering: .releasing)
  }

  /// See `MemoryBacking.read`.
  @_lifetime(bytes: copy bytes)
  public func read(
    into bytes: inout MutableRawSpan, at offset: UInt64, pageByteCount: Int
  ) throws(MemoryError) -> MemoryRead {
    var filled = 0
    while filled < bytes.byteCount {
      let count: Int
      do throws(Errno) {
        count = try file.descriptor.read(
          into: &bytes, from: filled, atOffset: offset + UInt64(filled))
      } catch {
        guard Self.provesPoison(error, on: file.medium) else {
          throw .unreadable(
            name: source.description, offset: offset + UInt64(filled), error)
        }
        try checkUnchanged()
        // Rounded down: hugetlbfs hands out the sound part of a broken huge page first, but the
        // page is broken as a whole.
        return .poisoned(atOffset: filled / pageByteCount * pageByteCount)
      }
      guard count > 0 else {
        throw .truncated(
          name: source.description, byteCount: try currentState().byteCount)
      }
      filled += count
    }
    try checkUnchanged()
    return .complete
  }

  /// Finds holes with SEEK_HOLE and SEEK_DATA: one stretch a call. hugetlbfs calls everything data.
  public func searchAbsent(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 {
    let page = UInt64(PageSize.small.byteCount)
    var start = range.upperBound
    var end = range.upperBound
    do throws(Errno) {
      if let hole = try file.descriptor.nextHole(from: range.lowerBound) {
        start = min(hole, range.upperBound)
        // No data up to the end of the file: the hole goes on to the end of the range.
        end = min(try file.descriptor.nextData(from: start) ?? range.upperBound, end)
      }
    } catch {
      throw .unreadable(name: source.description, offset: range.lowerBound, error)
    }
    try checkUnchanged()
    // Rounded inwards: a page that is only partly a hole is no absent page.
    let first = (start + page - 1) / page * page
    let last = end / page * page
    if first < last { found(first..<last) }
    return max(end, start)
  }

  /// Whether an error of pread(2) proves that the page itself is broken, so that the guest is to
  /// get a machine check for it and the rest of its memory is sound.
  ///
  /// EHWPOISON always does. EIO does where pages live in host memory alone: `shmem_file_read_iter`
  /// and `hugetlbfs_read_iter` answer it for a poisoned page only, or (shmem) for one that the swap
  /// device lost, whose owner would be killed for touching it just the same (Linux 6.18,
  /// mm/shmem.c, fs/hugetlbfs/inode.c). On storage EIO says that the device failed: that proves
  /// nothing about the page. A failing swap device is told by the number of pages, which the caller
  /// limits.
  static func provesPoison(_ errno: Errno, on medium: MemoryFile.Medium) -> Bool {
    switch errno.rawValue {
    case EHWPOISON: true
    case EIO: medium != .storage
    default: false
    }
  }

  /// A mapping of the file, as long as the image, that tells which pages are in it.
  func makePresenceMapping() throws(SystemError) -> PresenceMapping {
    try PresenceMapping(of: file.descriptor, byteCount: Int(imageEnd))
  }

  private var imageEnd: UInt64 { naturalLayout.totalByteCount.rawValue }

  private func currentState() throws(MemoryError) -> MemoryFile.State {
    do throws(Errno) {
      return try file.state()
    } catch {
      throw .unreadable(name: source.description, offset: 0, error)
    }
  }

  /// After a read, so that a change that came before it is seen. While the VM runs there is nothing
  /// to be held against.
  private func checkUnchanged() throws(MemoryError) {
    guard isFrozen.load(ordering: .acquiring) else { return }
    let state = try currentState()
    guard state.byteCount >= imageEnd else {
      throw .truncated(name: source.description, byteCount: state.byteCount)
    }
    guard state.byteCount == frozenByteCount.load(ordering: .relaxed),
      state.modifiedNanoseconds == frozenModified.load(ordering: .relaxed)
    else { throw .changed(name: source.description) }
  }
}
