import Glibc
import Migration
import Pages
import System
import Testing
import UFFD

@testable import PageServer

/// Where a process has its memory file, as its mappings tell.
@Suite struct PagemapPiecesTests {
  private func mapping(
    _ start: UInt64, pages: UInt64, offset: UInt64, _ rights: String = "rw-s"
  ) -> String {
    let addresses =
      String(start, radix: 16) + "-" + String(start + pages * 4096, radix: 16)
    return addresses + " \(rights) " + String(offset * 4096, radix: 16) + " 00:2f 77 /memfd:a\n"
  }

  private func pieces(_ text: String) throws -> [PagemapLog.Piece]? {
    let layout = try ImageLayout([
      Region(
        index: RegionIndex(0), imageOffset: .zero, byteCount: ByteCount(8 * 4096), pageSize: .small)
    ])
    return PagemapLog.pieces(of: layout, in: ProcessMapping.parse(text))
  }

  @Test func aFileIsWatchedWhereAllOfItIsMappedOnce() throws {
    let whole = mapping(0x10000, pages: 8, offset: 0)
    #expect(try pieces(whole)?.map(\.imageOffset) == [0])
    let halves = mapping(0x90000, pages: 4, offset: 0) + mapping(0x10000, pages: 9, offset: 4)
    let found = try #require(try pieces(halves))
    #expect(found.map(\.imageOffset) == [0, 4 * 4096])
    #expect(found.map(\.range.start.rawValue) == [0x90000, 0x10000])
    #expect(found.map(\.range.byteCount) == [ByteCount(4 * 4096), ByteCount(4 * 4096)])
    // What only reads it changes nothing.
    #expect(try pieces(whole + mapping(0x90000, pages: 8, offset: 0, "r--s"))?.count == 1)
    #expect(try pieces(whole + mapping(0x90000, pages: 8, offset: 0, "rw-p"))?.count == 1)
  }

  @Test func aFileThatIsMappedTwiceOrInPartIsNotWatched() throws {
    let whole = mapping(0x10000, pages: 8, offset: 0)
    #expect(try pieces("") == nil)
    #expect(try pieces(whole + mapping(0x90000, pages: 8, offset: 0)) == nil)
    #expect(try pieces(whole + mapping(0x90000, pages: 1, offset: 7)) == nil)
    #expect(try pieces(mapping(0x10000, pages: 7, offset: 0)) == nil)
    #expect(try pieces(mapping(0x10000, pages: 7, offset: 1)) == nil)
    #expect(
      try pieces(mapping(0x10000, pages: 3, offset: 0) + mapping(0x90000, pages: 4, offset: 4))
        == nil)
    #expect(try pieces(mapping(0x10000, pages: 8, offset: 0, "rw-p")) == nil)
    #expect(try pieces(mapping(0x10000, pages: 8, offset: 0, "r--s")) == nil)
  }

  /// The kernel splits them as it likes: by an advice for a part, say.
  @Test func mappingsThatGoOnInEachOtherAreOnePiece() throws {
    let whole = try #require(try pieces(mapping(0x10000, pages: 8, offset: 0)))
    let parts = mapping(0x10000, pages: 3, offset: 0) + mapping(0x13000, pages: 5, offset: 3)
    #expect(try pieces(parts) == whole)
    let apart = mapping(0x10000, pages: 3, offset: 0) + mapping(0x14000, pages: 5, offset: 3)
    #expect(try pieces(apart)?.count == 2)
  }

  /// The numbers are those that stat(2) gives.
  @Test func aMappingNamesItsFile() throws {
    let memory = try MappedMemory(pageCount: 8, isShared: true)
    let start = memory.range.start.rawValue
    let mapping = try #require(
      try ProcessMapping.current(ofPID: getpid()).first { $0.addresses.contains(start) })
    #expect(
      memory.backing.identity == .file(device: mapping.device, inode: mapping.inode))
    #expect(mapping.isShared && mapping.fileOffset == start - mapping.addresses.lowerBound)
  }
}
