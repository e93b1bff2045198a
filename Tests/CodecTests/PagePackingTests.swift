import Codec
import Testing

@Suite struct PagePackingTests {
  /// Words of a text: packs to a fraction.
  static func text(_ byteCount: Int) -> [UInt8] {
    var random = SystemRandomNumberGenerator()
    let words = (0..<64).map { _ in (0..<8).map { _ in UInt8.random(in: 97...122, using: &random) }
    }
    var bytes: [UInt8] = []
    while bytes.count < byteCount { bytes += words.randomElement(using: &random) ?? [] }
    return Array(bytes.prefix(byteCount))
  }

  static func noise(_ byteCount: Int) -> [UInt8] {
    (0..<byteCount).map { _ in UInt8.random(in: 0...255) }
  }

  private func packed(
    _ pages: [UInt8], _ encoding: PageEncoding, room roomByteCount: Int? = nil
  ) -> [UInt8]? {
    var packer = PagePacker()
    var room = [UInt8](repeating: 0, count: roomByteCount ?? pages.count)
    var spanBytes = room.mutableSpan
    var span = unsafe spanBytes.mutableBytes
    guard let count = packer.pack(pages.rawBytes, as: encoding, into: &span) else { return nil }
    return Array(room[..<count])
  }

  private func unpacked(_ bytes: [UInt8], _ encoding: PageEncoding, _ byteCount: Int) -> [UInt8]? {
    var unpacker = PageUnpacker()
    // Behind the room nothing may be written.
    var room = [UInt8](repeating: 0x5A, count: byteCount + 64)
    var spanBytes = room.mutableSpan
    var span = unsafe spanBytes.mutableBytes
    var front = span._mutatingExtracting(first: byteCount)
    let isWhole = unpacker.unpack(bytes.rawBytes, as: encoding, into: &front)
    #expect(room[byteCount...].allSatisfy { $0 == 0x5A })
    return isWhole ? Array(room[..<byteCount]) : nil
  }

  @Test(arguments: PageEncoding.allCases, [4096, 65_536, 2 << 20])
  func pagesComeBackAsTheyWere(encoding: PageEncoding, byteCount: Int) throws {
    for pages in [Self.text(byteCount), [UInt8](repeating: 0xA5, count: byteCount)] {
      let bytes = try #require(packed(pages, encoding))
      #expect(bytes.count < byteCount * 3 / 4)
      #expect(unpacked(bytes, encoding, byteCount) == pages)
    }
  }

  @Test(arguments: PageEncoding.allCases)
  func onePackerPacksManyRuns(encoding: PageEncoding) throws {
    var packer = PagePacker()
    var unpacker = PageUnpacker()
    for _ in 0..<50 {
      let pages = Self.text(65_536)
      var room = [UInt8](repeating: 0, count: 65_536)
      var spanBytes = room.mutableSpan
      var span = unsafe spanBytes.mutableBytes
      let count = try #require(packer.pack(pages.rawBytes, as: encoding, into: &span))
      var back = [UInt8](repeating: 0, count: 65_536)
      var targetBytes = back.mutableSpan
      var target = unsafe targetBytes.mutableBytes
      let isWhole = unpacker.unpack(Array(room[..<count]).rawBytes, as: encoding, into: &target)
      #expect(isWhole && back == pages)
    }
  }

  @Test(arguments: PageEncoding.allCases)
  func whatDoesNotFitIsNotPacked(encoding: PageEncoding) throws {
    let noise = Self.noise(65_536)
    #expect(packed(noise, encoding, room: 57_344) == nil)
    let text = Self.text(65_536)
    let bytes = try #require(packed(text, encoding))
    #expect(packed(text, encoding, room: bytes.count - 1) == nil)
  }

  /// The library would take them.
  @Test func severalFramesOfZstdAreRefused() throws {
    let half = Self.text(2048)
    let frame = try #require(packed(half, .zstd))
    #expect(unpacked(frame, .zstd, 2048) == half)
    #expect(unpacked(frame + frame, .zstd, 4096) == nil)
    // A frame that is to be skipped, of no bytes, in front and behind.
    let skipped: [UInt8] = [0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0]
    #expect(unpacked(skipped + frame, .zstd, 2048) == nil)
    #expect(unpacked(frame + skipped, .zstd, 2048) == nil)
    #expect(unpacked(frame + [0], .zstd, 2048) == nil)
  }

  /// Whatever a peer sends, it gives all of the room or is refused.
  @Test(arguments: PageEncoding.allCases)
  func hostileBytesAreRefused(encoding: PageEncoding) throws {
    let text = Self.text(4096)
    let bytes = try #require(packed(text, encoding))
    for count in 0..<bytes.count {
      #expect(unpacked(Array(bytes[..<count]), encoding, 4096) == nil)
    }
    #expect(unpacked(bytes, encoding, 4095) == nil)
    #expect(unpacked(bytes, encoding, 4097) == nil)
    #expect(unpacked(bytes, encoding, 0) == nil)
    #expect(unpacked([], encoding, 4096) == nil)
    for _ in 0..<2000 { _ = unpacked(Self.noise(.random(in: 1...600)), encoding, 4096) }
    for _ in 0..<2000 {
      var damaged = bytes
      for _ in 0..<Int.random(in: 1...4) {
        damaged[.random(in: 0..<damaged.count)] = .random(in: 0...255)
      }
      // Damage that unpacks to something is found by the checksum of the pages.
      _ = unpacked(damaged, encoding, 4096)
    }
  }
}
