internal import COpenSSL
internal import Pages

/// The first half of a page's SHA-256: pages with equal digests are the same page, as far as
/// anybody can tell or make it so.
@frozen
public struct PageDigest: Hashable, Sendable {
  /// The first eight bytes.
  public let high: UInt64
  /// The next eight.
  public let low: UInt64

  init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// Of no page.
  public static let none = PageDigest(high: 0, low: 0)
}

/// Makes digests of pages by libcrypto, about 1.5 GB/s where the processor has instructions for it;
/// for one thread.
@safe
public struct PageHasher: ~Copyable, @unchecked Sendable {
  // Ours alone; freed by deinit.
  private let context: OpaquePointer

  /// Ready to hash; stops the process when there is no memory, as every allocation does.
  public init() {
    guard let context = unsafe EVP_MD_CTX_new(),
      unsafe EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1
    else { invariantBroken("libcrypto has SHA-256, and there is memory for it") }
    unsafe self.context = context
  }

  deinit { unsafe EVP_MD_CTX_free(context) }

  /// The digest of a page.
  public mutating func digest(of page: RawSpan) -> PageDigest {
    let context = unsafe context
    var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    // unsafe: the context is ours, the page lives during the closure, and SHA-256 writes 32 bytes.
    let isDone = unsafe page.withUnsafeBytes { bytes in
      unsafe withUnsafeMutableBytes(of: &words) { digest in
        // A context that has been initialised keeps its algorithm without asking for it again.
        unsafe EVP_DigestInit_ex(context, nil, nil) == 1
          && EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) == 1
          && EVP_DigestFinal_ex(
            context, digest.baseAddress?.assumingMemoryBound(to: UInt8.self), nil) == 1
      }
    }
    invariant(isDone, "libcrypto has SHA-256")
    return PageDigest(high: words.0, low: words.1)
  }
}
