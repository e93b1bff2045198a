/// The paths between the hosts. Directions are named by their sender.
struct SimulatedNetwork {
  /// What each connection swallows for good, by number: one bit for each sender.
  private var swallowed: [UInt8] = [0]
  /// What is sent before that moment arrives after it: TCP sends it again.
  private var partitionEnds: [UInt64] = [0, 0]

  /// The newest connection.
  var lastConnection: Int { swallowed.count - 1 }

  mutating func newConnection() -> Int {
    swallowed.append(0)
    return lastConnection
  }

  /// From now on nothing arrives that this side sends on the connection, and nobody is told.
  mutating func swallow(from side: Side, on connection: Int) {
    swallowed[connection] |= UInt8(1) << UInt8(side.rawValue)
  }

  func isSwallowed(from side: Side, on connection: Int) -> Bool {
    swallowed[connection] >> UInt8(side.rawValue) & 1 == 1
  }

  mutating func cut(from side: Side, until end: UInt64) {
    partitionEnds[side.rawValue] = max(partitionEnds[side.rawValue], end)
  }

  mutating func endPartitions() { partitionEnds = [0, 0] }

  /// How much later than usual something arrives that is sent now.
  func delay(from side: Side, now: UInt64) -> UInt64 {
    let end = partitionEnds[side.rawValue]
    return end > now ? end - now : 0
  }
}
