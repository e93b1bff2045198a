public import Pages

/// A session's identity: 128 random bits, made by the source, written like a UUID.
public struct SessionID: Hashable, Sendable {
  /// The first eight bytes, big-endian as in the written form.
  public let high: UInt64
  /// The last eight bytes.
  public let low: UInt64

  /// A session of those bits.
  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// No session yet: what a destination says that has not been told one.
  public static let none = SessionID(high: 0, low: 0)

  /// The short id that frame headers carry.
  public var shortID: UInt32 { UInt32(truncatingIfNeeded: low) }
}

/// Counts who may run the VM: even at the source's start, one more with each hand-off or resume.
public struct Epoch: RawRepresentable, Hashable, Comparable, Sendable {
  /// The count itself.
  public let rawValue: UInt64

  /// The epoch of that count.
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Whether the left one is the earlier.
  public static func < (left: Epoch, right: Epoch) -> Bool { left.rawValue < right.rawValue }

  /// The epoch `count` later.
  public func advanced(by count: UInt64) -> Epoch { Epoch(rawValue: rawValue + count) }
}

/// The secret that binds a client to one session: 32 random bytes.
public struct SessionToken: Sendable {
  /// The bytes. Compare with `matches`, never with `==`.
  public let bytes: [UInt8]
  /// How many bytes a token has.
  public static let byteCount = 32

  /// nil unless there are exactly 32 bytes.
  public init?(bytes: [UInt8]) {
    guard bytes.count == Self.byteCount else { return nil }
    self.bytes = bytes
  }

  /// Whether both are the same, in a time that does not tell where they differ.
  public func matches(_ other: SessionToken) -> Bool {
    var difference: UInt8 = 0
    for index in 0..<Self.byteCount { difference |= bytes[index] ^ other.bytes[index] }
    return difference == 0
  }
}

/// What a connection is for.
public enum ConnectionRole: UInt8, Hashable, Sendable {
  /// Control, requests, demanded pages, heartbeats. One a session.
  case urgent = 1
  /// Seeds, pushes, device state, maps. One or more a session.
  case bulk = 2
  /// No session: what speaks against one is looked for, and the link measured.
  case check = 3
}

/// How the work is split between the time before and after the switchover.
public enum MigrationMode: UInt8, CaseIterable, Hashable, Sendable {
  /// The VM runs at the destination at once and pulls its pages.
  case postCopy = 1
  /// Freeze, send everything, then run.
  case quick = 2
  /// Rounds of seeds while the VM runs at the source, then post-copy for what changed last.
  case hybrid = 3
  /// Rounds of seeds until what is left fits the downtime target, then freeze, send that, and run.
  case preCopy = 4

  /// What a command line and a report call it.
  public var name: String {
    switch self {
    case .postCopy: "post-copy"
    case .quick: "quick"
    case .hybrid: "hybrid"
    case .preCopy: "pre-copy"
    }
  }

  /// Whether pages are sent while the VM still runs at the source.
  public var hasSeedRounds: Bool { self == .hybrid || self == .preCopy }
}

/// How far the destination's durable journal has come: what it proves when it dials again.
public enum DestinationProgress: UInt8, CaseIterable, Hashable, Sendable {
  /// Nothing of this session is on its disk: proves nothing about earlier lives.
  case unknown = 0
  /// Attached; the VM has not run here.
  case preparing = 1
  /// Device state is loaded; the VM has not run here, and GO has not been accepted.
  case prepared = 2
  /// GO is accepted: the VM may be running here.
  case goAccepted = 3
  /// The VM runs here.
  case ran = 4
  /// Every page is here.
  case complete = 5
  /// The VM never ran here for this epoch and never will.
  case aborted = 6
}

/// Why a peer is refused in the handshake or a session given up.
public enum RefusalCode: UInt16, CaseIterable, Hashable, Sendable {
  /// The peer speaks another version of the protocol.
  case version = 1
  /// The token is not this session's.
  case token = 2
  /// The name is not the VM that is served here.
  case vm = 3
  /// Regions, offsets, sizes or page sizes differ.
  case layout = 4
  /// The session has a client already.
  case busy = 5
  /// The session id or epoch is not the one served here.
  case session = 6
  /// The peer broke the protocol.
  case protocolViolation = 7
  /// The operator said so.
  case operatorRequest = 8
  /// The VMM failed: pause, device state out or in, run.
  case vmm = 9
  /// The source's memory cannot be read any more.
  case memory = 10
  /// The journal cannot be written.
  case journal = 11
  /// The peer was not heard of in time.
  case timeout = 12
  /// A bug of ours.
  case internalError = 13
  /// The destination host cannot take this VM (memory, permissions, kernel).
  case unfit = 14
  /// The VM could not be moved within the limits that the operator has set.
  case limit = 15
}

/// A reason with its code, both for the peer and for the operator who reads the report.
public struct Refusal: Error, Hashable, Sendable {
  /// What kind of reason.
  public let code: RefusalCode
  /// One or two sentences for a person; at most `WireLimits.maximumReasonByteCount` bytes are sent.
  public let reason: String

  /// A reason of that kind.
  public init(_ code: RefusalCode, _ reason: String) {
    self.code = code
    self.reason = reason
  }
}

/// The first thing that a destination says on each connection.
public struct Hello: Sendable {
  /// The protocol version of the sender.
  public var version: UInt16
  /// What this connection is for.
  public var role: ConnectionRole
  /// The session, or `SessionID.none` on the first urgent connection.
  public var session: SessionID
  /// The epoch that the destination knows; 0 on the first connection.
  public var epoch: Epoch
  /// What the destination's journal proves.
  public var progress: DestinationProgress
  /// The secret.
  public var token: SessionToken
  /// The VM's name.
  public var vmName: String
  /// The memory that attached at the destination; empty on bulk connections.
  public var regions: [Region]

  /// A hello with all its parts.
  public init(
    version: UInt16 = WireLimits.version, role: ConnectionRole, session: SessionID, epoch: Epoch,
    progress: DestinationProgress, token: SessionToken, vmName: String, regions: [Region]
  ) {
    self.version = version
    self.role = role
    self.session = session
    self.epoch = epoch
    self.progress = progress
    self.token = token
    self.vmName = vmName
    self.regions = regions
  }
}

/// The source's answer to a hello that it accepts.
public struct Welcome: Hashable, Sendable {
  /// The session that the connection now belongs to.
  public var session: SessionID
  /// The source's epoch at the start of this session.
  public var epoch: Epoch
  /// How the migration is done.
  public var mode: MigrationMode
  /// How many bulk connections the destination is to dial.
  public var bulkConnectionCount: UInt8
  /// Whether the source holds a durable HANDED_OFF: it will never run this VM again.
  public var isHandedOff: Bool
  /// The source's image.
  public var regions: [Region]
  /// The names of what the source's processors can do, as its guest may have seen them, with
  /// spaces between them; empty on bulk connections, or where the source cannot tell.
  public var processorFeatures: String

  /// A welcome with all its parts.
  public init(
    session: SessionID, epoch: Epoch, mode: MigrationMode, bulkConnectionCount: UInt8,
    isHandedOff: Bool, regions: [Region], processorFeatures: String = ""
  ) {
    self.processorFeatures = processorFeatures
    self.session = session
    self.epoch = epoch
    self.mode = mode
    self.bulkConnectionCount = bulkConnectionCount
    self.isHandedOff = isHandedOff
    self.regions = regions
  }
}

/// What the destination did while the VM stood still, on its own clock; 0 is not known.
public struct PauseParts: Hashable, Sendable {
  /// From `frozen` to the last byte of the device state.
  public var transferNanoseconds: UInt64
  /// Loading it.
  public var loadNanoseconds: UInt64
  /// From `go` to GO_ACCEPTED on disk.
  public var acceptNanoseconds: UInt64
  /// From there to running vCPUs.
  public var startNanoseconds: UInt64
  /// From the end of loading until nothing was awaited of the source any more, where the VM runs
  /// only then.
  public var fillNanoseconds: UInt64

  /// Parts of that length.
  public init(
    transferNanoseconds: UInt64 = 0, loadNanoseconds: UInt64 = 0, acceptNanoseconds: UInt64 = 0,
    startNanoseconds: UInt64 = 0, fillNanoseconds: UInt64 = 0
  ) {
    self.transferNanoseconds = transferNanoseconds
    self.loadNanoseconds = loadNanoseconds
    self.acceptNanoseconds = acceptNanoseconds
    self.startNanoseconds = startNanoseconds
    self.fillNanoseconds = fillNanoseconds
  }
}

/// A message of the hand-over: rare, small, on the urgent connection; the business of the cores.
public enum ControlMessage: Hashable, Sendable {
  /// See `FrameType.ready`.
  case ready(epoch: Epoch)
  /// See `FrameType.frozen`. The count is that of the pages in the final dirty set;
  /// `fillsBeforeRun`: PREPARED is to be said only when the source has nothing left to send.
  case frozen(epoch: Epoch, discardPageCount: PageCount, fillsBeforeRun: Bool = false)
  /// See `FrameType.discarded`.
  case discarded(epoch: Epoch)
  /// See `FrameType.prepared`. `epoch` is the source's, before the hand-off.
  case prepared(epoch: Epoch)
  /// See `FrameType.go`. `epoch` is the one in which the destination runs.
  case go(epoch: Epoch)
  /// See `FrameType.ran`. The nanoseconds between the VM's start and this message, at the
  /// destination: the source subtracts them from the downtime that it measured. The parts are what
  /// the destination did in that downtime.
  case ran(epoch: Epoch, nanosecondsSinceStart: UInt64, PauseParts = PauseParts())
  /// See `FrameType.complete`.
  case complete(epoch: Epoch)
  /// See `FrameType.completeAcknowledged`.
  case completeAcknowledged(epoch: Epoch)
  /// See `FrameType.abort`.
  case abort(epoch: Epoch, Refusal)
  /// See `FrameType.aborted`.
  case aborted(epoch: Epoch, Refusal)
  /// See `FrameType.ping`.
  case ping(sequence: UInt64)
  /// See `FrameType.pong`.
  case pong(sequence: UInt64)
  /// See `FrameType.parked`.
  case parked(epoch: Epoch, Refusal)
}
