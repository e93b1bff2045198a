internal import Pages

/// Where a core puts its effects: owned by the caller, of fixed capacity, emptied in order after
/// each event. It allocates once.
public struct EffectQueue<Effect: Sendable>: Sendable {
  /// No event of either core causes more; the longest today is a recovery with seven.
  public static var capacity: Int { 16 }

  private var effects: [Effect] = []
  private var head = 0

  /// An empty queue.
  public init() { effects.reserveCapacity(Self.capacity) }

  /// Whether every effect has been taken.
  public var isEmpty: Bool { head == effects.count }

  /// Adds an effect behind the others. Full is a bug of ours: an event's effects are bounded.
  public mutating func append(_ effect: Effect) {
    if isEmpty { removeTaken() }
    invariant(effects.count < Self.capacity, "one event causes fewer effects than the queue holds")
    effects.append(effect)
  }

  /// Takes the oldest effect. Carry it out before taking the next: their order is meant.
  public mutating func next() -> Effect? {
    if isEmpty {
      removeTaken()
      return nil
    }
    defer { head += 1 }
    return effects[head]
  }

  private mutating func removeTaken() {
    effects.removeAll(keepingCapacity: true)
    head = 0
  }
}
