internal import Glibc
internal import Migration
public import Pages
public import Session
internal import System
public import Wire

/// Which pages the destination still awaits: its page-state file, or a copy of it. The rest it has,
/// and an export can leave it out.
///
/// A copy that was taken earlier names too many pages at worst: a page that was installed, zeroed
/// or removed is never awaited again.
public final class ExportAwaited: Sendable {
  private let path: String
  private let file: OwnedDescriptor
  /// The destination's regions: they give each page its place in the file.
  let layout: ImageLayout

  /// Opens the file and checks that it belongs to the session and to an image like `layout`.
  public static func open(
    _ path: String, session: SessionID, layout: ImageLayout
  ) throws(PageStateFileError) -> ExportAwaited {
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(path, flags: O_RDONLY | O_NONBLOCK)
      try PageStateFile.check(
        file, path, session: session, pageCount: layout.totalPageCount)
      return ExportAwaited(path: path, file: file, layout: layout)
    } catch {
      if error.errno == .invalidArgument {
        throw .foreign(
          path: path,
          reason: "the states of \(layout.totalPageCount.rawValue) pages in session "
            + "\(session.text) were expected")
      }
      throw .system(error)
    }
  }

  private init(path: String, file: consuming OwnedDescriptor, layout: ImageLayout) {
    self.path = path
    self.file = file
    self.layout = layout
  }

  /// Whether each page of some memory is awaited: `pageCount` pages of `pageSize` from an offset of
  /// the image on, all inside the image.
  func awaits(
    pagesFrom offset: UInt64, pageCount: Int, pageSize: PageSize
  ) throws(PageStateFileError) -> [Bool] {
    var answer: [Bool] = []
    answer.reserveCapacity(pageCount)
    while answer.count < pageCount {
      let position = offset + UInt64(answer.count * pageSize.byteCount)
      guard let region = ExportGeometry(layout).region(atImageOffset: position) else {
        throw .foreign(path: path, reason: "its image has no memory at offset \(position)")
      }
      let first = (position - region.imageOffset.rawValue) / UInt64(pageSize.byteCount)
      let count = min(pageCount - answer.count, Int(region.pageCount.rawValue - first))
      let flat = layout.flatIndex(
        of: PageID(region: region.index, page: PageIndex(rawValue: first)))
      answer += try states(flat..<flat + count)
    }
    return answer
  }

  private func states(_ range: Range<Int>) throws(PageStateFileError) -> [Bool] {
    let bytes: [UInt8]
    do throws(SystemError) {
      bytes = try file.read(
        byteCount: range.count, atOffset: UInt64(range.lowerBound), operand: path)
    } catch { throw .system(error) }
    guard bytes.count == range.count else {
      throw .foreign(path: path, reason: "it became shorter while it was read")
    }
    var answer: [Bool] = []
    for (position, byte) in bytes.enumerated() {
      guard let state = PageState(rawValue: byte) else {
        throw .foreign(
          path: path, reason: "page \(range.lowerBound + position) has the state \(byte)")
      }
      answer.append(!state.isSettled)
    }
    return answer
  }
}
