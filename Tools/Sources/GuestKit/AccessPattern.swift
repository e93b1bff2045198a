internal import CGuestProgram

/// In which order a vCPU visits its pages, how often it writes, and how fast.
public struct AccessPattern: Hashable, Sendable, CustomStringConvertible {
  /// The order of the visits.
  public enum Order: String, CaseIterable, Hashable, Sendable {
    /// One page after the other, round and round.
    case sequential
    /// Every n-th page; all pages get a turn.
    case strided
    /// Uniformly at random.
    case random
    /// Few pages often, many seldom: Zipf with exponent 1, hot pages spread over the memory.
    case zipf
    /// One cycle through all pages in scattered order; the next step needs the page before.
    case chase
    /// Random, with a limit on operations per second.
    case rateLimited = "rate-limited"

    var code: UInt64 {
      switch self {
      case .sequential: UInt64(PATTERN_SEQUENTIAL)
      case .strided: UInt64(PATTERN_STRIDED)
      case .random, .rateLimited: UInt64(PATTERN_RANDOM)
      case .zipf: UInt64(PATTERN_ZIPF)
      case .chase: UInt64(PATTERN_CHASE)
      }
    }
  }

  /// The order of the visits.
  public var order: Order
  /// Of 100 visits, how many write the page after verifying it.
  public var writePercent: Int
  /// The step of `strided`, in pages, before it is made coprime with the page count.
  public var stride: Int = 17
  /// Operations per second and vCPU; 0 for as many as go.
  public var operationsPerSecond: Int = 0
  /// Operations between two removals of a random page; 0 for none.
  public var removeEvery: Int = 0
  /// Operations after which a vCPU stops; nil for never.
  public var operationLimit: UInt64?

  /// Parses `ORDER`, `ORDER-write` or `ORDER-read`; half of the visits write unless it says so.
  public init?(_ name: String) {
    for (suffix, percent) in [("-write", 100), ("-read", 0), ("", 50)] where name.hasSuffix(suffix)
    {
      guard let order = Order(rawValue: String(name.dropLast(suffix.count))) else { continue }
      self.order = order
      self.writePercent = percent
      if order == .rateLimited {
        // Slow enough to leave a core idle, fast enough to dirty 40 MB/s.
        operationsPerSecond = 10_000
        if suffix.isEmpty { writePercent = 100 }
      }
      return
    }
    return nil
  }

  /// The names that `init` takes, for help texts.
  public static var names: String {
    Order.allCases.map(\.rawValue).joined(separator: ", ") + "; each also with -write or -read"
  }

  /// The name that `init` takes, as far as it says.
  public var description: String {
    switch writePercent {
    case 100: "\(order.rawValue)-write"
    case 0: "\(order.rawValue)-read"
    default: order.rawValue
    }
  }
}

extension AccessPattern {
  /// How many waits a second a rate limit is split into: short bursts, few exits.
  private static let waitsPerSecond = 200

  /// The words that the host puts into a vCPU's page, by offset.
  func plan(
    vcpu: Int, in layout: GuestLayout, prefilled: UInt64
  ) -> [(offset: Int, value: UInt64)] {
    let pages = layout.pagesPerVcpu
    let mask = Self.maskCovering(pages)
    let burst = operationsPerSecond == 0 ? 0 : max(1, operationsPerSecond / Self.waitsPerSecond)
    let wait = operationsPerSecond == 0 ? 0 : burst * 1_000_000 / operationsPerSecond
    return [
      (Int(VCPU_INDEX), UInt64(vcpu)),
      (Int(VCPU_PATTERN), order.code),
      (Int(VCPU_PAGE_COUNT), UInt64(pages)),
      (Int(VCPU_PAGE_MASK), mask),
      (Int(VCPU_OCTAVES), UInt64(Int.bitWidth - pages.leadingZeroBitCount)),
      (Int(VCPU_STRIDE), UInt64(Self.coprime(stride, to: pages))),
      (Int(VCPU_WRITE_THRESHOLD), UInt64(writePercent) * (1 << 32) / 100),
      (Int(VCPU_OPERATION_LIMIT), operationLimit ?? .max),
      (Int(VCPU_BURST), UInt64(burst)),
      (Int(VCPU_WAIT_MICROSECONDS), UInt64(wait)),
      (Int(VCPU_REMOVE_EVERY), UInt64(removeEvery)),
      (Int(VCPU_GRANULE_COUNT), UInt64(pages >> layout.granuleShift)),
      (Int(VCPU_CANARY), Self.canary(vcpu: vcpu, seed: layout.seed)),
      (Int(VCPU_PREFILLED), prefilled),
    ]
  }

  /// What a vCPU keeps in a vector register for ever, to show that it moved along.
  static func canary(vcpu: Int, seed: UInt64) -> UInt64 {
    PageContent(id: UInt64(vcpu) + 1, version: .max, seed: ~seed).mix
  }

  /// Where a vCPU's random numbers start; never 0, which would stay 0.
  static func firstRandom(vcpu: Int, seed: UInt64) -> UInt64 {
    PageContent(id: UInt64(vcpu) + 1, version: 1, seed: ~seed).mix | 1
  }

  private static func maskCovering(_ count: Int) -> UInt64 {
    count <= 1 ? 0 : UInt64.max >> UInt64((count - 1).leadingZeroBitCount)
  }

  private static func coprime(_ stride: Int, to count: Int) -> Int {
    var step = max(1, stride % max(count, 1))
    while greatestCommonDivisor(step, count) != 1 { step += 1 }
    return step
  }

  private static func greatestCommonDivisor(_ left: Int, _ right: Int) -> Int {
    right == 0 ? left : greatestCommonDivisor(right, left % right)
  }
}
