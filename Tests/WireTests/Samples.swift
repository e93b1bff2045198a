import Codec
import Pages
import Wire

/// One frame of each type, with all its fields set, as it stands on the wire (of a `pages` frame
/// the header alone).
enum Samples {
  static let shortID = sampleSession.shortID

  static let hello = Hello(
    role: .urgent, session: sampleSession, epoch: Epoch(rawValue: 6), progress: .goAccepted,
    token: SessionToken(bytes: (0..<32).map { UInt8($0) })!, vmName: "vm-1",
    regions: sampleRegions)

  static let welcome = Welcome(
    session: sampleSession, epoch: Epoch(rawValue: 6), mode: .postCopy, bulkConnectionCount: 4,
    isHandedOff: true, regions: sampleRegions, processorFeatures: "avx2 fma")

  static let refusal = Refusal(.token, "wrong token")

  static let controlMessages: [ControlMessage] = [
    .ready(epoch: Epoch(rawValue: 6)),
    .frozen(epoch: Epoch(rawValue: 6), discardPageCount: PageCount(42), fillsBeforeRun: true),
    .discarded(epoch: Epoch(rawValue: 6)),
    .prepared(epoch: Epoch(rawValue: 6)),
    .go(epoch: Epoch(rawValue: 7)),
    .ran(
      epoch: Epoch(rawValue: 7), nanosecondsSinceStart: 1_234_567,
      PauseParts(
        transferNanoseconds: 1, loadNanoseconds: 0x0203, acceptNanoseconds: 0x0004_0506,
        startNanoseconds: 0x0708_090a, fillNanoseconds: 0x0b0c)),
    .complete(epoch: Epoch(rawValue: 7)),
    .completeAcknowledged(epoch: Epoch(rawValue: 7)),
    .abort(epoch: Epoch(rawValue: 6), Refusal(.operatorRequest, "by hand")),
    .aborted(epoch: Epoch(rawValue: 6), Refusal(.vmm, "Grüße")),
    .ping(sequence: 99),
    .pong(sequence: 99),
    .parked(epoch: Epoch(rawValue: 7), Refusal(.timeout, "")),
  ]

  static let pageHeaders: [FrameHeader] = [
    .request(run(1, 0, 1), session: shortID, sequence: 77),
    .pages(
      run(0, 16, 2), pageSize: .small, isDemanded: true, session: shortID, sequence: 77,
      checksum: 0x1122_3344),
    .zeroPages(run(0, 240, 16), isDemanded: true, session: shortID, sequence: 78),
    .poisonedPages(run(1, 1, 1), isDemanded: false, session: shortID, sequence: 0),
  ]

  static let seedHeaders: [FrameHeader] = [
    .seedPages(
      run(0, 16, 2), pageSize: .small, session: shortID, sequence: 5, checksum: 0x1122_3344),
    .seedZeros(run(0, 240, 16), session: shortID, sequence: 6),
  ]

  static let zeroRuns = [run(0, 3, 5), run(1, 0, 2)]

  static let deviceState: [UInt8] = [1, 2, 3]

  /// Every frame in the order of its type's number.
  /// Pages 3 to 202 of the samples' 258 are here.
  static let residentMapFrame: [UInt8] = {
    var encoder = ResidentMap.Encoder(session: shortID)
    encoder.append(pageCount: 3, isResident: false)
    encoder.append(pageCount: 200, isResident: true)
    encoder.append(pageCount: 55, isResident: false)
    return encoder.takeFrame(isLast: true)
  }()

  static let frames: [[UInt8]] = {
    var frames = [
      hello.encodedFrame(), welcome.encodedFrame(), refusal.encodedFrame(session: 0),
    ]
    frames += controlMessages.map { $0.encodedFrame(session: shortID) }
    frames += pageHeaders.map(encoded)
    frames.append(RunMap.zero.encodedFrame(zeroRuns[...], session: shortID))
    frames.append(encoded(.pushFinished(session: shortID)))
    frames.append(Credit.encodedFrame(total: ByteCount(4 << 20), session: shortID))
    frames.append(
      encoded(
        .payload(.deviceState, isLast: true, session: shortID, deviceState.rawBytes))
        + deviceState)
    frames.append(residentMapFrame)
    frames += seedHeaders.map(encoded)
    frames.append(SeedRound.endFrame(3, session: shortID))
    frames.append(SeedRound.appliedFrame(3, session: shortID))
    frames.append(RunMap.discard.encodedFrame(zeroRuns[...], isLast: true, session: shortID))
    frames.append(
      encoded(
        .payload(.filler, isLast: true, session: shortID, deviceState.rawBytes)) + deviceState)
    return frames
  }()

  /// Those that are here with their payload: not the pages themselves.
  static var wholeFrames: [[UInt8]] {
    frames.filter { ![.pages, .seedPages].contains(FrameType(rawValue: $0[0])) }
  }
}
