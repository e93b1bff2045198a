import Glibc
import Pages
import System
import Testing

@testable import Uring

func soon(_ seconds: UInt64 = 30) -> Instant {
  MonotonicClock.now().advanced(byNanoseconds: seconds * 1_000_000_000)
}

/// Authorities, certificates and the contexts made of them. Keys are made once for all tests.
enum Party {
  static let authority = made { () throws(TLSContextError) in
    try CertificateMaker.makeAuthority(named: "test authority", .days(1))
  }
  /// Of the same name, and yet another.
  static let otherAuthority = made { () throws(TLSContextError) in
    try CertificateMaker.makeAuthority(named: "test authority", .days(1))
  }
  static let host = made { () throws(TLSContextError) in
    try CertificateMaker.makeHost(
      names: ["source.example", "127.0.0.1"], .days(1), signedBy: authority)
  }

  private static func made(_ make: () throws(TLSContextError) -> CertifiedKey) -> CertifiedKey {
    do throws(TLSContextError) { return try make() } catch { invariantBroken("a key can be made") }
  }

  static func host(
    _ names: [String] = ["other.example"], _ validity: CertificateMaker.Validity = .days(1),
    signedBy issuer: CertifiedKey = authority
  ) throws -> CertifiedKey {
    try CertificateMaker.makeHost(names: names, validity, signedBy: issuer)
  }

  /// One that is as it should be.
  static func context(
    peerName: String? = nil, recordsPerKey: Int = TLSEngine.recordsPerKey
  ) throws -> TLSContext {
    try TLSContext(
      authority: authority.certificate, own: host, peerName: peerName,
      recordsPerKey: recordsPerKey)
  }

  /// One that need not be.
  static func context(own: CertifiedKey?, trusting authority: CertifiedKey) throws -> TLSContext {
    try TLSContext(
      authority: authority.certificate, own: own, recordsPerKey: TLSEngine.recordsPerKey)
  }
}

/// Two ends of a TLS connection over TCP, and how the handshake went for each.
struct Handshaken {
  let client: Connection?
  let clientError: ConnectionError?
  let server: Connection
  let serverError: ConnectionError?

  /// The client dials on a thread of its own: both ends wait for each other.
  init(
    client: TLSContext?, server: TLSContext?, at address: String = "127.0.0.1:0",
    greeting: @escaping @Sendable (Connection) throws(ConnectionError) -> Void = { _ in }
  ) throws {
    let listener = try Listener(Endpoint(parsing: address), tls: server)
    let outcome = Lock<(Connection?, ConnectionError?)>((nil, nil))
    let dialler = try WorkerThread(name: "dialler") {
      do throws(ConnectionError) {
        let connection = try Connection.dial(
          listener.endpoint, purpose: .urgent, tls: client, until: soon())
        try greeting(connection)
        // The server judges the client's certificate after the client has finished: what it found
        // comes with the first bytes.
        if connection.isSealed, try connection.receiveAll(1) != [1] { throw Self.wrong }
        outcome.withLock { $0.0 = connection }
      } catch {
        outcome.withLock { $0.1 = error }
      }
    }
    let accepted = try listener.accept(until: soon())
    var failure: ConnectionError?
    do throws(ConnectionError) {
      try accepted.shakeHands(until: soon())
      if accepted.isSealed { try accepted.send([1]) }
    } catch {
      failure = error
      // As a server does that gives a connection up; the client sees its end.
      accepted.shutdown()
    }
    dialler.join()
    self.server = accepted
    serverError = failure
    (self.client, clientError) = outcome.withLock { $0 }
  }

  private static let wrong = ConnectionError(.failed, "greeting", peer: "")

  /// Both ends, of a handshake that must succeed.
  func ends() throws -> (client: Connection, server: Connection) {
    (try #require(client, "\(String(describing: clientError))"), server)
  }
}

extension Connection {
  func send(_ bytes: [UInt8]) throws(ConnectionError) {
    // unsafe: the span is used up before the array goes.
    try unsafe send(bytes.span.bytes)
  }

  func receiveAll(_ count: Int) throws(ConnectionError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    // unsafe: any bytes may be stored in an array of bytes.
    var raw = unsafe span.mutableBytes
    try receiveAll(into: &raw, until: soon())
    return bytes
  }

  /// How the stream ends, when nothing but its end is left.
  func end() -> ConnectionError.Kind? {
    do throws(ConnectionError) {
      _ = try receiveAll(1)
      return nil
    } catch {
      return error.kind
    }
  }
}

/// Bytes that tell where they belong: a table of prime length, repeated, so that no record, piece
/// or buffer has the same bytes as the one before.
enum Pattern {
  private static let period = 65_521
  private static let table: [UInt8] = (0..<period).map {
    UInt8(truncatingIfNeeded: ($0 &* 2_654_435_761) >> 13)
  }

  static func bytes(_ range: Range<Int>, seed: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(range.count)
    var position = range.lowerBound
    while position < range.upperBound {
      let start = (position + seed * 9_973) % period
      let count = min(period - start, range.upperBound - position)
      bytes += table[start..<start + count]
      position += count
    }
    return bytes
  }
}

// Below TLS: what a relay does.
extension Connection {
  /// The raw bytes that wait in the socket.
  func taken() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    // unsafe: the array is as long as recv is told.
    let count = unsafe recv(rawDescriptor, &bytes, bytes.count, SocketFlags.dontWait)
    return Array(bytes.prefix(max(count, 0)))
  }

  /// Puts raw bytes into the socket.
  func give(_ bytes: [UInt8]) throws {
    guard !bytes.isEmpty else { return }
    // unsafe: the array is as long as send is told.
    let count = unsafe Glibc.send(rawDescriptor, bytes, bytes.count, SocketFlags.noSignal)
    try #require(count == bytes.count)
  }

  /// Raw bytes until the peer's end; how many.
  func drained() -> Int {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    var total = 0
    while true {
      // unsafe: the array is as long as recv is told.
      let count = unsafe recv(rawDescriptor, &bytes, bytes.count, 0)
      guard count > 0 else { return total }
      total += count
    }
  }
}
