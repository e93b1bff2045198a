internal import COpenSSL
internal import Glibc
internal import Pages
internal import System

/// Which side of the handshake a connection is.
enum TLSRole {
  /// It dialled.
  case client
  /// It was accepted.
  case server
}

/// How a step of a TLS session ended.
enum TLSStep {
  /// That many bytes of plain text moved, at least one.
  case moved(Int)
  /// Sealed bytes of the peer must come first.
  case needsInput
  /// There must be room for sealed bytes first.
  case needsRoom
  /// The peer said goodbye.
  case closed
  /// The stream ended without the peer's goodbye.
  case cut
  /// A call on the socket failed.
  case failedCall(Errno)
  /// TLS itself failed.
  case failed(TLSFailure)
}

/// One TLS session: OpenSSL's state and the transport beneath it. Nothing here blocks. Once the
/// handshake is over nothing is kept that was not there before; OpenSSL 3.0 takes four small blocks
/// for each record that it seals, and gives them back.
///
/// OpenSSL allows one thread at a time: `TLSSession` sees to that.
@safe
struct TLSEngine: ~Copyable, @unchecked Sendable {
  /// Plain text in one record, at most: the protocol's own bound.
  static let recordByteCount = 16_384
  /// What sealing adds to a record: its header, the inner type, the tag.
  static let recordOverheadByteCount = 5 + 1 + 16
  /// A change of keys that goes ahead of a record: a record with five bytes in it.
  static let rekeyByteCount = 5 + recordOverheadByteCount
  /// Records under one key. RFC 8446, 5.5 allows AES-GCM 2^24.5; OpenSSL does not count.
  static let recordsPerKey = 1 << 23

  private let session: OpaquePointer
  private let transport: UnsafeMutablePointer<TLSTransport>
  private let peerName: String?
  private let recordsPerKey: Int
  private var recordCount = 0
  private(set) var isEstablished = false
  /// The end that was met: nothing can be done with the session any more.
  private var end: TLSStep?

  init(_ context: TLSContext, _ role: TLSRole, descriptor: Int32) throws(TLSContextError) {
    // unsafe: given back by deinit, or below; the transport stays where it is all the while.
    guard let session = unsafe SSL_new(context.pointer) else { throw .library(TLSErrors.text) }
    guard let bio = unsafe BIO_new(TLSTransportMethod.shared) else {
      unsafe SSL_free(session)
      throw .library(TLSErrors.text)
    }
    let transport = UnsafeMutablePointer<TLSTransport>.allocate(capacity: 1)
    unsafe transport.initialize(to: TLSTransport(descriptor: descriptor))
    unsafe BIO_set_data(bio, transport)
    // The session owns the BIO from here on.
    unsafe SSL_set_bio(session, bio, bio)
    switch role {
    case .client: unsafe SSL_set_connect_state(session)
    case .server: unsafe SSL_set_accept_state(session)
    }
    unsafe self.session = session
    unsafe self.transport = transport
    peerName = context.peerName
    recordsPerKey = context.recordsPerKey
  }

  deinit {
    // unsafe: this is the only owner; SSL_free frees the BIO, whose data nobody reads afterwards.
    unsafe SSL_free(session)
    unsafe transport.pointee.deallocate()
    unsafe transport.deinitialize(count: 1)
    unsafe transport.deallocate()
  }

  // MARK: Steps

  /// Goes on with the handshake; `moved` when it is over.
  mutating func shakeHands() -> TLSStep {
    if let end { return end }
    if let obstacle = flush() { return obstacle }
    TLSErrors.clear()
    let result = unsafe SSL_do_handshake(session)
    noteEstablished()
    if result == 1, let obstacle = flush() { return obstacle }
    return result == 1 ? .moved(1) : judge(result)
  }

  /// Opens what has come: at most one record.
  mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> TLSStep {
    if let end { return end }
    TLSErrors.clear()
    // unsafe: the buffer is the caller's, valid during the call.
    let result = unsafe SSL_read(session, buffer.baseAddress, Int32(clamping: buffer.count))
    noteEstablished()
    return result > 0 ? .moved(Int(result)) : judge(result)
  }

  /// Whether sealed or opened bytes wait in the session, where no poll sees them.
  var hasBuffered: Bool { unsafe SSL_has_pending(session) == 1 }

  /// Whether `read` would give bytes or an end now.
  mutating func isReadable() -> Bool {
    if end != nil { return true }
    TLSErrors.clear()
    var byte: UInt8 = 0
    let result = unsafe SSL_peek(session, &byte, 1)
    noteEstablished()
    if result > 0 { return true }
    if case .needsInput = judge(result) { return false }
    return true
  }

  /// Sends what was sealed before and found no room; nil when that is gone.
  mutating func flush() -> TLSStep? {
    switch unsafe transport.pointee.flush() {
    case .moved: return nil
    case .retry: return .needsRoom
    case .failed:
      let failure = unsafe TLSStep.failedCall(Errno(rawValue: transport.pointee.errno))
      end = failure
      return failure
    }
  }

  /// Seals and sends: at most one record. Its end may still find no room: `flush` sends it.
  mutating func write(_ buffer: UnsafeRawBufferPointer, hasMore: Bool) -> TLSStep {
    if let end { return end }
    if let obstacle = flush() { return obstacle }
    TLSErrors.clear()
    if recordCount >= recordsPerKey, isEstablished { requestKeyChange(ofBoth: false) }
    unsafe transport.pointee.hasMore = hasMore
    let count = min(buffer.count, Self.recordByteCount)
    // unsafe: the buffer is the caller's, valid during the call.
    let result = unsafe SSL_write(session, buffer.baseAddress, Int32(count))
    noteEstablished()
    guard result > 0 else { return judge(result) }
    recordCount += 1
    return .moved(Int(result))
  }

  /// Changes the key for what we send, ahead of the next record; of both sides, if the peer is to
  /// do so as well.
  mutating func requestKeyChange(ofBoth: Bool) {
    let kind = ofBoth ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED
    if unsafe SSL_key_update(session, kind) == 1 { recordCount = 0 }
    TLSErrors.clear()
  }

  /// Says goodbye, as far as there is room.
  mutating func close() {
    guard isEstablished, end == nil, unsafe !transport.pointee.isOnRing else { return }
    TLSErrors.clear()
    unsafe transport.pointee.hasMore = false
    // What finds no room goes with the socket.
    _ = unsafe SSL_shutdown(session)
    TLSErrors.clear()
  }

  // MARK: On a ring

  /// A ring moves the sealed bytes from now on.
  mutating func enterRing() { unsafe transport.pointee.isOnRing = true }

  /// The ring is gone. If part of a record was sent, nothing more can be said.
  mutating func leaveRing(betweenRecords: Bool) {
    unsafe transport.pointee.isOnRing = false
    if !betweenRecords, end == nil { end = .cut }
  }

  /// Opens records from `sealed` until there is no more, or no room; what was taken and opened.
  mutating func open(
    _ sealed: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer
  ) -> (taken: Int, opened: Int, end: TLSStep?) {
    unsafe transport.pointee.input = sealed
    defer { unsafe transport.pointee.input = UnsafeRawBufferPointer(start: nil, count: 0) }
    var opened = 0
    var end: TLSStep?
    while opened < room.count {
      // unsafe: opened < count, so the slice lies inside the room.
      let step = unsafe read(into: UnsafeMutableRawBufferPointer(rebasing: room[opened...]))
      guard case .moved(let count) = step else {
        if case .needsInput = step {} else { end = step }
        break
      }
      opened += count
      // The usual case is one record: OpenSSL need not be asked for another, with a call that fails
      // and is judged, while a guest waits.
      if unsafe transport.pointee.input.isEmpty, !hasBuffered { break }
    }
    return unsafe (sealed.count - transport.pointee.input.count, opened, end)
  }

  /// Seals all of `plain` into `room`, which must be large enough: `sealedByteCount(of:)`.
  mutating func seal(
    _ plain: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer
  ) -> (sealed: Int, end: TLSStep?) {
    unsafe transport.pointee.output = room
    unsafe transport.pointee.outputByteCount = 0
    defer { unsafe transport.pointee.output = .init(start: nil, count: 0) }
    var done = 0
    while done < plain.count {
      // unsafe: done < count, so the slice lies inside the plain text.
      let step = unsafe write(UnsafeRawBufferPointer(rebasing: plain[done...]), hasMore: false)
      guard case .moved(let count) = step else { return (0, step) }
      done += count
    }
    return unsafe (transport.pointee.outputByteCount, nil)
  }

  /// How much room sealing may take. Two changes of keys: ours, and the answer to the peer's.
  static func sealedByteCount(of plainByteCount: Int) -> Int {
    let records = (plainByteCount + recordByteCount - 1) / recordByteCount
    return plainByteCount + records * (recordOverheadByteCount + 2 * rekeyByteCount)
  }

  // MARK: Judging

  /// The version and the cipher, as OpenSSL names them.
  var description: String {
    // unsafe: both are the library's constants; they are copied.
    unsafe String(cString: SSL_get_version(session)) + " "
      + String(cString: SSL_CIPHER_get_name(SSL_get_current_cipher(session)))
  }

  private mutating func noteEstablished() {
    guard !isEstablished, unsafe SSL_is_init_finished(session) == 1 else { return }
    isEstablished = true
    // Who has proved who it is may send as much as it likes.
    unsafe transport.pointee.remainingByteCount = Int.max
  }

  private mutating func judge(_ result: Int32) -> TLSStep {
    switch unsafe SSL_get_error(session, result) {
    case SSL_ERROR_WANT_READ: return .needsInput
    case SSL_ERROR_WANT_WRITE: return .needsRoom
    // What the peer has ended is its own direction: ours goes on.
    case SSL_ERROR_ZERO_RETURN: return .closed
    default:
      let failure = failure()
      end = failure
      return failure
    }
  }

  private func failure() -> TLSStep {
    let reason = TLSErrors.reason
    if unsafe transport.pointee.isOverLimit { return .failed(.handshakeTooLong) }
    // An alert that came before a reset says more than the reset.
    let alert = reason - Int32(SSL_AD_REASON_OFFSET)
    if (0...255).contains(alert), alert > 0 {
      return .failed(TLSFailure(alert: UInt8(alert)))
    }
    // The library has tried to complain, which may have failed as well.
    if isEstablished, unsafe transport.pointee.isAtEnd { return .cut }
    if unsafe transport.pointee.errno != 0 {
      return unsafe .failedCall(Errno(rawValue: transport.pointee.errno))
    }
    if !isEstablished, let byte = unsafe transport.pointee.firstByte, !Self.isTLS(byte) {
      return .failed(.peerSpeaksNoTLS)
    }
    if unsafe transport.pointee.isAtEnd { return .cut }
    switch reason {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      let result = unsafe SSL_get_verify_result(session)
      return .failed(.peerCertificate(CertificateFault(verification: result, name: peerName)))
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: return .failed(.peerHasNoCertificate)
    case SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SUITABLE_KEY_SHARE,
      SSL_R_VERSION_TOO_LOW, SSL_R_NO_SHARED_GROUPS:
      return .failed(.nothingInCommon)
    default: return .failed(.broken(TLSErrors.text))
    }
  }

  /// A handshake record or an alert: what a TLS peer begins with.
  private static func isTLS(_ byte: UInt8) -> Bool {
    byte == UInt8(SSL3_RT_HANDSHAKE) || byte == UInt8(SSL3_RT_ALERT)
  }
}
