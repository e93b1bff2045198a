internal import Pages
internal import System

/// Where seeded pages wait until they can be installed: what a VMM gives us is a userfaultfd, and
/// a page that was installed by it can neither be written again nor be taken out.
///
/// A memory file of the image's size, by image offset. A later seed of a page overwrites the
/// earlier one, what is installed is punched out, and the rest goes when nothing is staged any
/// more. Which pages lie here, the page ledger knows; whoever touches it holds the fill lock.
///
/// It ends with its process. That costs no page: the source keeps them all, and to the next process
/// they are missing.
final class Stage: Sendable {
  private let file: OwnedDescriptor
  private let room: Lock<TransferBuffer>

  /// An empty stage for an image.
  init(_ layout: ImageLayout) throws(SystemError) {
    let label = "postcopy-stage"
    let file = try OwnedDescriptor.memory(label: label)
    let end = layout.regions.reduce(0) { max($0, ($1.imageOffset + $1.byteCount).rawValue) }
    try file.setByteCount(end, operand: label)
    let largest =
      layout.regions.contains { $0.pageSize == .huge } ? PageSize.huge.byteCount : 65_536
    room = Lock(try TransferBuffer(byteCount: largest))
    self.file = file
  }

  /// Puts bytes at an offset of the image, over what was there.
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

  /// Gives all its memory back.
  func clear() { try? file.setByteCount(0, operand: "stage") }

  /// Gives the memory of a range back.
  func drop(_ range: Range<UInt64>) {
    // What stays costs memory until the process ends, and is never looked at again.
    try? file.punchHole(range)
  }
}
