public import Migration
internal import Pages
public import System

/// The page states in a file on tmpfs, mapped shared: they survive every process of ours.
///
/// Not synchronised: the ledger over it lives behind the fill lock.
public final class PageStateFile: PageStateStore, Sendable {
  private let bytes: MappedBytes
  /// Where the file is.
  public let path: String

  /// A new file of `pageCount` missing pages. EEXIST when there is one already: it may be all that
  /// is known about a parked VM.
  public static func create(
    at path: String, pageCount: Int
  ) throws(SystemError) -> PageStateFile {
    PageStateFile(
      bytes: try MappedBytes.createFile(at: path, byteCount: pageCount), path: path)
  }

  private init(bytes: MappedBytes, path: String) {
    self.bytes = bytes
    self.path = path
  }

  /// How many pages it holds states for.
  public var pageCount: Int { bytes.byteCount }

  /// The byte of one page.
  public func load(_ flatIndex: Int) -> UInt8 { bytes[flatIndex] }

  /// Replaces the byte of one page.
  public func store(_ byte: UInt8, at flatIndex: Int) { bytes[flatIndex] = byte }
}
