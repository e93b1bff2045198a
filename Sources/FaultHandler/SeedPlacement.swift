internal import Glibc
internal import Migration
internal import Pages
internal import System
internal import UFFD

/// Where the seeds of an attached memory go: into the memory itself, or to a stage of our own.
public struct SeedPlacement: Hashable, Sendable {
  /// Why they are staged; nil when they go into the memory.
  public let stagingReason: String?

  /// Whether they go into the memory itself.
  public var isInPlace: Bool { stagingReason == nil }

  static let inPlace = SeedPlacement(stagingReason: nil)
  static func staged(because reason: String) -> SeedPlacement {
    SeedPlacement(stagingReason: reason)
  }
}

extension AttachedMemory {
  /// Where seeds can go; asked once, before the first of them. In place they go only where what is
  /// stale can be taken out again, and seen to be gone: the VMM has sent its memory's file, maps
  /// all of its memory from it and nothing else, and nothing is in it yet.
  borrowing func seedPlacement() -> SeedPlacement {
    do throws(SystemError) {
      return try obstacleToSeedsInPlace().map { .staged(because: $0) } ?? .inPlace
    } catch {
      return .staged(because: "the memory's file cannot be looked at: \(error)")
    }
  }

  /// The memory's file, opened anew: the VMM shares neither its position nor its flags, of which
  /// O_APPEND would send a write to the end.
  borrowing func openSeedFile() throws(SystemError) -> OwnedDescriptor {
    switch memoryFile {
    case .some(let file):
      return try OwnedDescriptor.open("/proc/self/fd/\(file.rawValue)", flags: O_RDWR)
    case .none: throw SystemError("open", "memory file", .noSuchEntry)
    }
  }

  private borrowing func obstacleToSeedsInPlace() throws(SystemError) -> String? {
    switch memoryFile {
    case .some: break
    case .none: return "the VMM has not sent its memory's file"
    }
    let layout = document.layout
    // hugetlbfs has no write(2), and calls its holes data.
    guard layout.regions.allSatisfy({ $0.pageSize == .small }) else {
      return "huge pages cannot be written over"
    }
    guard memoryKinds.allSatisfy({ $0 == .shared }) else {
      return "the VMM's memory is not shared"
    }
    let file = try openSeedFile()
    guard try FileSystem.isOnTmpfs("/proc/self/fd/\(file.rawValue)") else {
      return "the memory's file is not on tmpfs"
    }
    let status = try FileStatus.of(file)
    guard layout.regions.allSatisfy({ $0.imageEnd <= status.byteCount }) else {
      return "the memory's file is too short"
    }
    let pid = process.identity.pid
    let mappings = try ProcessMapping.current(ofPID: pid)
    if let obstacle = Self.obstacle(
      document, mappings, device: status.device, inode: status.inode)
    {
      return obstacle
    }
    let huge = try SharedMemoryHugePages.setting(ofDevice: status.device, seenBy: pid)
    guard huge == "never" else {
      return "the memory's file may get transparent huge pages (huge=\(huge ?? "unknown"))"
    }
    return Self.obstacle(in: file, layout, byteCount: status.byteCount)
  }

  /// What speaks against it in the way in which the VMM maps the file: each page of the image has
  /// to be mapped from its place in the file, and nothing of the file anywhere else, because
  /// another mapping knows no userfaultfd.
  static func obstacle(
    _ document: AttachDocument, _ mappings: [ProcessMapping], device: UInt64, inode: UInt64
  ) -> String? {
    let ofFile = mappings.filter { $0.device == device && $0.inode == inode }
    var mappedByteCount: UInt64 = 0
    for region in document.layout.regions {
      let range = document.hostRange(of: region)
      var position = range.start.rawValue
      for mapping in ofFile where mapping.isShared && mapping.addresses.contains(position) {
        let offset = mapping.fileOffset + (position - mapping.addresses.lowerBound)
        guard offset == region.imageOffset.rawValue + (position - range.start.rawValue) else {
          return "the VMM maps the memory's file in another order"
        }
        position = min(mapping.addresses.upperBound, range.end.rawValue)
        if position == range.end.rawValue { break }
      }
      guard position == range.end.rawValue else { return "the VMM maps other memory than its file" }
      mappedByteCount += region.byteCount.rawValue
    }
    let allByteCount = ofFile.reduce(0) { $0 + UInt64($1.addresses.count) }
    return allByteCount == mappedByteCount ? nil : "the VMM maps the memory's file a second time"
  }

  /// What speaks against it in the file itself.
  private static func obstacle(
    in file: borrowing OwnedDescriptor, _ layout: ImageLayout, byteCount: UInt64
  ) -> String? {
    do throws(Errno) {
      for region in layout.regions {
        let data = try file.nextData(from: region.imageOffset.rawValue)
        if let data, data < region.imageEnd { return "the memory's file holds something already" }
      }
      // Behind the end it changes nothing. A file that is sealed, or open for reading alone,
      // refuses it as it would refuse to be written.
      let pageByteCount = UInt64(PageSize.small.byteCount)
      let end = (byteCount + pageByteCount - 1) / pageByteCount * pageByteCount
      try file.punchHole(end..<end + pageByteCount)
      return nil
    } catch {
      return "the memory's file cannot be written or punched (\(error))"
    }
  }
}

extension Region {
  /// Where it ends in the image, in bytes.
  fileprivate var imageEnd: UInt64 { (imageOffset + byteCount).rawValue }
}
