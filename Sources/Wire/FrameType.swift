/// What a frame is. The number stands in the header's first byte; an unknown one ends the session.
public enum FrameType: UInt8, CaseIterable, Hashable, Sendable {
  // Handshake, on every connection.
  /// Destination to source: who dials, for which VM, with which secret and image layout.
  case hello = 1
  /// Source to destination: the session's identity and the source's image layout.
  case welcome = 2
  /// Either side, before the session or instead of it: why not. The sender closes afterwards.
  case refuse = 3

  // Hand-over, on the urgent connection. The order is the order of a migration.
  /// Destination to source: attached, checked, every fault parked. The source may freeze its VM. On
  /// a connection that checks, either side: nothing speaks against a move there.
  case ready = 4
  /// Source to destination: the VM is stopped and its memory final; demands are answered.
  case frozen = 5
  /// Destination to source: every page of the final dirty set was discarded and verified absent.
  case discarded = 6
  /// Destination to source: device state is loaded, the VM can run, nothing has run yet.
  case prepared = 7
  /// Source to destination, only after HANDED_OFF is durable: run.
  case go = 8
  /// Destination to source: the VM runs (RAN is durable).
  case ran = 9
  /// Destination to source: every page is resident, zero or removed (COMPLETE is durable).
  case complete = 10
  /// Source to destination: COMPLETED is durable; the session is over.
  case completeAcknowledged = 11
  /// Source to destination, never after HANDED_OFF: give up and prove it.
  case abort = 12
  /// Destination to source: ABORTED is durable; this VM never ran here and never will.
  case aborted = 13
  /// Either side: measures the round trip and shows that the peer lives.
  case ping = 14
  /// The answer to `ping`, with its sequence number.
  case pong = 15
  /// Either side: this side parks the session, everything is kept, an operator decides.
  case parked = 16

  // Pages.
  /// Destination to source, urgent: vCPUs wait for these pages.
  case request = 32
  /// Source to destination: the bytes of a run of pages.
  case pages = 33
  /// Source to destination: this run reads as zeros.
  case zeroPages = 34
  /// Source to destination: the source's memory is poisoned here; the guest must not read it.
  case poisonedPages = 35
  /// Source to destination, bulk: many runs that read as zeros, found without sending them.
  case zeroMap = 36
  /// Source to destination, bulk: everything has been pushed once on this connection.
  case pushFinished = 37
  /// Destination to source, bulk: how many more payload bytes the source may send.
  case credit = 38
  /// Source to destination, bulk: a piece of the VM's device state; the last one is flagged.
  case deviceState = 39
  /// Destination to source, bulk, after a reconnect: which pages it needs no more; the last piece
  /// is flagged, and only then does the push go on.
  case residentMap = 40

  // Seeds, on bulk connections, before the freeze: pages of a VM that still runs.
  /// Source to destination: the bytes of a run of pages as they were a moment ago. A later seed of
  /// a page takes an earlier one's place.
  case seedPages = 41
  /// Source to destination: this run read as zeros a moment ago.
  case seedZeros = 42
  /// Source to destination: no more seeds of this round follow on this connection.
  case seedRound = 43
  /// Destination to source: every seed before that `seedRound` has been taken in.
  case seedRoundApplied = 44
  /// Source to destination, after the freeze: seeds that are stale; the last frame is flagged.
  case discardMap = 45

  /// Source to destination, on a connection that checks: bytes that mean nothing, as many as were
  /// granted, by whose coming the link is measured; the last frame is flagged.
  case filler = 46
}

/// Bits of the header's flags byte. An unknown bit ends the session.
public struct FrameFlags: OptionSet, Hashable, Sendable {
  /// The bits as they stand in the header.
  public let rawValue: UInt8

  /// Takes bits as they stand in the header.
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  /// The last frame of a sequence (device state, resident map).
  public static let last = FrameFlags(rawValue: 1)
  /// Pages that were asked for, as opposed to pushed.
  public static let demanded = FrameFlags(rawValue: 2)
  /// The payload checksum field is meaningful (no TLS below).
  public static let hasPayloadChecksum = FrameFlags(rawValue: 4)
  /// The pages are packed: the payload is a `PackedPages` prefix and what an encoding has made.
  public static let packed = FrameFlags(rawValue: 8)

  /// Every bit that this version knows.
  public static let known: FrameFlags = [.last, .demanded, .hasPayloadChecksum, .packed]
}
