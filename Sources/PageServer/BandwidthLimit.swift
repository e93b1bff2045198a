internal import Pages
internal import System
internal import Wire

/// What a session may send of pages in a second, on all its bulk connections together and over all
/// its links: the operator's cap, which may change while it runs. What is demanded goes on urgent,
/// which knows no cap.
final class BandwidthLimit: Sendable {
  /// So much may go at once after a pause: one of the largest runs of small pages. A huge page is
  /// paid for afterwards.
  static let burstByteCount = UInt64(WireLimits.maximumRunByteCount)

  /// What may go.
  enum Allowance: Hashable {
    /// At most so many bytes, now.
    case bytes(UInt64)
    /// Nothing before that moment.
    case nothing(until: Instant)
  }

  private let rate: Lock<ByteRateLimit?>

  /// A cap in bytes of pages a second; nil for all that goes.
  init(bytesPerSecond: UInt64?) { rate = Lock(Self.rate(of: bytesPerSecond)) }

  /// Another cap from now on; whoever waits under the old one is to be woken. A debt of the old one
  /// is forgiven: it is of one burst, or of one huge page.
  func set(bytesPerSecond: UInt64?) { rate.withLock { $0 = Self.rate(of: bytesPerSecond) } }

  /// Notes that bytes went.
  func spend(byteCount: UInt64, now: Instant) {
    rate.withLock { $0?.spend(byteCount: byteCount, now: now) }
  }

  /// What may go now of pages of that size, at least one of them; or when all that is wanted may,
  /// a burst at most, so that a low cap does not make frames of single pages.
  func allowance(pageByteCount: UInt64, wanted: UInt64, now: Instant) -> Allowance {
    rate.withLock { rate in
      guard let rate else { return .bytes(.max) }
      let moment = rate.momentAffordable(byteCount: max(pageByteCount, wanted), now: now)
      guard moment <= now else { return .nothing(until: moment) }
      return .bytes(max(pageByteCount, rate.affordableByteCount(now: now)))
    }
  }

  private static func rate(of bytesPerSecond: UInt64?) -> ByteRateLimit? {
    bytesPerSecond.map { ByteRateLimit(bytesPerSecond: $0, burstByteCount: burstByteCount) }
  }
}
