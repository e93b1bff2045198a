/// One order to the relay: a line of JSON on its control socket.
public struct FaultOrder: Codable, Hashable, Sendable {
  /// What is to happen.
  public enum Action: String, CaseIterable, Codable, Hashable, Sendable {
    /// Bytes arrive `value` milliseconds later. Lasts.
    case delay
    /// `value` bytes a second pass. Lasts.
    case limit
    /// Nothing passes and nothing is said; what was sent meanwhile passes once that is over, as
    /// after a lost link that TCP did not give up. Lasts.
    case drop
    /// All is taken and nothing passed on: a one-way black hole. What is swallowed is lost, so
    /// the link is reset when that is over. Lasts.
    case swallow
    /// Nothing is taken: the sender's window fills. Lasts.
    case stall
    /// One bit of the next byte, or one in about `value` bytes, arrives wrong; that lasts.
    case corrupt
    /// Both sides see the end of the stream. Once.
    case cut
    /// Both sides see a reset. Once.
    case reset
    /// The side in `direction` sees the end; the other one is told nothing, ever. Once.
    case halfOpen = "half-open"
    /// The next connection is passed on only behind `value` later ones. Once.
    case hold
    /// Nobody listens. Lasts.
    case refuse
    /// New connections are taken, and then nothing: an open socket of somebody else. Lasts.
    case silent
    /// Listens again, and leaves everything else as it is.
    case listen
    /// Ends what lasts.
    case clear
    /// Asks for a `RelayStatus`.
    case status
    /// Ends the relay and all its links.
    case quit
  }

  /// What is to happen.
  public var action: Action
  /// To which links.
  public var target: LinkTarget
  /// Which way; also where `afterByteCount` counts: towards the client unless it says otherwise.
  public var direction: FaultDirection
  /// How much; see the actions.
  public var value: UInt64?
  /// Not before a link has carried so many bytes more.
  public var afterByteCount: UInt64?
  /// Not before so much time has passed.
  public var afterMilliseconds: UInt64?
  /// What lasts ends by itself after that time.
  public var forMilliseconds: UInt64?

  /// An order for now, for all links and both ways unless said otherwise.
  public init(
    _ action: Action, to target: LinkTarget = .all, _ direction: FaultDirection = .both,
    value: UInt64? = nil, afterByteCount: UInt64? = nil, afterMilliseconds: UInt64? = nil,
    forMilliseconds: UInt64? = nil
  ) {
    self.action = action
    self.target = target
    self.direction = direction
    self.value = value
    self.afterByteCount = afterByteCount
    self.afterMilliseconds = afterMilliseconds
    self.forMilliseconds = forMilliseconds
  }

  enum CodingKeys: String, CodingKey {
    case target, direction, value
    case action = "do"
    case afterByteCount = "after_bytes"
    case afterMilliseconds = "after_ms"
    case forMilliseconds = "for_ms"
  }

  /// Reads an order; whatever is left out is "all", "both", now, until cleared.
  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    self.init(
      try fields.decode(Action.self, forKey: .action),
      to: try fields.decodeIfPresent(LinkTarget.self, forKey: .target) ?? .all,
      try fields.decodeIfPresent(FaultDirection.self, forKey: .direction) ?? .both,
      value: try fields.decodeIfPresent(UInt64.self, forKey: .value),
      afterByteCount: try fields.decodeIfPresent(UInt64.self, forKey: .afterByteCount),
      afterMilliseconds: try fields.decodeIfPresent(UInt64.self, forKey: .afterMilliseconds),
      forMilliseconds: try fields.decodeIfPresent(UInt64.self, forKey: .forMilliseconds))
  }

  /// Longest time in an order, a day: no sum of times overflows.
  static let maximumMilliseconds: UInt64 = 86_400_000
  /// Most bytes in an order: no offset in a stream overflows.
  static let maximumByteCount: UInt64 = 1 << 62

  /// Why it cannot be carried out; nil when it can.
  public var objection: String? {
    let times = [afterMilliseconds, forMilliseconds].compactMap { $0 }
    guard times.allSatisfy({ $0 <= Self.maximumMilliseconds }) else { return "a day is enough" }
    guard value ?? 0 <= Self.maximumByteCount, afterByteCount ?? 0 <= Self.maximumByteCount else {
      return "that many bytes never come"
    }
    if action.lasts, action != .corrupt || value != nil {
      if afterByteCount != nil, action == .refuse || action == .silent {
        return "\(action.rawValue) is about no link whose bytes could be counted"
      }
    } else if forMilliseconds != nil {
      return "\(action.rawValue) does not last, so it has no end"
    }
    switch action {
    case .delay: return value ?? 0 <= Self.maximumMilliseconds ? nil : "a day is enough"
    case .limit, .hold: return value ?? 0 > 0 ? nil : "\(action.rawValue) needs a value above 0"
    case .halfOpen: return direction == .both ? "half-open needs the side that is told" : nil
    case .corrupt: return value == 0 ? "corrupt needs a value above 0, or none" : nil
    default: return nil
    }
  }
}

extension FaultOrder.Action {
  /// Whether it goes on until it is cleared.
  public var lasts: Bool {
    switch self {
    case .delay, .limit, .drop, .swallow, .stall, .corrupt, .refuse, .silent: true
    case .cut, .reset, .halfOpen, .hold, .listen, .clear, .status, .quit: false
    }
  }
}

/// Which way bytes go. The client is who dialled the relay, the server who is dialled by it.
public enum FaultDirection: String, CaseIterable, Codable, Hashable, Sendable {
  /// From the client.
  case toServer = "to-server"
  /// From the server.
  case toClient = "to-client"
  /// Both.
  case both

  /// Whether it covers bytes to the server.
  var coversToServer: Bool { self != .toClient }
  /// Whether it covers bytes to the client.
  var coversToClient: Bool { self != .toServer }
}

/// Which links an order is about: all, the one with a number (in the order in which they were
/// accepted, from 0), or those whose first frame names a role.
public enum LinkTarget: Hashable, Sendable, Codable {
  /// Each, also those to come.
  case all
  /// One.
  case number(Int)
  /// Control, requests and demanded pages.
  case urgent
  /// Pushes and maps.
  case bulk

  /// Reads "all", "urgent", "bulk" or a number.
  public init?(_ text: String) {
    switch text {
    case "all": self = .all
    case "urgent": self = .urgent
    case "bulk": self = .bulk
    default:
      guard let number = Int(text), number >= 0 else { return nil }
      self = .number(number)
    }
  }

  /// As it is read.
  public var text: String {
    switch self {
    case .all: "all"
    case .urgent: "urgent"
    case .bulk: "bulk"
    case .number(let number): "\(number)"
    }
  }

  /// Reads its text.
  public init(from decoder: any Decoder) throws {
    let field = try decoder.singleValueContainer()
    let text = try (try? field.decode(Int.self)).map { "\($0)" } ?? field.decode(String.self)
    guard let target = LinkTarget(text) else {
      throw DecodingError.dataCorruptedError(
        in: field, debugDescription: "a target is all, urgent, bulk or a number")
    }
    self = target
  }

  /// Writes its text.
  public func encode(to encoder: any Encoder) throws {
    var field = encoder.singleValueContainer()
    try field.encode(text)
  }
}

/// What the relay answers to an order.
public struct RelayReply: Codable, Hashable, Sendable {
  /// Whether it is done, or will be once its time has come.
  public var ok: Bool
  /// Why not.
  public var error: String?
  /// The links, for `status`.
  public var links: [RelayLink]?

  init(ok: Bool, error: String? = nil, links: [RelayLink]? = nil) {
    self.ok = ok
    self.error = error
    self.links = links
  }
}

/// One link of a `status`.
public struct RelayLink: Codable, Hashable, Sendable {
  /// Its number.
  public var number: Int
  /// "urgent" or "bulk"; nil while it is not known, and for ever behind TLS.
  public var role: String?
  /// Whether the server has been dialled for it.
  public var isConnected: Bool
  /// Bytes that came from the client.
  public var toServerByteCount: UInt64
  /// Bytes that came from the server.
  public var toClientByteCount: UInt64
  /// How many of these were passed on; the rest waits in the relay.
  public var toClientPassedByteCount: UInt64
}
