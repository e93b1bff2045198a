import GuestKit
import LinkFaultKit
import Pages
import ProgramHarness
import Reporting
import System
import Testing

// What the cases share: a window in which the link can be lost, and what must hold behind it.
extension Migration {
  /// A guest that needs a page now and then, so that most of them are still missing when the link
  /// is lost, and some are being waited for.
  static let needy = GuestShape(
    memory: "64M", vcpus: 2, pattern: "rate-limited-write", more: ["--rate", "300"])

  /// What bulk is held down to until the window is closed: minutes for a small VM, also where many
  /// run beside it.
  static let windowBytesPerSecond: UInt64 = 200_000

  /// Starts all behind a relay that holds bulk down, and waits until the VM runs at the destination
  /// with most of its pages missing.
  static func withOpenWindow(
    _ shape: GuestShape = needy, _ plan: Plan = Plan(link: .loopback)
  ) throws -> Migration {
    var plan = plan
    plan.hasRelay = true
    plan.security = .insecure
    let migration = try Migration(shape, plan)
    try migration.holdBulkDown()
    try migration.startUntilRunning()
    return migration
  }

  func holdBulkDown(to bytesPerSecond: UInt64 = windowBytesPerSecond) throws {
    try relayed.order(FaultOrder(.limit, to: .bulk, .toClient, value: bytesPerSecond))
  }

  /// The relay; its absence is a mistake in a test.
  var relayed: RelayProcess {
    get throws {
      guard let relay else { throw HarnessError(description: "this migration has no relay") }
      return relay
    }
  }

  /// Both sides have told that the link is lost, for the `count`th time.
  func expectLinkLost(count: Int = 1) throws {
    try #require(receiver).waitFor(event: "link-lost", count: count)
    try #require(server).waitFor(event: "link-lost", count: count)
  }

  /// Both sides have told that it is there again, and the guest works.
  func expectLinkRestored(count: Int = 1) throws {
    let received = try #require(receiver).waitFor(event: "link-restored", count: count)
    let sent = try #require(server).waitFor(event: "link-restored", count: count)
    for event in [received, sent] {
      #expect(event.outageNanoseconds ?? 0 > 0 && !(event.address ?? "").isEmpty)
    }
    if progressOperations > 0 {
      try destination?.waitForProgress(operations: min(100, progressOperations))
    }
  }

  /// Lets everything through again, and has the migration come to its end: complete, compared,
  /// nothing left. The link was lost so often at least: on a starved machine a heartbeat may come
  /// too late besides, which costs a moment and nothing else.
  func closeWindow(lostCount: Int = 1) throws {
    try relay?.order(FaultOrder(.clear))
    try expectCompletion()
    for engine in [server, receiver] {
      let engine = try #require(engine)
      let count = engine.count(ofEvent: "link-lost")
      #expect(
        count >= lostCount,
        "\(engine.program.name) lost the link \(count) times:\n\(engine.program.transcript)")
      #expect(engine.count(ofEvent: "link-restored") == count)
    }
  }
}
