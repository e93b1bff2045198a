internal import FoundationEssentials
internal import Pages
internal import System

/// One line of the relay's log: what it did, and when on this host's monotonic clock.
public struct RelayEvent: Codable, Hashable, Sendable {
  /// "listening", "opened", "connected", "role", "fault", "cleared", "closed" or "ended".
  public var event: String
  /// Nanoseconds of CLOCK_MONOTONIC: to be compared with any other process of the host.
  public var timeNanoseconds: UInt64
  /// The link's number.
  public var link: Int?
  /// Its role.
  public var role: String?
  /// The fault, by the name of its action.
  public var fault: String?
  /// To which links.
  public var target: String?
  /// Which way.
  public var direction: String?
  /// How much.
  public var value: UInt64?
  /// An address, or why a link was closed.
  public var text: String?

  enum CodingKeys: String, CodingKey {
    case event, link, role, fault, target, direction, value, text
    case timeNanoseconds = "time_ns"
  }
}

/// Writes the log, a line at a time.
struct RelayLog {
  var isQuiet = false
  /// Sees each event first.
  var observer: ((RelayEvent) -> Void)?

  func note(
    _ event: String, link: Link? = nil, order: FaultOrder? = nil, text: String? = nil
  ) {
    let line = RelayEvent(
      event: event, timeNanoseconds: MonotonicClock.now().nanoseconds, link: link?.number,
      role: link?.role.map { "\($0)" }, fault: order?.action.rawValue, target: order?.target.text,
      direction: order?.direction.rawValue, value: order?.value, text: text)
    observer?(line)
    guard !isQuiet else { return }
    StandardStream.output.write(Self.text(line))
  }

  static func text<Value: Encodable>(_ value: Value) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let line = try? encoder.encode(value) else {
      invariantBroken("strings and numbers can be written as JSON")
    }
    return String(decoding: line, as: UTF8.self) + "\n"
  }
}
