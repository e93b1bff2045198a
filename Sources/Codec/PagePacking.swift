internal import CLZ4
internal import CZstd
internal import Pages

/// How the bytes of pages are packed. The numbers stand on the wire.
public enum PageEncoding: UInt8, CaseIterable, Hashable, Sendable {
  /// An LZ4 block: some hundred MB/s and more, for links of a Gbit/s.
  case lz4 = 1
  /// A zstd frame of level 1: half as fast, and packs more tightly, for slower links.
  case zstd = 2
}

/// Packs pages for the wire with memory of its own; for one thread.
///
/// LZ4 and zstd are libraries of their own because no code of ours would be as fast, nor as well
/// tried; both are of a few hundred kilobytes and in every distribution.
@safe
public struct PagePacker: ~Copyable, @unchecked Sendable {
  /// zstd's level: the fastest that is not made for speed alone. Each further one costs a third of
  /// the speed and gains a few percent.
  private static let zstdLevel: Int32 = 1
  /// LZ4's: 1 is the library's default.
  private static let lz4Acceleration: Int32 = 1

  // Ours alone; freed by deinit.
  private let lz4State: UnsafeMutableRawPointer
  private let zstdContext: OpaquePointer

  /// Ready to pack; stops the process when there is no memory, as every allocation does.
  public init() {
    unsafe lz4State = .allocate(byteCount: Int(LZ4_sizeofState()), alignment: 16)
    guard let context = unsafe ZSTD_createCCtx() else {
      invariantBroken("there is memory for a packer")
    }
    unsafe zstdContext = context
  }

  deinit {
    unsafe lz4State.deallocate()
    unsafe ZSTD_freeCCtx(zstdContext)
  }

  /// Packs all of `pages` into the front of `room`. How many bytes that took; nil when it does not
  /// fit: pages that do not pack well are not worth their unpacking.
  public mutating func pack(
    _ pages: RawSpan, as encoding: PageEncoding, into room: inout MutableRawSpan
  ) -> Int? {
    let lz4State = unsafe lz4State
    let zstdContext = unsafe zstdContext
    let level = Self.zstdLevel
    let acceleration = Self.lz4Acceleration
    // unsafe: both spans live during the closures, and are as long as the libraries are told; the
    // state is of the size that LZ4 asks for, and aligned for it.
    return unsafe room.withUnsafeMutableBytes { target in
      unsafe pages.withUnsafeBytes { source -> Int? in
        switch encoding {
        case .lz4:
          let count = unsafe LZ4_compress_fast_extState(
            lz4State, source.baseAddress, target.baseAddress, Int32(source.count),
            Int32(target.count), acceleration)
          return count > 0 ? Int(count) : nil
        case .zstd:
          let count = unsafe ZSTD_compressCCtx(
            zstdContext, target.baseAddress, target.count, source.baseAddress, source.count, level)
          return ZSTD_isError(count) == 0 ? count : nil
        }
      }
    }
  }
}

/// Unpacks what a peer has packed, whatever it is: hostile bytes are refused, and nothing is
/// written outside the room. For one thread.
@safe
public struct PageUnpacker: ~Copyable, @unchecked Sendable {
  // Ours alone; freed by deinit.
  private let zstdContext: OpaquePointer

  /// Ready to unpack.
  public init() {
    guard let context = unsafe ZSTD_createDCtx() else {
      invariantBroken("there is memory for an unpacker")
    }
    unsafe zstdContext = context
  }

  deinit { unsafe ZSTD_freeDCtx(zstdContext) }

  /// Unpacks all of `packed` into `room`; false unless it fills that exactly. What the room holds
  /// then is of no use.
  public mutating func unpack(
    _ packed: RawSpan, as encoding: PageEncoding, into room: inout MutableRawSpan
  ) -> Bool {
    let zstdContext = unsafe zstdContext
    // unsafe: both spans live during the closures, and are as long as the libraries are told.
    return unsafe room.withUnsafeMutableBytes { target in
      unsafe packed.withUnsafeBytes { source in
        switch encoding {
        case .lz4:
          let count = unsafe LZ4_decompress_safe(
            source.baseAddress, target.baseAddress, Int32(source.count), Int32(target.count))
          return Int(count) == target.count
        case .zstd:
          // One frame of today's format and nothing else: the library also takes several, and
          // some builds of it the formats before the first release.
          guard unsafe Self.isOneFrame(source) else { return false }
          let count = unsafe ZSTD_decompressDCtx(
            zstdContext, target.baseAddress, target.count, source.baseAddress, source.count)
          return ZSTD_isError(count) == 0 && count == target.count
        }
      }
    }
  }

  private static func isOneFrame(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard bytes.count >= 4,
      // unsafe: the four bytes are there.
      unsafe UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self))
        == UInt32(ZSTD_MAGICNUMBER)
    else { return false }
    // unsafe: the buffer is as long as it says.
    return unsafe ZSTD_findFrameCompressedSize(bytes.baseAddress, bytes.count) == bytes.count
  }
}
