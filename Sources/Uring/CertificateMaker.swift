internal import COpenSSL
internal import Glibc

/// A certificate and its private key, in PEM.
public struct CertifiedKey: Hashable, Sendable {
  /// The certificate.
  public var certificate: [UInt8]
  /// The private key (PKCS #8, without a password): a secret.
  public var key: [UInt8]

  /// Puts the two together.
  public init(certificate: [UInt8], key: [UInt8]) {
    self.certificate = certificate
    self.key = key
  }
}

/// Makes a private authority and certificates of hosts: for tests and first use, and for whoever
/// has no authority of his own. P-256 keys: OpenSSL signs and verifies fastest with them.
public enum CertificateMaker {
  /// From when and until when, in seconds from now.
  public struct Validity: Hashable, Sendable {
    /// Before 0: it has begun already.
    public var fromSeconds: Int
    /// Below 0: it is over.
    public var untilSeconds: Int

    /// From an hour ago, since no two clocks agree, for so many days.
    public static func days(_ count: Int) -> Validity {
      Validity(fromSeconds: -3600, untilSeconds: count * 86_400)
    }

    /// Any span of time.
    public init(fromSeconds: Int, untilSeconds: Int) {
      self.fromSeconds = fromSeconds
      self.untilSeconds = untilSeconds
    }
  }

  /// An authority that signs certificates of hosts and nothing else.
  public static func makeAuthority(
    named name: String, _ validity: Validity
  ) throws(TLSContextError) -> CertifiedKey {
    try unsafe make(name, validity, issuer: nil) { certificate in
      unsafe add(NID_basic_constraints, "critical,CA:TRUE,pathlen:0", to: certificate, certificate)
        && add(NID_key_usage, "critical,keyCertSign,cRLSign", to: certificate, certificate)
        && add(NID_subject_key_identifier, "hash", to: certificate, certificate)
    }
  }

  /// A certificate of a host for either side of a connection, made out for its DNS names and
  /// addresses; at least one.
  public static func makeHost(
    names: [String], _ validity: Validity, signedBy authority: CertifiedKey
  ) throws(TLSContextError) -> CertifiedKey {
    guard let first = names.first else { throw .badPeerName("") }
    var alternatives: [String] = []
    for name in names { alternatives.append(try alternative(name)) }
    let issuer = try Issuer(authority)
    return try unsafe make(first, validity, issuer: issuer) { certificate in
      unsafe add(NID_basic_constraints, "critical,CA:FALSE", to: certificate, issuer.certificate)
        && add(NID_key_usage, "critical,digitalSignature", to: certificate, issuer.certificate)
        && add(
          NID_ext_key_usage, "serverAuth,clientAuth", to: certificate, issuer.certificate)
        && add(
          NID_authority_key_identifier, "keyid:always", to: certificate, issuer.certificate)
        && add(
          NID_subject_alt_name, alternatives.joined(separator: ","), to: certificate,
          issuer.certificate)
    }
  }

  /// As OpenSSL's configuration language writes it, which is what the characters must not reach:
  /// only those of names and addresses are taken.
  private static func alternative(_ name: String) throws(TLSContextError) -> String {
    // unsafe: the name lives during the call; what it gives is freed at once.
    if let address = unsafe a2i_IPADDRESS(name) {
      unsafe ASN1_OCTET_STRING_free(address)
      return "IP:\(name)"
    }
    TLSErrors.clear()
    let isName = name.utf8.allSatisfy { character in
      switch character {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."):
        true
      default: false
      }
    }
    let labels = name.split(separator: ".", omittingEmptySubsequences: false)
    guard isName, labels.allSatisfy({ !$0.isEmpty }),
      name.utf8.count <= Endpoint.maximumHostByteCount
    else {
      throw .badPeerName(name)
    }
    return "DNS:\(name)"
  }

  /// The authority as OpenSSL has it.
  @safe
  private final class Issuer {
    let certificate: OpaquePointer
    let key: OpaquePointer

    init(_ authority: CertifiedKey) throws(TLSContextError) {
      var found: OpaquePointer?
      try unsafe PEM.forEachCertificate(in: authority.certificate, .authority) {
        certificate, position throws(TLSContextError) in
        // unsafe: one reference more, for the issuer to keep.
        if position == 0, unsafe X509_up_ref(certificate) == 1 { unsafe found = certificate }
      }
      guard let certificate = unsafe found else { throw .unreadable(.authority) }
      guard let key = unsafe PEM.privateKey(in: authority.key),
        unsafe X509_check_private_key(certificate, key) == 1
      else {
        unsafe X509_free(certificate)
        throw .keyMismatch
      }
      unsafe self.certificate = certificate
      unsafe self.key = key
    }

    // unsafe: the only owner of both references.
    deinit {
      unsafe X509_free(certificate)
      unsafe EVP_PKEY_free(key)
    }
  }

  private static func make(
    _ name: String, _ validity: Validity, issuer: Issuer?, addExtensions: (OpaquePointer) -> Bool
  ) throws(TLSContextError) -> CertifiedKey {
    TLSErrors.clear()
    // unsafe: certificate and key are this function's own until they are freed on its way out.
    guard let certificate = unsafe X509_new() else { throw .library(TLSErrors.text) }
    defer { unsafe X509_free(certificate) }
    guard let key = unsafe copenssl_make_p256_key() else { throw .library(TLSErrors.text) }
    defer { unsafe EVP_PKEY_free(key) }
    let isMade =
      unsafe X509_set_version(certificate, 2) == 1
      && setSerialNumber(certificate)
      && X509_gmtime_adj(X509_getm_notBefore(certificate), validity.fromSeconds) != nil
      && X509_gmtime_adj(X509_getm_notAfter(certificate), validity.untilSeconds) != nil
      && X509_set_pubkey(certificate, key) == 1
      && setName(name, of: certificate)
      && X509_set_issuer_name(
        certificate, X509_get_subject_name(issuer?.certificate ?? certificate)) == 1
      && addExtensions(certificate)
      && X509_sign(certificate, issuer?.key ?? key, EVP_sha256()) > 0
    guard isMade else { throw .library(TLSErrors.text) }
    return CertifiedKey(
      certificate: try unsafe pem { bio in unsafe PEM_write_bio_X509(bio, certificate) },
      key: try unsafe pem { bio in
        unsafe PEM_write_bio_PrivateKey(bio, key, nil, nil, 0, nil, nil)
      })
  }

  /// 127 random bits: two certificates of one authority never have the same.
  private static func setSerialNumber(_ certificate: OpaquePointer) -> Bool {
    // unsafe: the number is this function's own; it is copied into the certificate.
    guard let number = unsafe BN_new() else { return false }
    defer { unsafe BN_free(number) }
    return unsafe BN_rand(number, 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1
      && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nil
  }

  private static func setName(_ name: String, of certificate: OpaquePointer) -> Bool {
    // unsafe: the name is valid during the call, which copies it. X.520 allows 64 characters.
    unsafe X509_NAME_add_entry_by_NID(
      X509_get_subject_name(certificate), NID_commonName, MBSTRING_UTF8,
      Array(name.utf8.prefix(64)), Int32(min(name.utf8.count, 64)), -1, 0) == 1
  }

  private static func add(
    _ kind: Int32, _ value: String, to certificate: OpaquePointer, _ issuer: OpaquePointer
  ) -> Bool {
    // unsafe: the context lives during the call; the extension is freed, the certificate has a
    // copy.
    var context = unsafe X509V3_CTX()
    unsafe X509V3_set_ctx(&context, issuer, certificate, nil, nil, 0)
    guard let added = unsafe X509V3_EXT_nconf_nid(nil, &context, kind, value) else { return false }
    defer { unsafe X509_EXTENSION_free(added) }
    return unsafe X509_add_ext(certificate, added, -1) == 1
  }

  private static func pem(
    _ write: (OpaquePointer) -> Int32
  ) throws(TLSContextError) -> [UInt8] {
    // unsafe: the BIO is this function's own; its bytes are copied before it is freed.
    guard let bio = unsafe BIO_new(BIO_s_mem()) else { throw .library(TLSErrors.text) }
    defer { unsafe BIO_free(bio) }
    guard unsafe write(bio) == 1 else { throw .library(TLSErrors.text) }
    var bytes = unsafe [UInt8](repeating: 0, count: Int(BIO_ctrl_pending(bio)))
    let count = unsafe bytes.withUnsafeMutableBytes {
      unsafe BIO_read(bio, $0.baseAddress, Int32(clamping: $0.count))
    }
    guard count == bytes.count else { throw .library(TLSErrors.text) }
    return bytes
  }
}
