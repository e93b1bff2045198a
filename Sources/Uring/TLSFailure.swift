internal import COpenSSL

/// What is wrong with a certificate.
public enum CertificateFault: Hashable, Sendable, CustomStringConvertible {
  /// Its time is over.
  case expired
  /// Its time has not begun, or one of the two clocks is wrong.
  case notYetValid
  /// Another authority than the one in ca.pem has signed it.
  case otherAuthority
  /// It is made out for other names than the one demanded.
  case otherName(String)
  /// It may not be used for this side of a connection.
  case otherPurpose
  /// Anything else, in the library's words.
  case other(String)

  /// What follows "the certificate …".
  public var description: String {
    switch self {
    case .expired: "has expired"
    case .notYetValid: "is not valid yet; compare the clocks of both hosts"
    case .otherAuthority: "is not signed by the authority in ca.pem"
    case .otherName(let name): "is not made out for \(name)"
    case .otherPurpose: "may not be used for this side of a connection"
    case .other(let text): "is not accepted: \(text)"
    }
  }

  /// What X509_verify_cert found; `name` is the one that was demanded.
  init(verification result: Int, name: String?) {
    switch Int32(result) {
    case X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CRL_HAS_EXPIRED: self = .expired
    case X509_V_ERR_CERT_NOT_YET_VALID: self = .notYetValid
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
      X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
      X509_V_ERR_CERT_SIGNATURE_FAILURE, X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      self = .otherAuthority
    case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH:
      self = .otherName(name ?? "this host")
    case X509_V_ERR_INVALID_PURPOSE: self = .otherPurpose
    default:
      // unsafe: the library's table of sentences; the string is copied.
      self = .other(unsafe String(cString: X509_verify_cert_error_string(result)))
    }
  }
}

/// Why TLS with a peer did not come about, or went wrong.
public enum TLSFailure: Hashable, Sendable, CustomStringConvertible {
  /// What the peer says is not TLS.
  case peerSpeaksNoTLS
  /// The peer has an older version than TLS 1.3, or no cipher in common.
  case nothingInCommon
  /// The peer has shown no certificate.
  case peerHasNoCertificate
  /// We refuse the peer's certificate.
  case peerCertificate(CertificateFault)
  /// The peer refuses our certificate; the number is that of its alert (RFC 8446, 6).
  case ourCertificateRefused(alert: UInt8)
  /// The peer gave TLS up for another reason; the number is that of its alert.
  case givenUpByPeer(alert: UInt8)
  /// The peer sent more than any handshake needs.
  case handshakeTooLong
  /// Sealed bytes were changed on the way, or a bug of either side's.
  case broken(String)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .peerSpeaksNoTLS:
      "the peer speaks no TLS: it was started with --insecure, or is no program of ours; start "
        + "both sides with --tls, or both with --insecure"
    case .nothingInCommon: "the peer has no TLS 1.3 in common with us"
    case .peerHasNoCertificate: "the peer has shown no certificate"
    case .peerCertificate(let fault): "the peer's certificate \(fault)"
    case .ourCertificateRefused(let alert): Self.refused(alert)
    case .givenUpByPeer(let alert): "the peer gave TLS up with alert \(alert)"
    case .handshakeTooLong:
      "the peer sent more than \(TLSTransport.handshakeLimitByteCount) bytes before the handshake "
        + "was over"
    case .broken(let text): "TLS failed: \(text)"
    }
  }

  /// Whether another attempt, with the same files on both sides, can only end the same way.
  public var isFinal: Bool {
    switch self {
    case .peerSpeaksNoTLS, .nothingInCommon, .peerHasNoCertificate, .peerCertificate,
      .ourCertificateRefused:
      true
    case .givenUpByPeer, .handshakeTooLong, .broken: false
    }
  }

  private static func refused(_ alert: UInt8) -> String {
    let why =
      switch Int32(alert) {
      case SSL_AD_CERTIFICATE_EXPIRED: "it has expired by the peer's clock"
      case SSL_AD_UNKNOWN_CA: "another authority is in the peer's ca.pem"
      case SSL_AD_CERTIFICATE_REQUIRED: "none was shown"
      case SSL_AD_BAD_CERTIFICATE:
        "it is not made out for the name that the peer demands, or not valid yet by its clock"
      case SSL_AD_UNSUPPORTED_CERTIFICATE: "it may not be used for this side of a connection"
      default: "alert \(alert)"
      }
    return "the peer refuses our certificate: \(why)"
  }

  /// Of an alert that the peer sent.
  init(alert: UInt8) {
    switch Int32(alert) {
    case SSL_AD_BAD_CERTIFICATE, SSL_AD_UNSUPPORTED_CERTIFICATE, SSL_AD_CERTIFICATE_REVOKED,
      SSL_AD_CERTIFICATE_EXPIRED, SSL_AD_CERTIFICATE_UNKNOWN, SSL_AD_UNKNOWN_CA,
      SSL_AD_ACCESS_DENIED, SSL_AD_CERTIFICATE_REQUIRED:
      self = .ourCertificateRefused(alert: alert)
    case SSL_AD_PROTOCOL_VERSION, SSL_AD_HANDSHAKE_FAILURE, SSL_AD_INSUFFICIENT_SECURITY:
      self = .nothingInCommon
    default: self = .givenUpByPeer(alert: alert)
    }
  }
}

/// OpenSSL's queue of errors, which each thread has for itself.
enum TLSErrors {
  /// Before a call, so that what is found afterwards is of that call. Clearing goes through all
  /// sixteen places of the queue, with each record; looking whether one is taken does not.
  static func clear() {
    if ERR_peek_error() != 0 { ERR_clear_error() }
  }

  /// The reason of the first error of the last call; 0 when there is none.
  static var reason: Int32 { copenssl_reason(ERR_peek_error()) }

  /// That error in the library's words.
  static var text: String {
    let number = ERR_peek_error()
    guard number != 0, let words = unsafe ERR_reason_error_string(number) else {
      return "OpenSSL error \(number)"
    }
    // unsafe: the library's table of sentences; the string is copied.
    return unsafe String(cString: words)
  }
}
