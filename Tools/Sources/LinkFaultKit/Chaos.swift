internal import Simulation

/// Trouble at random from a seed: the orders of a relay whose links are to fail, bounded in number,
/// each over before long. Behind the last one the network is sound, so that what has to come right
/// in the end can.
public enum Chaos {
  /// `count` orders, spread over about `milliseconds`. The same for the same numbers, everywhere.
  public static func orders(seed: UInt64, count: Int, milliseconds: UInt64) -> [FaultOrder] {
    var random = SeededRandom(seed: seed)
    var orders: [FaultOrder] = []
    for index in 0..<count {
      let slot = milliseconds / UInt64(max(1, count))
      let moment = UInt64(index) * slot + random.next() % max(1, slot)
      var order = draw(&random)
      order.afterMilliseconds = moment
      orders.append(order)
    }
    return orders
  }

  private static func draw(_ random: inout SeededRandom) -> FaultOrder {
    let targets: [LinkTarget] = [.all, .all, .urgent, .bulk]
    let target = targets[random.number(in: 0..<targets.count)]
    let ways: [FaultDirection] = [.both, .toServer, .toClient]
    let way = ways[random.number(in: 0..<ways.count)]
    switch random.number(in: 0..<14) {
    case 0, 1: return FaultOrder(.cut, to: target)
    case 2, 3: return FaultOrder(.reset, to: target)
    case 4, 5:
      return FaultOrder(.drop, to: .all, forMilliseconds: random.milliseconds(in: 50..<2500))
    case 6:
      return FaultOrder(
        .stall, to: target, way, forMilliseconds: random.milliseconds(in: 50..<2500))
    case 7:
      return FaultOrder(
        .swallow, to: target, way, forMilliseconds: random.milliseconds(in: 50..<2500))
    case 8:
      return FaultOrder(.halfOpen, to: target, way == .both ? .toServer : way)
    case 9: return FaultOrder(.corrupt, to: target, way)
    case 10:
      return FaultOrder(
        .delay, to: target, way, value: random.milliseconds(in: 1..<50),
        forMilliseconds: random.milliseconds(in: 100..<1500))
    case 11:
      return FaultOrder(
        .limit, to: target, way, value: random.milliseconds(in: 100_000..<20_000_000),
        forMilliseconds: random.milliseconds(in: 100..<1500))
    case 12:
      return FaultOrder(.refuse, forMilliseconds: random.milliseconds(in: 50..<1500))
    default:
      return FaultOrder(.silent, forMilliseconds: random.milliseconds(in: 50..<1500))
    }
  }
}

extension SeededRandom {
  fileprivate mutating func milliseconds(in range: Range<UInt64>) -> UInt64 {
    nanoseconds(in: range)
  }
}
