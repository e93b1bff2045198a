internal import Pages
internal import System

/// Where seeded pages wait until the VM may have them.
///
/// With nothing but a userfaultfd, by which an installed page can neither be written again nor be
/// taken out: a memory file of the image's size, by image offset. A later seed of a page overwrites
/// the earlier one, what is installed is punched out, and the rest goes when nothing is staged any
/// more. It ends with its process. That costs no page: the source keeps them all, and to the next
/// process they are missing.
///
/// *In place*, where the VMM has sent its memory's file: the memory itself. What is stale is
/// punched out of it and seen to be gone. Nobody reads it before the last seed: the VM has no
/// device state and so no vCPU that runs, and the VMM reads guest memory to load that, behind
/// `DestinationDataPlane.startFaults`. It outlives its process; the next one finds pages that are
/// still staged in the page states, and lets no VM run on them (`DestinationSession`).
///
/// Which pages lie here, the page ledger knows; whoever touches it holds the fill lock.
final class Stage: Sendable {
  /// What is staged lies in the guest's memory.
  let isInPlace: Bool
  private let file: OwnedDescriptor
  private let room: Lock<TransferBuffer>

  /// An empty stage for an image.
  convenience init(_ layout: ImageLayout) throws(SystemError) {
    let label = "postcopy-stage"
    let file = try OwnedDescriptor.memory(label: label)
    let end = layout.regions.reduce(0) { max($0, ($1.imageOffset + $1.byteCount).rawValue) }
    try file.setByteCount(end, operand: label)
    try self.init(layout, file, isInPlace: false)
  }

  /// The guest's own memory by its file, which is a single hole.
  convenience init(
    _ layout: ImageLayout, inPlace file: consuming OwnedDescriptor
  ) throws(SystemError) {
    try self.init(layout, file, isInPlace: true)
  }

  private init(
    _ layout: ImageLayout, _ file: consuming OwnedDescriptor, isInPlace: Bool
  ) throws(SystemError) {
    let largest =
      layout.regions.contains { $0.pageSize == .huge } ? PageSize.huge.byteCount : 65_536
    room = Lock(try TransferBuffer(byteCount: largest))
    self.file = file
    self.isInPlace = isInPlace
  }

  /// Puts bytes at an offset of the image, over what was there. In place over pages that are there
  /// alone: the others would be charged to us, not to the VMM.
  func write(_ bytes: RawSpan, at offset: UInt64) throws(Errno) {
    try file.writeAll(bytes, atOffset: offset)
  }

  /// Gives `body` the bytes of a range of the image, no longer than one fill. Allocates nothing.
  func withBytes<Result, Failure: Error>(
    _ range: Range<UInt64>, _ body: (RawSpan) throws(Failure) -> Result
  ) throws(Failure) -> Result? {
    try room.withLock { room throws(Failure) in
      guard Self.fill(&room, from: file, range) else { return nil }
      return try body(room.bytes(0..<range.count))
    }
  }

  private static func fill(
    _ room: inout TransferBuffer, from file: borrowing OwnedDescriptor, _ range: Range<UInt64>
  ) -> Bool {
    var bytes = room.mutableBytes(0..<range.count)
    var done = 0
    do throws(Errno) {
      while done < range.count {
        let offset = range.lowerBound + UInt64(done)
        let count = try file.read(into: &bytes, from: done, atOffset: offset)
        guard count > 0 else { return false }
        done += count
      }
    } catch { return false }
    return true
  }

  /// Gives all its memory back. Not in place.
  func clear() { try? file.setByteCount(0, operand: "stage") }

  /// Gives the memory of a range back. Not in place.
  func drop(_ range: Range<UInt64>) {
    // What stays costs memory until the process ends, and is never looked at again.
    try? file.punchHole(range)
  }

  /// Takes a range out of the guest's memory. In place alone; throws unless it is seen to be gone,
  /// EEXIST when something is there still.
  func remove(_ range: Range<UInt64>) throws(Errno) {
    try file.punchHole(range)
    if try nextData(in: range) != nil { throw .exists }
  }

  /// Bytes of memory that the file has, wherever in it. Throws when it ends before `imageEnd`.
  func allocatedByteCount(upTo imageEnd: UInt64) throws(Errno) -> UInt64 {
    let status: FileStatus
    do throws(SystemError) { status = try FileStatus.of(file) } catch { throw error.errno }
    guard status.byteCount >= imageEnd else { throw .invalidArgument }
    return status.allocatedByteCount
  }

  /// The first stretch of a range that holds something.
  func nextData(in range: Range<UInt64>) throws(Errno) -> Range<UInt64>? {
    guard let start = try file.nextData(from: range.lowerBound), start < range.upperBound else {
      return nil
    }
    // nil: the file was cut off meanwhile.
    guard let end = try file.nextHole(from: start) else { return nil }
    return start..<min(end, range.upperBound)
  }
}
