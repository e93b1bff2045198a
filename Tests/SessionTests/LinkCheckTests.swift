import Codec
import Pages
import System
import Testing
import Uring
import Wire

@testable import Session

/// The two sides of a check, over a real connection.
@Suite(.timeLimit(.minutes(2)))
struct LinkCheckTests {
  private static let session = SessionID(high: 3, low: 4)

  private static func layout() throws -> ImageLayout {
    try ImageLayout([
      Region(
        index: RegionIndex(0), imageOffset: .zero, byteCount: ByteCount(1 << 20), pageSize: .small)
    ])
  }

  /// What came of serving, once it is over.
  private final class Served: Sendable {
    let result = Lock<Result<Refusal?, HandshakeError>?>(nil)
  }

  private struct Pair {
    let here: Connection
    let there: Connection
    let cancel: WakeEvent

    init() throws {
      let path = "/tmp/lc-\(try SessionID.random().text.prefix(8)).sock"
      let endpoint = try Endpoint(parsing: "unix:\(path)")
      let listener = try Listener(endpoint, tls: nil)
      let limit = MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
      here = try Connection.dial(endpoint, purpose: .bulk, until: limit)
      there = try listener.accept(until: limit)
      cancel = try WakeEvent()
    }

    func check(_ connection: Connection, with peer: Peer) throws -> LinkCheck {
      LinkCheck(
        connection, with: peer, session: LinkCheckTests.session,
        layout: try LinkCheckTests.layout(), cancel: cancel)
    }
  }

  /// Serves `pair.there` on a thread, and gives what `body` makes of `pair.here`.
  private func serving<Value>(
    _ pair: Pair, _ body: (LinkCheck) throws -> Value
  ) throws -> (Value, Result<Refusal?, HandshakeError>?) {
    let server = try pair.check(pair.there, with: .destination)
    let served = Served()
    let thread = try WorkerThread(name: "check") {
      do throws(HandshakeError) {
        let refusal = try server.serve()
        served.result.withLock { $0 = .success(refusal) }
      } catch {
        served.result.withLock { $0 = .failure(error) }
      }
    }
    let value = try body(try pair.check(pair.here, with: .source))
    pair.here.endSending()
    thread.join()
    return (value, served.result.withLock { $0 })
  }

  @Test(arguments: [nil, Refusal(.unfit, "no memory")] as [Refusal?])
  func aLinkIsMeasuredAndTheSourceHearsTheVerdict(refusal: Refusal?) throws {
    let pair = try Pair()
    let (measured, served) = try serving(pair) { check in
      let measured = try check.measure()
      try check.end(refusal)
      return measured
    }
    #expect(measured.roundTripNanoseconds > 0)
    #expect(measured.bytesPerSecond > 0)
    #expect(try served?.get() == refusal)
  }

  @Test func aDestinationThatLeavesIsNoVerdict() throws {
    let pair = try Pair()
    let (_, served) = try serving(pair) { _ in pair.here.shutdown() }
    #expect(throws: HandshakeError.self) { _ = try served?.get() }
  }

  @Test func whatDoesNotBelongThereIsRefused() throws {
    let pair = try Pair()
    let (_, served) = try serving(pair) { _ in
      let frame = ControlMessage.go(epoch: Epoch(rawValue: 7)).encodedFrame(
        session: Self.session.shortID)
      try pair.here.send(frame.rawBytes)
    }
    guard case .failure(.wire(.misplaced(.go, from: .destination, on: .check)))? = served else {
      Issue.record("\(String(describing: served))")
      return
    }
  }

  @Test func aSourceThatAnswersSomethingElseIsAnError() throws {
    let pair = try Pair()
    let check = try pair.check(pair.here, with: .source)
    var frame: [UInt8] = []
    let payload: [UInt8] = [1]
    FrameHeader.payload(.filler, isLast: true, session: Self.session.shortID, payload.rawBytes)
      .appendEncoded(to: &frame)
    try pair.there.send((frame + payload).rawBytes)
    #expect(throws: HandshakeError.self) { _ = try check.measure() }
  }

  @Test func aSourceThatRefusesMeanwhileIsHeard() throws {
    let pair = try Pair()
    let check = try pair.check(pair.here, with: .source)
    let refusal = Refusal(.busy, "not now")
    try pair.there.send(refusal.encodedFrame(session: Self.session.shortID).rawBytes)
    #expect(throws: HandshakeError.refused(refusal)) { _ = try check.measure() }
  }

  @Test func itCanBeEndedFromOutside() throws {
    let pair = try Pair()
    let check = try pair.check(pair.here, with: .source)
    pair.cancel.signal()
    #expect(throws: HandshakeError.self) { _ = try check.measure() }
  }
}
