internal import COpenSSL
internal import Glibc

/// Why certificates and a key cannot be used.
public enum TLSContextError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The parts that a context is made of.
  public enum Part: String, Hashable, Sendable {
    /// The authority's certificates.
    case authority = "ca.pem"
    /// Our certificate, with what stands between it and the authority.
    case certificate = "certificate.pem"
    /// Our private key.
    case key = "key.pem"
  }

  /// There is no PEM of that kind in it, or more than is sensible, or it has a password.
  case unreadable(Part)
  /// The key is not the one in our certificate.
  case keyMismatch
  /// Our own certificate would be refused by a peer with the same authority.
  case ownCertificate(CertificateFault)
  /// The name that the peer is to have is no host name and no address.
  case badPeerName(String)
  /// OpenSSL fails, in its own words.
  case library(String)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .unreadable(.key): "key.pem holds no private key in PEM without a password"
    case .unreadable(let part):
      "\(part.rawValue) holds no certificates in PEM, or more than \(TLSContext.maximumPEMCount)"
    case .keyMismatch: "key.pem is not the key of certificate.pem"
    case .ownCertificate(let fault): "certificate.pem: our own certificate \(fault)"
    case .badPeerName(let name): "'\(name)' is no host name and no address"
    case .library(let text): "OpenSSL: \(text)"
    }
  }
}

/// What all TLS connections of a process share: who we are, whom we trust, and the rules: TLS 1.3
/// alone, and a certificate of our authority on both sides.
@safe
public final class TLSContext: @unchecked Sendable {
  // Sendable: nothing of it is changed after `init`, and SSL_CTX may then be shared by threads.
  let pointer: OpaquePointer
  let peerName: String?
  /// See `TLSEngine.recordsPerKey`; tests change keys more often.
  let recordsPerKey: Int

  /// Certificates in one file; a chain has two or three.
  static let maximumPEMCount = 8
  /// Certificates between a peer's own and the authority.
  private static let maximumDepth: Int32 = 3
  /// What a peer's chain may take; one certificate has about one KiB.
  private static let maximumChainByteCount = 16_384
  /// AES-128 first: its keys outlive any migration, and it is the fastest where processors have it.
  private static let ciphers =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
  private static let groups = "X25519:P-256"

  /// Takes the contents of the three PEM files.
  ///
  /// - Parameter peerName: the DNS name or address that the peer's certificate must be made out
  ///   for; nil takes any that the authority has signed.
  public convenience init(
    authority: [UInt8], certificate: [UInt8], key: [UInt8], peerName: String? = nil
  ) throws(TLSContextError) {
    try self.init(
      authority: authority, own: CertifiedKey(certificate: certificate, key: key),
      peerName: peerName, recordsPerKey: TLSEngine.recordsPerKey)
    try judgeOwnCertificate()
  }

  /// What a bad peer may have as well: a certificate that nobody takes, or none.
  init(
    authority: [UInt8], own: CertifiedKey?, peerName: String? = nil, recordsPerKey: Int
  ) throws(TLSContextError) {
    TLSErrors.clear()
    // Without the library's own end at exit: threads may still be at work then.
    _ = OPENSSL_init_ssl(copenssl_init_no_atexit, nil)
    guard let context = unsafe SSL_CTX_new(TLS_method()) else { throw .library(TLSErrors.text) }
    unsafe pointer = context
    self.peerName = peerName
    self.recordsPerKey = recordsPerKey
    try setRules()
    try trust(authority)
    if let own { try present(own.certificate, own.key) }
    if let peerName { try demand(peerName) }
  }

  // unsafe: sessions hold references of their own.
  deinit { unsafe SSL_CTX_free(pointer) }

  private func setRules() throws(TLSContextError) {
    // unsafe, here and below: the context is this object's own.
    guard unsafe copenssl_only_version(pointer, TLS1_3_VERSION) == 1,
      unsafe SSL_CTX_set_ciphersuites(pointer, Self.ciphers) == 1,
      unsafe copenssl_set_groups(pointer, Self.groups) == 1
    else { throw .library(TLSErrors.text) }
    unsafe SSL_CTX_set_security_level(pointer, 2)
    // A reconnect shakes hands in full, a millisecond: no ticket has to be kept safe or judged.
    _ = unsafe SSL_CTX_set_options(
      pointer,
      copenssl_op_no_ticket | copenssl_op_no_renegotiation | copenssl_op_no_compression
        | copenssl_op_server_preference | copenssl_op_prioritize_chacha)
    unsafe SSL_CTX_set_num_tickets(pointer, 0)
    unsafe copenssl_disable_session_cache(pointer)
    // Buffers are kept between records: SSL_MODE_RELEASE_BUFFERS would save 34 KiB a connection, of
    // which a session has at most seventeen, and allocate for each fault.
    unsafe copenssl_set_mode(
      pointer,
      Int(SSL_MODE_ENABLE_PARTIAL_WRITE) | Int(SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER))
    // One call on the socket brings a record with its header.
    unsafe copenssl_set_read_ahead(pointer, 1)
    unsafe copenssl_set_max_cert_list(pointer, Self.maximumChainByteCount)
    unsafe SSL_CTX_set_verify_depth(pointer, Self.maximumDepth)
    unsafe SSL_CTX_set_verify(pointer, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
  }

  private func trust(_ authority: [UInt8]) throws(TLSContextError) {
    let store = unsafe SSL_CTX_get_cert_store(pointer)
    try unsafe PEM.forEachCertificate(in: authority, .authority) {
      certificate, _ throws(TLSContextError) in
      // unsafe: the store takes a reference of its own.
      guard unsafe X509_STORE_add_cert(store, certificate) == 1 else {
        throw .library(TLSErrors.text)
      }
    }
  }

  private func present(_ certificate: [UInt8], _ key: [UInt8]) throws(TLSContextError) {
    let pointer = unsafe pointer
    try unsafe PEM.forEachCertificate(in: certificate, .certificate) {
      certificate, position throws(TLSContextError) in
      // unsafe: both take a reference of their own.
      let result =
        position == 0
        ? unsafe SSL_CTX_use_certificate(pointer, certificate)
        : unsafe copenssl_add_chain_certificate(pointer, certificate)
      guard result == 1 else { throw .library(TLSErrors.text) }
    }
    guard let privateKey = unsafe PEM.privateKey(in: key) else { throw .unreadable(.key) }
    // unsafe: the context takes a reference of its own.
    defer { unsafe EVP_PKEY_free(privateKey) }
    guard unsafe SSL_CTX_use_PrivateKey(pointer, privateKey) == 1,
      unsafe SSL_CTX_check_private_key(pointer) == 1
    else { throw .keyMismatch }
  }

  /// What a peer would say, before a migration depends on it.
  private func judgeOwnCertificate() throws(TLSContextError) {
    // unsafe: all are this object's own; the judgement is freed below.
    guard let judgement = unsafe X509_STORE_CTX_new() else { throw .library(TLSErrors.text) }
    defer { unsafe X509_STORE_CTX_free(judgement) }
    guard
      unsafe X509_STORE_CTX_init(
        judgement, SSL_CTX_get_cert_store(pointer), SSL_CTX_get0_certificate(pointer),
        copenssl_chain(pointer)) == 1
    else { throw .library(TLSErrors.text) }
    guard unsafe X509_verify_cert(judgement) == 1 else {
      let result = unsafe X509_STORE_CTX_get_error(judgement)
      throw .ownCertificate(CertificateFault(verification: Int(result), name: nil))
    }
  }

  private func demand(_ name: String) throws(TLSContextError) {
    let parameters = unsafe SSL_CTX_get0_param(pointer)
    // unsafe: the name lives during the calls, which copy it.
    if unsafe X509_VERIFY_PARAM_set1_ip_asc(parameters, name) == 1 { return }
    TLSErrors.clear()
    guard !name.isEmpty, unsafe X509_VERIFY_PARAM_set1_host(parameters, name, name.utf8.count) == 1
    else { throw .badPeerName(name) }
  }
}

/// Reading PEM out of memory.
enum PEM {
  /// Refuses instead of asking for a password on the terminal.
  private static let noPassword:
    @convention(c) (
      UnsafeMutablePointer<CChar>?, Int32, Int32, UnsafeMutableRawPointer?
    ) -> Int32 = { _, _, _, _ in -1 }

  /// Calls `body` with each certificate and its position.
  static func forEachCertificate(
    in bytes: [UInt8], _ part: TLSContextError.Part,
    _ body: (OpaquePointer, Int) throws(TLSContextError) -> Void
  ) throws(TLSContextError) {
    // unsafe: the BIO has a copy of the bytes, and is freed below.
    guard let bio = unsafe copy(bytes) else { throw .unreadable(part) }
    defer { unsafe BIO_free(bio) }
    var count = 0
    while let certificate = unsafe PEM_read_bio_X509(bio, nil, noPassword, nil) {
      defer { unsafe X509_free(certificate) }
      guard count < TLSContext.maximumPEMCount else { throw .unreadable(part) }
      try unsafe body(certificate, count)
      count += 1
    }
    // The end of the bytes is an error to the library.
    TLSErrors.clear()
    guard count > 0 else { throw .unreadable(part) }
  }

  /// The private key; the caller frees it.
  static func privateKey(in bytes: [UInt8]) -> OpaquePointer? {
    guard let bio = unsafe copy(bytes) else { return nil }
    // unsafe: this function's own.
    defer { unsafe BIO_free(bio) }
    let key = unsafe PEM_read_bio_PrivateKey(bio, nil, noPassword, nil)
    TLSErrors.clear()
    return unsafe key
  }

  private static func copy(_ bytes: [UInt8]) -> OpaquePointer? {
    guard let bio = unsafe BIO_new(BIO_s_mem()) else { return nil }
    // unsafe: the array is valid during the call, with that length.
    let written = unsafe bytes.withUnsafeBytes {
      unsafe BIO_write(bio, $0.baseAddress, Int32(clamping: $0.count))
    }
    if written == bytes.count { return unsafe bio }
    unsafe BIO_free(bio)
    return nil
  }
}
