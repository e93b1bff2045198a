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
    _ pair: Pair, _ own: Refusal? = nil, _ body: (LinkCheck) throws -> Value
  ) throws -> (Value, Result<Refusal?, HandshakeError>?) {
    let server = try pair.check(pair.there, with: .destination)
    let served = Served()
    let thread = try WorkerThread(name: "check") {
      do throws(HandshakeError) {
        let refusal = try server.serve(own)
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

  @Test(
    arguments: [nil, Refusal(.unfit, "no memory")] as [Refusal?],
    [nil, Refusal(.vmm, "no VMM")] as [Refusal?])
  func aLinkIsMeasuredAndEachSideHearsTheOthersVerdict(
    refusal: Refusal?, there: Refusal?
  ) throws {
    let pair = try Pair()
    let ((measured, heard), served) = try serving(pair, there) { check in
      let measured = try check.measure()
      return (measured, try check.end(refusal))
    }
    #expect(heard == there)
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

  /// Answers pings, and a credit with frames of `byteCounts`, of which the last one is flagged.
  private func answering(_ byteCounts: [Int]) throws -> Result<LinkMeasurement, HandshakeError> {
    let pair = try Pair()
    let check = try pair.check(pair.here, with: .source)
    let there = pair.there
    let session = Self.session.shortID
    let thread = try WorkerThread(name: "liar") {
      var frames: [UInt8] = []
      for sequence in 0..<15 as Range<UInt64> {
        frames += ControlMessage.pong(sequence: sequence).encodedFrame(session: session)
      }
      for (index, count) in byteCounts.enumerated() {
        let payload = [UInt8](repeating: 1, count: count)
        FrameHeader.payload(
          .filler, isLast: index == byteCounts.count - 1, session: session, payload.rawBytes
        ).appendEncoded(to: &frames)
        frames += payload
      }
      // It may have given us up by then.
      try? there.send(frames.rawBytes)
    }
    let result: Result<LinkMeasurement, HandshakeError>
    do throws(HandshakeError) { result = .success(try check.measure()) } catch {
      result = .failure(error)
    }
    pair.here.shutdown()
    thread.join()
    return result
  }

  @Test func aSourceThatSendsTooLittleOrTooMuchIsAnError() throws {
    #expect(try answering([1]) == .failure(.wire(.value(.filler, .credit, found: 1))))
    let full = [Int](repeating: 65_536, count: 19)
    #expect(
      try answering(full)
        == .failure(.wire(.value(.filler, .credit, found: 19 * 65_536))))
  }

  @Test func itCanBeEndedFromOutside() throws {
    let pair = try Pair()
    let check = try pair.check(pair.here, with: .source)
    pair.cancel.signal()
    #expect(throws: HandshakeError.self) { _ = try check.measure() }
  }
}
