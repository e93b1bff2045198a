internal import Pages

/// One number of a simulation's plan. A run can be repeated with some of them changed; that is how
/// a failing seed is shrunk.
public enum PlanKnob: Int, CaseIterable, Hashable, Sendable {
  // What is migrated, and how.
  case pages, vcpus, quick, shared, seeded, preCopy, fits, finalLoss, handOverLimit, giveUp
  /// How many rounds of seeds; for how many pages the source keeps what it has sent of them, 0: all
  /// are sent whole; whether what was written is found by comparison with digests.
  case rounds, cache, compared
  /// The guest writes in the middle of a round, so many times in a thousand runs that are sent.
  case midway
  /// Microseconds without trouble, and microseconds with it.
  case calm, trouble
  /// The heartbeat budget in simulated microseconds.
  case budget

  // Trouble that strikes that many times in a thousand.
  case drop, duplicate, reorder, crash, journal, vmm, removal, partialCopy, redelivery, relapse
  /// There is no memory for a frame of seeds.
  case stageFull

  // Trouble that strikes so often.
  case breaks, partitions, stalls, crashes, operators, selfResumes, memoryLosses, vmDeaths
  case hostDeaths, falseOaths

  /// What a command line calls it.
  public var name: String { "\(self)" }

  /// The knob of that name.
  public init?(name: String) {
    guard let knob = Self.allCases.first(where: { $0.name == name }) else { return nil }
    self = knob
  }

  /// The value that makes a run simplest; nil for what is no trouble and is left alone.
  var simplest: Int? {
    switch self {
    case .pages: 4
    case .vcpus, .rounds: 1
    case .quick, .shared, .seeded, .preCopy, .fits, .finalLoss, .giveUp, .calm, .cache,
      .compared, .midway:
      0
    case .handOverLimit, .trouble, .budget: nil
    case .drop, .duplicate, .reorder, .crash, .journal, .vmm, .removal, .partialCopy, .redelivery,
      .relapse, .stageFull, .breaks, .partitions, .stalls, .crashes, .operators, .selfResumes,
      .memoryLosses, .vmDeaths, .hostDeaths, .falseOaths:
      0
    }
  }

  /// Whether it may be changed to that value at all.
  func allows(_ value: Int) -> Bool {
    switch self {
    case .pages: (4...64).contains(value)
    case .vcpus: (1...3).contains(value)
    case .rounds: (1...5).contains(value)
    case .cache: (0...64).contains(value)
    case .budget: (2000...1_000_000).contains(value)
    case .quick, .shared, .seeded, .preCopy, .fits, .finalLoss, .handOverLimit, .giveUp,
      .compared:
      (0...1).contains(value)
    case .calm, .trouble: (0...1_000_000).contains(value)
    case .drop, .duplicate, .reorder, .crash, .journal, .vmm, .removal, .partialCopy, .redelivery,
      .relapse, .stageFull, .midway:
      (0...1000).contains(value)
    case .breaks, .partitions, .stalls, .crashes, .operators, .selfResumes, .memoryLosses,
      .vmDeaths, .hostDeaths, .falseOaths:
      (0...100).contains(value)
    }
  }
}

/// Numbers of a plan that are not the seed's, in the order of the knobs.
public struct PlanChanges: Hashable, Sendable, CustomStringConvertible {
  /// By the knob's raw value; nil leaves the seed's own.
  private var values = [Int?](repeating: nil, count: PlanKnob.allCases.count)

  /// No change.
  public init() {}

  /// Changes as `description` writes them: `pages=4,drop=0`; nil when a name or a value is wrong.
  public init?(_ text: String) {
    for part in text.split(separator: ",") {
      let sides = part.split(separator: "=", maxSplits: 1)
      guard sides.count == 2, let knob = PlanKnob(name: String(sides[0])),
        let value = Int(sides[1]), knob.allows(value)
      else { return nil }
      self[knob] = value
    }
  }

  /// The changed number of one knob.
  public subscript(knob: PlanKnob) -> Int? {
    get { values[knob.rawValue] }
    set {
      if let newValue { invariant(knob.allows(newValue), "a plan's number is within its bounds") }
      values[knob.rawValue] = newValue
    }
  }

  /// Whether the plan is the seed's own.
  public var isEmpty: Bool { values.allSatisfy { $0 == nil } }

  /// For the command line.
  public var description: String {
    PlanKnob.allCases.compactMap { knob in self[knob].map { "\(knob.name)=\($0)" } }
      .joined(separator: ",")
  }
}
