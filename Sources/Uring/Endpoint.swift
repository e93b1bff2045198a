/// An address as the user writes it: where to listen, or whom to dial.
public enum Endpoint: Hashable, Sendable, CustomStringConvertible {
  /// TCP. `host` is an IPv4 or IPv6 address without brackets, or a name.
  case internet(host: String, port: UInt16)
  /// A UNIX stream socket at a path.
  case unix(path: String)

  /// Longest path that fits a socket address, without its final zero byte (sun_path has 108).
  public static let maximumPathByteCount = 107
  /// Longest host name of the DNS.
  public static let maximumHostByteCount = 253

  /// Reads `ADDR:PORT`, `[IPV6]:PORT`, `NAME:PORT` or `unix:PATH`. Port 0 lets the kernel choose
  /// when listening.
  public init(parsing text: String) throws(EndpointError) {
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst("unix:".count))
      guard !path.isEmpty else { throw .emptyPath }
      guard path.utf8.count <= Self.maximumPathByteCount else { throw .pathTooLong(path) }
      self = .unix(path: path)
      return
    }
    guard let colon = text.lastIndex(of: ":") else { throw .missingPort(text) }
    guard let port = UInt16(text[text.index(after: colon)...]) else {
      throw .badPort(String(text[text.index(after: colon)...]))
    }
    var host = text[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
      guard host.contains(":") else { throw .badHost(String(host)) }
    } else if host.contains(":") {
      throw .bareIPv6(text)
    }
    guard !host.isEmpty, host.utf8.count <= Self.maximumHostByteCount,
      host.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "/") })
    else { throw .badHost(String(host)) }
    self = .internet(host: String(host), port: port)
  }

  /// Whether what is sent there cannot leave this host: a UNIX socket or a loopback address. A
  /// name counts only if it is `localhost`: any other may resolve to anything.
  public var isLocal: Bool {
    switch self {
    case .unix: true
    case .internet(let host, _):
      host == "localhost" || host == "::1" || Self.isLoopbackIPv4(host)
    }
  }

  /// As the user would write it.
  public var description: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .internet(let host, let port):
      host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
  }

  private static func isLoopbackIPv4(_ host: String) -> Bool {
    let parts = host.split(separator: ".", omittingEmptySubsequences: false)
    return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
  }
}

/// Why a text names no endpoint.
public enum EndpointError: Error, Hashable, Sendable, CustomStringConvertible {
  /// There is no colon that a port could follow.
  case missingPort(String)
  /// What follows the last colon is no number from 0 to 65535.
  case badPort(String)
  /// The host is empty, too long, or has characters that no host name has.
  case badHost(String)
  /// An IPv6 address without brackets: its end cannot be told from a port.
  case bareIPv6(String)
  /// `unix:` without a path.
  case emptyPath
  /// The path does not fit a socket address.
  case pathTooLong(String)

  /// One line for an operator, with the form that would be right.
  public var description: String {
    switch self {
    case .missingPort(let text):
      "'\(text)' has no port; write ADDRESS:PORT, [IPV6]:PORT or unix:PATH"
    case .badPort(let text): "'\(text)' is no port; a port is a number from 0 to 65535"
    case .badHost(let text): "'\(text)' is no host name or address"
    case .bareIPv6(let text): "'\(text)': write an IPv6 address in brackets, as in [::1]:7000"
    case .emptyPath: "'unix:' needs a path behind it"
    case .pathTooLong(let path):
      "the socket path is longer than \(Endpoint.maximumPathByteCount) bytes: \(path)"
    }
  }
}
