public import Migration

/// A broken property, with the moment.
public struct Violation: Hashable, Sendable, CustomStringConvertible {
  /// Which property of the design: "P1" to "P7"; "order" is the order of a reconnect.
  public let property: String
  /// What was seen.
  public let finding: String
  /// Virtual time.
  public let nanoseconds: UInt64

  /// One line.
  public var description: String { "\(property) at \(nanoseconds) ns: \(finding)" }
}

/// How the VM's life went on after a simulated session.
public enum Fate: String, CaseIterable, Hashable, Sendable {
  /// It runs at the destination, which has every page.
  case moved
  /// It runs at the source.
  case stayed
  /// The destination's VMM died with the VM running in it: no protocol brings it back.
  case died
  /// A property was violated before the end.
  case unknown
}

/// What became of seeds that went otherwise than whole.
public struct SeedCounts: Hashable, Sendable {
  /// Pages of which only what had changed was sent.
  public var deltaPageCount = 0
  /// Pages that were not sent, since the destination had them as they were.
  public var samePageCount = 0
  /// Deltas that the destination has refused, with their link: their checksum was another one.
  public var refusedDeltaCount = 0
  /// Pages that the destination has asked for when everything had been pushed.
  public var sweptPageCount = 0

  /// None.
  public init() {}

  /// Adds what another run has counted.
  public mutating func add(_ other: SeedCounts) {
    deltaPageCount += other.deltaPageCount
    samePageCount += other.samePageCount
    refusedDeltaCount += other.refusedDeltaCount
    sweptPageCount += other.sweptPageCount
  }
}

/// What one seed did.
public struct SimulationReport: Sendable {
  /// The seed.
  public let seed: UInt64
  /// The first broken property, nil when all hold.
  public let violation: Violation?
  /// Where the VM is in the end.
  public let fate: Fate
  /// Which states the source's core was in; shows what a sweep has not reached.
  public let sourceStates: Set<SourceState>
  /// Which states the destination's core was in.
  public let destinationStates: Set<DestinationState>
  /// Whether FENCED is in the source's journal.
  public let isFenced: Bool
  /// How often a link was made again.
  public let reconnectCount: Int
  /// How often a reconnect came before the source had noticed that its link was lost.
  public let supersededCount: Int
  /// How often a side gave its link up because it heard nothing.
  public let silenceCount: Int
  /// What became of seeds.
  public let seedCounts: SeedCounts
  /// Happenings.
  public let stepCount: Int
  /// A digest (FNV-1a) over all happenings and effects: equal seeds give equal digests.
  public let digest: UInt64
  /// Every happening and effect, when it was asked for.
  public let trace: [String]
}
