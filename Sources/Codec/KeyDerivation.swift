internal import COpenSSL
internal import Pages

/// libcrypto refused a call that only an unfit library or a lack of memory can make it refuse.
public struct SealError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The call's name.
  public let operation: String

  init(_ operation: String) { self.operation = operation }

  /// One line.
  public var description: String { "libcrypto failed in \(operation)" }
}

/// Makes keys out of a secret: HKDF with SHA-256 (RFC 5869), by libcrypto.
public enum KeyDerivation {
  /// `byteCount` bytes for one `purpose`, at most 8160. Whoever has them learns neither the secret
  /// nor what it gives for another purpose or salt.
  public static func hkdfSHA256(
    secret: [UInt8], salt: [UInt8], purpose: [UInt8], byteCount: Int
  ) throws(SealError) -> [UInt8] {
    invariant(byteCount > 0 && byteCount <= 255 * 32, "HKDF gives at most 255 blocks")
    invariant(!secret.isEmpty, "a key is made of a secret")
    // unsafe: libcrypto's objects are opaque; this one is freed below and used by nobody else.
    guard let context = unsafe EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nil) else {
      throw SealError("EVP_PKEY_CTX_new_id")
    }
    defer { unsafe EVP_PKEY_CTX_free(context) }
    // unsafe: each call copies as many bytes as the array has that it is given.
    guard unsafe EVP_PKEY_derive_init(context) == 1,
      unsafe EVP_PKEY_CTX_set_hkdf_md(context, EVP_sha256()) == 1,
      unsafe EVP_PKEY_CTX_set1_hkdf_key(context, secret, Int32(secret.count)) == 1,
      unsafe EVP_PKEY_CTX_set1_hkdf_salt(context, salt, Int32(salt.count)) == 1,
      unsafe EVP_PKEY_CTX_add1_hkdf_info(context, purpose, Int32(purpose.count)) == 1
    else { throw SealError("EVP_PKEY_CTX_set1_hkdf") }
    var key = [UInt8](repeating: 0, count: byteCount)
    var written = byteCount
    // unsafe: the array has the bytes that `written` says.
    guard unsafe EVP_PKEY_derive(context, &key, &written) == 1, written == byteCount else {
      throw SealError("EVP_PKEY_derive")
    }
    return key
  }
}
