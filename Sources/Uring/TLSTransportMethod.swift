internal import COpenSSL
internal import Glibc

/// OpenSSL's view of a `TLSTransport`.
enum TLSTransportMethod {
  /// Made once for the process, and never given back: sessions of any thread use it.
  // unsafe: written once, before its first use; OpenSSL only reads it.
  nonisolated(unsafe) static let shared: OpaquePointer? = unsafe make()

  private static func make() -> OpaquePointer? {
    let kind = BIO_get_new_index() | Int32(BIO_TYPE_SOURCE_SINK)
    guard kind >= 0, let method = unsafe BIO_meth_new(kind, "postcopy transport") else {
      return nil
    }
    unsafe BIO_meth_set_create(method) { bio in
      unsafe BIO_set_init(bio, 1)
      return 1
    }
    unsafe BIO_meth_set_read(method) { bio, bytes, count in
      unsafe TLSTransportMethod.answer(bio, BIO_FLAGS_READ) { transport in
        unsafe transport.pointee.receive(
          into: UnsafeMutableRawBufferPointer(start: bytes, count: Int(count)))
      }
    }
    unsafe BIO_meth_set_write(method) { bio, bytes, count in
      unsafe TLSTransportMethod.answer(bio, BIO_FLAGS_WRITE) { transport in
        unsafe transport.pointee.send(UnsafeRawBufferPointer(start: bytes, count: Int(count)))
      }
    }
    unsafe BIO_meth_set_ctrl(method) { bio, command, _, _ in
      switch command {
      case BIO_CTRL_FLUSH: 1
      case BIO_CTRL_EOF: unsafe TLSTransportMethod.transport(of: bio).pointee.isAtEnd ? 1 : 0
      default: 0
      }
    }
    return unsafe method
  }

  // unsafe: `TLSEngine` sets the data before it hands the BIO to OpenSSL, and frees it after.
  private static func transport(
    of bio: OpaquePointer?
  ) -> UnsafeMutablePointer<TLSTransport> {
    unsafe BIO_get_data(bio)!.assumingMemoryBound(to: TLSTransport.self)
  }

  private static func answer(
    _ bio: OpaquePointer?, _ direction: Int32,
    _ body: (UnsafeMutablePointer<TLSTransport>) -> TLSTransport.Step
  ) -> Int32 {
    unsafe BIO_clear_flags(bio, copenssl_bio_flags_all)
    switch unsafe body(transport(of: bio)) {
    case .moved(let count): return Int32(count)
    case .retry:
      unsafe BIO_set_flags(bio, direction | BIO_FLAGS_SHOULD_RETRY)
      return -1
    case .failed: return -1
    }
  }
}
