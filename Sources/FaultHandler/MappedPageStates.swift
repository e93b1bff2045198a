public import Migration
public import System

/// The page states in a file on tmpfs, mapped shared: they survive every process of ours.
///
/// Not synchronised: the ledger over it lives behind the fill lock.
public final class MappedPageStates: PageStateStore, Sendable {
  private let bytes: MappedBytes

  /// The states in a mapping that has one byte for each page.
  public init(_ mapping: consuming MemoryMapping) { bytes = MappedBytes(mapping) }

  /// How many pages it holds states for.
  public var pageCount: Int { bytes.byteCount }

  /// The byte of one page.
  public func load(_ flatIndex: Int) -> UInt8 { bytes[flatIndex] }

  /// Replaces the byte of one page.
  public func store(_ byte: UInt8, at flatIndex: Int) { bytes[flatIndex] = byte }
}
