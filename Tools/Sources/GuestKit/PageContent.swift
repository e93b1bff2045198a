internal import CGuestProgram
internal import Glibc
internal import Pages

/// The rule that says what a data page holds: a pure function of the image's seed, the page's id
/// and its version. The guest program computes the same; see `guest_program.S`.
///
/// Version 0 is all zeros: never written. Any other: word 0 = id, 1 = version, 2 = checksum, then
/// as many words of noise as the image has in each page, the first of which is `mix`, and all
/// others equal to `mix`. So an image packs as well, or as badly, as is wanted.
@frozen
public struct PageContent: Hashable, Sendable {
  /// 64-bit words in a page of content. Content pages are 4 KiB whatever backs them.
  public static let wordCount = Int(CONTENT_WORDS)
  /// Bytes in a page of content.
  public static let byteCount = wordCount * 8

  /// The words 0, 1 and 2, and the one that fills the rest.
  public let id: UInt64
  /// The version, 0 for a page that was never written.
  public let version: UInt32
  /// Word 2.
  public let checksum: UInt64
  /// Word 3, and those behind the noise.
  public let mix: UInt64
  /// Words of noise, from word 3 on; 0 to 509.
  public let noiseWordCount: Int

  /// The content of page `id` in `version`. `id` is the page's place in the image, never 0.
  public init(id: UInt64, version: UInt32, seed: UInt64, noiseWordCount: Int = 0) {
    var mix = UInt64(MIX_ID) &* id &+ UInt64(MIX_VERSION) &* UInt64(version) &+ seed
    mix = (mix ^ (mix >> 30)) &* UInt64(MIX_FIRST)
    mix = (mix ^ (mix >> 27)) &* UInt64(MIX_SECOND)
    mix ^= mix >> 31
    let rotated = mix << 29 | mix >> 35
    self.id = id
    self.version = version
    self.mix = version == 0 ? 0 : mix
    self.noiseWordCount = version == 0 ? 0 : noiseWordCount
    self.checksum = version == 0 ? 0 : rotated &* UInt64(MIX_CHECKSUM) ^ id
  }

  /// The word at `index` of the page.
  public func word(at index: Int) -> UInt64 {
    switch index {
    case 0: version == 0 ? 0 : id
    case 1: UInt64(version)
    case 2: checksum
    default:
      index < noiseEnd ? (3..<index).reduce(mix) { noise, _ in Self.noise(after: noise) } : mix
    }
  }

  /// The first word that is no noise any more.
  private var noiseEnd: Int { Int(CONTENT_FIRST_MIXED_WORD) + noiseWordCount }

  /// The next word of noise: no compressor finds anything in it.
  private static func noise(after word: UInt64) -> UInt64 {
    var next = word
    next ^= next << UInt64(NOISE_SHIFT_FIRST)
    next ^= next >> UInt64(NOISE_SHIFT_SECOND)
    next ^= next << UInt64(NOISE_SHIFT_THIRD)
    return next
  }

  /// The first word of `page` that differs from this content; nil when all 512 are equal.
  public func firstDifference(in page: Span<UInt64>) -> Int? {
    for index in 0..<3 where page[index] != word(at: index) { return index }
    var noise = mix
    for index in 3..<noiseEnd {
      if page[index] != noise { return index }
      noise = Self.noise(after: noise)
    }
    let expected = mix
    for index in noiseEnd..<Self.wordCount where page[index] != expected { return index }
    return nil
  }

  /// Whether `page` holds exactly this content.
  public func matches(_ page: Span<UInt64>) -> Bool {
    guard page.count == Self.wordCount else { return false }
    // unsafe: a span of 512 words is 4 KiB of readable memory while the closure runs.
    return unsafe page.withUnsafeBytes { unsafe matches($0.baseAddress!) }
  }

  /// Writes the content over `page`, which must have room for 512 words.
  public func fill(_ page: inout MutableSpan<UInt64>) {
    invariant(page.count == Self.wordCount, "a page of content has 512 words")
    // unsafe: a span of 512 words is 4 KiB of writable memory while the closure runs.
    unsafe page.withUnsafeMutableBytes { unsafe fill($0.baseAddress!) }
  }
}

extension PageContent {
  /// Bytes behind the noise, all words of which are equal.
  private var plainByteCount: Int { (Self.wordCount - noiseEnd) * 8 }

  /// Whether the 4 KiB at `page` hold exactly this content.
  ///
  /// All mixed words are equal when the page agrees with itself shifted by a word: memcmp does it
  /// as fast in a debug build as in a release build.
  func matches(_ page: UnsafeRawPointer) -> Bool {
    // unsafe, all of it: the caller gives 4 KiB of readable memory, and no index passes its end.
    for index in 0..<3 {
      guard unsafe page.load(fromByteOffset: index * 8, as: UInt64.self) == word(at: index)
      else { return false }
    }
    var noise = mix
    for index in 3..<noiseEnd {
      guard unsafe page.load(fromByteOffset: index * 8, as: UInt64.self) == noise
      else { return false }
      noise = Self.noise(after: noise)
    }
    guard plainByteCount > 0 else { return true }
    let plain = unsafe page + noiseEnd * 8
    guard unsafe plain.load(as: UInt64.self) == mix else { return false }
    return unsafe memcmp(plain, plain + 8, plainByteCount - 8) == 0
  }

  /// Writes the content over the 4 KiB at `page`, lowest word first.
  func fill(_ page: UnsafeMutableRawPointer) {
    // unsafe: the caller gives 4 KiB of writable memory; each memcpy doubles what is there.
    for index in 0..<3 {
      unsafe page.storeBytes(of: word(at: index), toByteOffset: index * 8, as: UInt64.self)
    }
    var noise = mix
    for index in 3..<noiseEnd {
      unsafe page.storeBytes(of: noise, toByteOffset: index * 8, as: UInt64.self)
      noise = Self.noise(after: noise)
    }
    guard plainByteCount > 0 else { return }
    let plain = unsafe page + noiseEnd * 8
    unsafe plain.storeBytes(of: mix, as: UInt64.self)
    var filled = 8
    while filled < plainByteCount {
      let count = min(filled, plainByteCount - filled)
      unsafe memcpy(plain + filled, plain, count)
      filled += count
    }
  }
}

/// What the version table says about one page.
@frozen
public struct TableEntry: RawRepresentable, Hashable, Sendable {
  /// 31 bits of version, and the top bit when the page was given back since.
  public let rawValue: UInt32

  /// The entry with these bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// How often the page was written. It never goes back, not even by a removal.
  public var version: UInt32 { rawValue & UInt32(ENTRY_VERSION_MASK) }
  /// Whether the guest gave the page back after its last write.
  public var isRemoved: Bool { rawValue & UInt32(ENTRY_REMOVED) != 0 }
  /// The same version, given back.
  public var removed: TableEntry { TableEntry(rawValue: rawValue | UInt32(ENTRY_REMOVED)) }
  /// The entry after one more write.
  public var written: TableEntry { TableEntry(rawValue: version + 1) }
}
