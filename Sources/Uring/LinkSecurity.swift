/// How connections over a network are protected. There is no usual value: whoever wants none has to
/// say so. UNIX sockets need none.
public enum LinkSecurity: Sendable {
  /// TLS 1.3 with certificates on both sides.
  case tls(TLSContext)
  /// None, because the operator said `--insecure`, or because all addresses are local sockets.
  case insecure

  /// What to dial and to listen with.
  public var context: TLSContext? {
    switch self {
    case .tls(let context): context
    case .insecure: nil
    }
  }
}
