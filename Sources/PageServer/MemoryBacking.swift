public import Pages
public import System
public import Wire

/// Whose memory it is: the key under which a VM is locked and its hand-off recorded. With the boot
/// id it names one memory for ever.
public enum MemoryIdentity: Hashable, Sendable, CustomStringConvertible {
  /// A file, whatever its name.
  case file(device: UInt64, inode: UInt64)
  /// One life of one process, and where in it.
  case process(ProcessIdentity, ranges: [Range<UInt64>])

  /// One word without blanks, usable in a file name.
  public var description: String {
    switch self {
    case .file(let device, let inode): "file-\(device)-\(inode)"
    case .process(let process, let ranges):
      "process-\(process.pid)-\(process.startTicks)-"
        + ranges.map(MemorySource.hexadecimal).joined(separator: "+")
    }
  }
}

/// What a read of memory found.
public enum MemoryRead: Hashable, Sendable {
  /// All bytes are there.
  case complete
  /// The page that starts at this offset in the span is poisoned: the host's memory there is
  /// broken. The bytes before it are there, those behind it are not.
  case poisoned(atOffset: Int)
}

/// The memory of one VM, read by the kernel's copying alone. No mapping: what the medium loses is
/// an error to be judged here, and not a signal that kills the server.
///
/// Offsets are those of the image. `read` may be called by several threads at once,
/// `searchAbsent` and `markFrozen` by one at a time.
public protocol MemoryBacking: AnyObject, Sendable {
  /// Where it is, as the user wrote it.
  var source: MemorySource { get }
  /// Whose memory it is.
  var identity: MemoryIdentity { get }
  /// Whether it ends with this boot of the host at the latest: unlike a file on a disk.
  var isVolatile: Bool { get }
  /// One region for each piece of memory, one behind the other: the image when no VMM describes a
  /// better one.
  var naturalLayout: ImageLayout { get }

  /// The VM is stopped: from here on the memory is final, and any change of it an error.
  func markFrozen() throws(MemoryError)

  /// Fills all of `bytes` from the image's `offset` on. The bytes are whole pages of one region,
  /// whose pages have `pageByteCount` bytes. Allocates nothing unless it fails.
  @_lifetime(bytes: copy bytes)
  func read(
    into bytes: inout MutableRawSpan, at offset: UInt64, pageByteCount: Int
  ) throws(MemoryError) -> MemoryRead

  /// Looks for memory in `range` that reads as zeros because nothing was ever there, for a bounded
  /// time: a stretch or a chunk. Calls `found` for each run, in whole 4 KiB pages inside the range.
  /// Returns where to search on.
  func searchAbsent(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64

  /// Looks for memory in `range` that is not here at all, though it belongs to the image: it may be
  /// neither pushed nor taken for zeros. As `searchAbsent` otherwise.
  func searchUnheld(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64
}

extension MemoryBacking {
  /// A VM's own memory is all there.
  public func searchUnheld(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 { range.upperBound }
}

extension MemorySource {
  /// Opens the memory and checks all that can be checked before the VM is stopped. An export needs
  /// its session's token.
  public func open(
    token: SessionToken? = nil
  ) throws(MemorySourceError) -> any MemoryBacking {
    switch self {
    case .export(let path):
      do throws(ExportError) {
        return try ExportBacking(ExportFile.open(path, token: token))
      } catch { throw .export(error) }
    case .file, .snapshot: return try FileBacking(self)
    case .process: return try ProcessBacking(self)
    }
  }
}

extension MemoryBacking {
  /// Checks that every region of an image lies in one piece of this memory, with its page size.
  public func validate(_ layout: ImageLayout) throws(MemorySourceError) {
    for region in layout.regions {
      let start = region.imageOffset
      let end = region.imageOffset + region.byteCount
      guard
        let piece = naturalLayout.regions.first(where: {
          $0.imageOffset <= start && end <= $0.imageOffset + $0.byteCount
        })
      else { throw .regionOutside(source, region.index) }
      guard piece.pageSize == region.pageSize else {
        throw .pageSize(source, region.index, expected: UInt64(piece.pageSize.byteCount))
      }
    }
  }
}
