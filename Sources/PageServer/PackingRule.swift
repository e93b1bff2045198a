internal import Codec
internal import Pages

/// Whether pages are packed on bulk connections.
public enum Packing: String, CaseIterable, Hashable, Sendable {
  /// As it pays, by measurement.
  case automatic = "auto"
  /// Never.
  case none
  /// Always by LZ4, where that makes less of them.
  case lz4
  /// Always by zstd, where that makes less of them.
  case zstd

  /// What always packs; nil when it is decided, or never.
  var encoding: PageEncoding? {
    switch self {
    case .automatic, .none: nil
    case .lz4: .lz4
    case .zstd: .zstd
    }
  }
}

/// Decides by which encoding one bulk connection packs its pages. Pure.
///
/// A sender that mostly waits for its link is faster with fewer bytes on it, as long as packing
/// takes less time than the bytes that it saves. What it takes, and saves, depends on the pages and
/// the processor, and is tried with a few frames; what the link carries is known while it is waited
/// for. So the time that a byte of pages would take is foretold for each encoding, the best one is
/// tried in earnest, and given up again unless more pages than before have gone through. A look
/// that gains nothing doubles the time to the next: pages that do not pack, or a fast link, cost
/// next to nothing.
///
/// Deltas of seeds are made while the time that they take is less than the link would take for what
/// they save, from the first moment on at which the link has held the sender up.
struct PackingRule {
  /// How a frame of pages went.
  struct Frame {
    /// By what it was packed, or was tried to be.
    var encoding: PageEncoding?
    var pageByteCount: Int
    /// What went over the link; as many when packing did not make less of them.
    var sentByteCount: Int
    /// What trying to pack took.
    var packNanoseconds: UInt64
    /// What waiting for credit, for the operator's cap and for room on the link took.
    var waitNanoseconds: UInt64
  }

  /// Long enough that the kernel's buffers do not hide the link.
  static let windowNanoseconds: UInt64 = 50_000_000
  static let windowByteCount = 512 << 10
  /// On a link so slow that this many bytes take longer.
  static let longestWindowNanoseconds: UInt64 = 2_000_000_000
  /// What saves less than an eighth is sent as it is, see `FramePacker`.
  static let uselessShare = 0.875
  /// Frames that are packed to learn what an encoding makes of them.
  static let sampleCount = 2
  /// From this share of its time on that it waits, a sender is held up by its link.
  static let waitingShare = 0.3
  /// What a change must promise, and what it must bring, to be worth it.
  static let promisedGain = 1.1
  static let neededGain = 1.05
  /// Between two looks that have gained nothing.
  static let restNanoseconds: ClosedRange<UInt64> = 200_000_000...30_000_000_000
  /// How much a new measurement counts against those before.
  private static let weight = 0.3

  /// What an encoding makes of a byte of pages.
  private struct Estimate {
    var packNanoseconds: Double
    var sentShare: Double
  }

  private struct Window {
    var start: Instant
    var pageByteCount = 0
    var sentByteCount = 0
    var packNanoseconds: UInt64 = 0
    var waitNanoseconds: UInt64 = 0
  }

  private let packing: Packing
  /// In use.
  private(set) var encoding: PageEncoding?
  /// By encoding, in the order of their numbers.
  private var estimates = [Estimate?](repeating: nil, count: PageEncoding.allCases.count)
  private var samples: [PageEncoding] = []
  private var window: Window?
  /// What was in use before, and how many bytes of pages went in a nanosecond.
  private var trial: (from: PageEncoding?, rate: Double)?
  /// What a delta takes, and makes of a byte of pages.
  private var delta: Estimate?
  /// Bytes that the link carries in a nanosecond at least; nil while it has never held us up.
  private var linkRate: Double?
  private var restUntil: Instant?
  private var rest = restNanoseconds.lowerBound

  init(_ packing: Packing) {
    self.packing = packing
    encoding = packing.encoding
    if packing == .automatic { sample(PageEncoding.allCases) }
  }

  private mutating func sample(_ encodings: [PageEncoding]) {
    samples = encodings.flatMap { Array(repeating: $0, count: Self.sampleCount) }
  }

  /// Whether there is anything to measure.
  var isDecided: Bool { packing != .automatic }

  /// Whether seeds are to be kept, for deltas of what is sent of them later.
  var keepsSeeds: Bool { packing == .automatic ? linkRate != nil : packing != .none }

  /// Whether seeds are to be sent as what has changed of them.
  var makesDeltas: Bool {
    guard packing == .automatic, let linkRate, let delta else { return keepsSeeds }
    return delta.packNanoseconds < (1 - delta.sentShare) / linkRate
  }

  /// By what a delta is to be packed.
  var deltaEncoding: PageEncoding { encoding ?? .lz4 }

  /// By what the next frame is to be packed.
  var nextEncoding: PageEncoding? { samples.last ?? encoding }

  /// Nothing was there to be sent for a while: that says nothing of the link, what is tried cannot
  /// be compared any more, and the next round has other pages.
  mutating func paused() {
    delta = nil
    forgetWindow()
  }

  /// A frame has gone.
  mutating func sent(_ frame: Frame, now: Instant) {
    guard !isDecided, frame.pageByteCount > 0 else { return }
    if let encoding = frame.encoding {
      Self.learn(
        frame.pageByteCount, frame.sentByteCount, frame.packNanoseconds,
        &estimates[Self.place(of: encoding)])
    }
    if !samples.isEmpty { samples.removeLast() }
    guard var window else { return window = Window(start: now) }
    window.pageByteCount += frame.pageByteCount
    window.sentByteCount += frame.sentByteCount
    window.packNanoseconds += frame.packNanoseconds
    window.waitNanoseconds += frame.waitNanoseconds
    self.window = window
    let elapsed = now.nanoseconds(since: window.start)
    guard elapsed >= Self.windowNanoseconds,
      window.pageByteCount >= Self.windowByteCount || elapsed >= Self.longestWindowNanoseconds
    else { return }
    self.window = Window(start: now)
    judge(window, Double(elapsed), now)
  }

  /// A delta was made of so many bytes of pages, and has made so many of them: as many when it was
  /// of no use. What goes as a delta says nothing of the encodings, in whatever time they are
  /// tried.
  mutating func madeDelta(of pageByteCount: Int, sentByteCount: Int, nanoseconds: UInt64) {
    Self.learn(pageByteCount, sentByteCount, nanoseconds, &delta)
    if sentByteCount < pageByteCount { forgetWindow() }
  }

  private mutating func forgetWindow() {
    window = nil
    if let trial { encoding = trial.from }
    trial = nil
  }

  private static func learn(
    _ pageByteCount: Int, _ sentByteCount: Int, _ nanoseconds: UInt64,
    _ estimate: inout Estimate?
  ) {
    let packNanoseconds = Double(nanoseconds) / Double(pageByteCount)
    let sentShare = Double(sentByteCount) / Double(pageByteCount)
    let known = estimate ?? Estimate(packNanoseconds: packNanoseconds, sentShare: sentShare)
    estimate = Estimate(
      packNanoseconds: known.packNanoseconds + (packNanoseconds - known.packNanoseconds) * weight,
      sentShare: known.sentShare + (sentShare - known.sentShare) * weight)
  }

  private static func place(of encoding: PageEncoding) -> Int { Int(encoding.rawValue) - 1 }

  private func estimate(of encoding: PageEncoding?) -> Estimate? {
    encoding.flatMap { estimates[Self.place(of: $0)] }
  }

  private mutating func judge(_ window: Window, _ elapsed: Double, _ now: Instant) {
    let rate = Double(window.pageByteCount) / elapsed
    let waitShare = Double(window.waitNanoseconds) / elapsed
    learnLinkRate(Double(window.sentByteCount) / elapsed, waitShare)
    if let trial {
      self.trial = nil
      guard rate < trial.rate * Self.neededGain else {
        rest = Self.restNanoseconds.lowerBound
        return
      }
      encoding = trial.from
      return haveRest(now)
    }
    if let restUntil, now < restUntil { return }
    if let made = estimate(of: encoding), made.sentShare > Self.uselessShare {
      // The pages have stopped packing.
      encoding = nil
      return haveRest(now)
    }
    let packShare = Double(window.packNanoseconds) / elapsed
    let isPackingSlow =
      encoding != nil && packShare >= max(waitShare, 1 - waitShare - packShare)
    if waitShare >= Self.waitingShare {
      consider(window, elapsed, rate, isPackingSlow: isPackingSlow, now)
    } else if isPackingSlow {
      // It is packing that holds it up.
      attemptLess(rate)
    }
  }

  private mutating func learnLinkRate(_ rate: Double, _ waitShare: Double) {
    if waitShare >= Self.waitingShare {
      linkRate = rate
    } else if let known = linkRate {
      // It carries at least what it has just carried without holding us up.
      linkRate = max(known, rate)
    }
  }

  /// The link holds it up: what would each encoding make of that?
  private mutating func consider(
    _ window: Window, _ elapsed: Double, _ rate: Double, isPackingSlow: Bool, _ now: Instant
  ) {
    let unknown = PageEncoding.allCases.filter { estimate(of: $0) == nil }
    guard unknown.isEmpty else {
      return sample(unknown)
    }
    let linkRate = Double(window.sentByteCount) / elapsed
    let busy =
      elapsed - Double(min(window.waitNanoseconds + window.packNanoseconds, UInt64(elapsed)))
    let work = busy / Double(window.pageByteCount)
    var best: (encoding: PageEncoding?, time: Double) = (encoding, 1 / rate / Self.promisedGain)
    for candidate in [nil] + PageEncoding.allCases.map(Optional.some) where candidate != encoding {
      let made = estimate(of: candidate)
      // The kernel sends while the next frame is packed.
      let time = max(
        work + (made?.packNanoseconds ?? 0), (made?.sentShare ?? 1) / linkRate)
      if time < best.time { best = (candidate, time) }
    }
    if best.encoding != encoding { return attempt(best.encoding, rate) }
    if isPackingSlow { return attemptLess(rate) }
    // Other pages may pack better.
    for other in PageEncoding.allCases where other != encoding {
      estimates[Self.place(of: other)] = nil
    }
    haveRest(now)
  }

  /// An encoding that takes longer than all other work, and than the link is waited for, is worth
  /// a look without it, whatever was foretold: what counts as waiting for the link has the kernel's
  /// copies and TLS in it.
  private mutating func attemptLess(_ rate: Double) {
    attempt(encoding == .zstd ? .lz4 : nil, rate)
  }

  private mutating func attempt(_ candidate: PageEncoding?, _ rate: Double) {
    trial = (encoding, rate)
    encoding = candidate
  }

  private mutating func haveRest(_ now: Instant) {
    restUntil = now.advanced(byNanoseconds: rest)
    rest = min(rest * 2, Self.restNanoseconds.upperBound)
  }
}
