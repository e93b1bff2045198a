internal import COpenSSL
internal import Pages

/// What proves that a chunk is what its maker sealed, in its place: the tag of AES-256-GCM.
@frozen
public struct SealTag: Hashable, Sendable {
  /// The first eight bytes, little-endian.
  public var low: UInt64
  /// The last eight bytes, little-endian.
  public var high: UInt64
  /// How many bytes it has.
  public static let byteCount = 16

  /// A tag of these halves.
  @inlinable
  public init(low: UInt64, high: UInt64) {
    self.low = low
    self.high = high
  }
}

/// Where a chunk belongs. It is sealed along, so that a chunk opens nowhere else: not under another
/// number, and not as the last one when more followed it.
@frozen
public struct ChunkPlace: Hashable, Sendable {
  /// What kind of chunk, so that kinds can be counted independently.
  public var kind: UInt32
  /// Its number; unique for its kind under one key.
  public var number: UInt64
  /// Whether nothing follows it.
  public var isLast: Bool

  /// That place.
  @inlinable
  public init(kind: UInt32, number: UInt64, isLast: Bool = false) {
    self.kind = kind
    self.number = number
    self.isLast = isLast
  }
}

/// Seals the chunks of one file with one key: AES-256-GCM by libcrypto, with the chunk's place as
/// nonce. For one thread at a time.
///
/// **A key seals each place once.** Two contents under one place would give both away, so a key
/// belongs to one file and is made with a random salt of that file.
@safe
public struct SealedChunks: ~Copyable, @unchecked Sendable {
  /// AES-256's.
  public static let keyByteCount = 32
  private static let nonceByteCount = 12

  // EVP_CIPHER_CTX. Ours alone; freed by deinit.
  private let context: OpaquePointer
  private var nonce = [UInt8](repeating: 0, count: nonceByteCount)
  private var associated = [UInt8](repeating: 0, count: 16)

  /// Ready to seal and open with a key of `keyByteCount` bytes.
  public init(key: [UInt8]) throws(SealError) {
    invariant(key.count == Self.keyByteCount, "a key has 32 bytes")
    // unsafe: the new object is nobody else's.
    unsafe context = try Self.makeContext(key)
  }

  private static func makeContext(_ key: [UInt8]) throws(SealError) -> OpaquePointer {
    guard let context = unsafe EVP_CIPHER_CTX_new() else { throw SealError("EVP_CIPHER_CTX_new") }
    // unsafe: the cipher takes 32 bytes of the key, which has as many.
    guard unsafe EVP_CipherInit_ex(context, EVP_aes_256_gcm(), nil, key, nil, 1) == 1 else {
      unsafe EVP_CIPHER_CTX_free(context)
      throw SealError("EVP_CipherInit_ex")
    }
    return unsafe context
  }

  // unsafe: nobody else has the object; this also wipes the key schedule.
  deinit { unsafe EVP_CIPHER_CTX_free(context) }

  /// Seals `bytes`: encrypts them in place, or only authenticates them. Returns the tag.
  @_lifetime(bytes: copy bytes)
  public mutating func seal(
    _ bytes: inout MutableRawSpan, at place: ChunkPlace, encrypting: Bool
  ) throws(SealError) -> SealTag {
    try begin(place, isSealing: true)
    try pass(&bytes, isCiphered: encrypting)
    try finish()
    var tag = SealTag(low: 0, high: 0)
    // unsafe: the tag has the 16 bytes that are written.
    let isRead = unsafe withUnsafeMutableBytes(of: &tag) {
      unsafe EVP_CIPHER_CTX_ctrl(
        context, EVP_CTRL_AEAD_GET_TAG, Int32(SealTag.byteCount), $0.baseAddress)
    }
    guard isRead == 1 else { throw SealError("EVP_CTRL_AEAD_GET_TAG") }
    return SealTag(low: UInt64(littleEndian: tag.low), high: UInt64(littleEndian: tag.high))
  }

  /// Opens what `seal` made, in place. False when key, place, tag or bytes are not those of one
  /// seal; the bytes are zeros then, since nothing of them can be trusted.
  @_lifetime(bytes: copy bytes)
  public mutating func open(
    _ bytes: inout MutableRawSpan, at place: ChunkPlace, tag: SealTag, isEncrypted: Bool
  ) throws(SealError) -> Bool {
    try begin(place, isSealing: false)
    try pass(&bytes, isCiphered: isEncrypted)
    var expected = SealTag(low: tag.low.littleEndian, high: tag.high.littleEndian)
    // unsafe: the tag has the 16 bytes that are read.
    let isSet = unsafe withUnsafeMutableBytes(of: &expected) {
      unsafe EVP_CIPHER_CTX_ctrl(
        context, EVP_CTRL_AEAD_SET_TAG, Int32(SealTag.byteCount), $0.baseAddress)
    }
    guard isSet == 1 else { throw SealError("EVP_CTRL_AEAD_SET_TAG") }
    do throws(SealError) {
      try finish()
      return true
    } catch {
      // The comparison of the tag is the one thing that fails here; libcrypto notes it for nobody.
      ERR_clear_error()
      Self.wipe(&bytes)
      return false
    }
  }

  private mutating func begin(_ place: ChunkPlace, isSealing: Bool) throws(SealError) {
    nonce.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(place.kind, at: 0)
      bytes.storeLittleEndian(place.number, at: 4)
    }
    associated.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(place.kind, at: 0)
      bytes.storeLittleEndian(UInt32(place.isLast ? 1 : 0), at: 4)
      bytes.storeLittleEndian(place.number, at: 8)
    }
    // unsafe: the nonce has GCM's 12 bytes; no cipher and no key means those set before.
    guard unsafe EVP_CipherInit_ex(context, nil, nil, nil, nonce, isSealing ? 1 : 0) == 1 else {
      throw SealError("EVP_CipherInit_ex")
    }
    var count: Int32 = 0
    // unsafe: no output means associated data, of which the array has as many bytes as are said.
    guard
      unsafe EVP_CipherUpdate(context, nil, &count, associated, Int32(associated.count)) == 1
    else { throw SealError("EVP_CipherUpdate") }
  }

  @_lifetime(bytes: copy bytes)
  private func pass(_ bytes: inout MutableRawSpan, isCiphered: Bool) throws(SealError) {
    invariant(bytes.byteCount <= Int(Int32.max), "libcrypto takes lengths below 2 GiB")
    guard bytes.byteCount > 0 else { return }
    // unsafe: GCM may work in place, and writes as many bytes as it is given.
    let isDone = unsafe bytes.withUnsafeMutableBytes { buffer in
      var count: Int32 = 0
      let start = unsafe buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
      return unsafe EVP_CipherUpdate(
        context, isCiphered ? start : nil, &count, start, Int32(buffer.count))
    }
    guard isDone == 1 else { throw SealError("EVP_CipherUpdate") }
  }

  private func finish() throws(SealError) {
    var rest: [16 of UInt8] = .init(repeating: 0)
    var count: Int32 = 0
    // unsafe: GCM has no last block to write; the room is for any cipher's.
    let isDone = unsafe withUnsafeMutableBytes(of: &rest) {
      unsafe EVP_CipherFinal_ex(
        context, $0.baseAddress?.assumingMemoryBound(to: UInt8.self), &count)
    }
    guard isDone == 1 else { throw SealError("EVP_CipherFinal_ex") }
  }

  @_lifetime(bytes: copy bytes)
  private static func wipe(_ bytes: inout MutableRawSpan) {
    // unsafe: writes zeros to exactly the span's bytes.
    unsafe bytes.withUnsafeMutableBytes { buffer in
      if let start = buffer.baseAddress { unsafe OPENSSL_cleanse(start, buffer.count) }
    }
  }
}
