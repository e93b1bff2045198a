internal import Glibc
internal import Migration
internal import Pages
internal import System
internal import UFFD
internal import Wire

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
  /// O_APPEND would send a write to the end. Only for one that may be opened: see
  /// `obstacleToOpening`.
  borrowing func openSeedFile() throws(SystemError) -> OwnedDescriptor {
    switch memoryFile {
    case .some(let received):
      let file = try OwnedDescriptor.open("/proc/self/fd/\(received.rawValue)", flags: O_RDWR)
      let (was, now) = (try FileStatus.of(received), try FileStatus.of(file))
      guard was.device == now.device, was.inode == now.inode else {
        throw SystemError("open", "memory file", .noSuchEntry)
      }
      return file
    case .none: throw SystemError("open", "memory file", .noSuchEntry)
    }
  }

  /// Refuses memory that holds something already: a file that has outlived its VMM, or a VMM of
  /// which an earlier attempt was given up. No fault is raised for what is there, so the guest
  /// would run on it.
  borrowing func requireEmptyFile() throws(Refusal) {
    let byteCount: UInt64
    do throws(SystemError) {
      switch memoryFile {
      case .some(let file):
        let status = try FileStatus.of(file)
        byteCount = status.isRegularFile ? status.allocatedByteCount : 0
      case .none: byteCount = 0
      }
    } catch { throw Refusal(.unfit, "the memory's file of the VMM cannot be looked at: \(error)") }
    guard byteCount > 0 else { return }
    throw Refusal(
      .unfit,
      "the memory's file of the VMM holds \(byteCount >> 10) KiB already, which the guest would "
        + "take for its own: end this VMM, and start one with a new, empty file for its memory")
  }

  /// What speaks against opening the file that the VMM has sent, whatever it is: opening a device
  /// or a file of another kind can have effects, and a file that the VMM itself may not write is
  /// not for us to write for it.
  private borrowing func obstacleToOpening() throws(SystemError) -> String? {
    switch memoryFile {
    case .some(let file):
      guard try file.isOpenForReadingAndWriting() else {
        return "the memory's file is not open for writing"
      }
      guard try FileStatus.of(file).isRegularFile, try FileSystem.isOnTmpfs(file) else {
        return "the memory's file is not on tmpfs"
      }
    case .none: break
    }
    return nil
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
    if let obstacle = try obstacleToOpening() { return obstacle }
    let file = try openSeedFile()
    let status = try FileStatus.of(file)
    guard layout.regions.allSatisfy({ $0.imageEnd <= status.byteCount }) else {
      return "the memory's file is too short"
    }
    guard status.byteCount <= Self.maximumFileByteCount else {
      return "the memory's file is too long"
    }
    let pid = process.identity.pid
    let mappings = try ProcessMapping.all(ofPID: pid)
    if let obstacle = Self.obstacle(
      document, mappings, device: status.device, inode: status.inode)
    {
      return obstacle
    }
    let huge = try SharedMemoryHugePages.setting(ofDevice: status.device, seenBy: pid)
    guard huge == "never" else {
      return "the memory's file may get transparent huge pages (huge=\(huge ?? "unknown"))"
    }
    // Its holes as lseek(2) tells them are no proof: what fallocate(2) has made, and nobody has
    // written, is one of them, and is shown as zeros without a fault.
    guard status.allocatedByteCount == 0 else { return "the memory's file holds something already" }
    return Self.obstacleToPunching(file, behind: status.byteCount)
  }

  /// Above any memory, and so far from the end of what the kernel counts that what lies behind the
  /// file can be named.
  private static let maximumFileByteCount: UInt64 = 1 << 60

  /// What speaks against it in the way in which the VMM maps the file: each page of the image has
  /// to be mapped from its place in the file, writable, with the userfaultfd, and nothing of the
  /// file anywhere else, because another mapping knows no userfaultfd.
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
        guard mapping.isWritable else { return "the VMM may not write all of its memory" }
        guard mapping.isUserfaultMissing else {
          return "the VMM has not registered all of its memory with a userfaultfd"
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

  /// What speaks against it in the file itself: one that is sealed refuses to be punched as it
  /// would refuse to be written. Behind its end that changes nothing.
  private static func obstacleToPunching(
    _ file: borrowing OwnedDescriptor, behind byteCount: UInt64
  ) -> String? {
    let pageByteCount = UInt64(PageSize.small.byteCount)
    let end = (byteCount + pageByteCount - 1) / pageByteCount * pageByteCount
    do throws(Errno) {
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
