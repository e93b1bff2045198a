import LinkFaultKit
import Pages
import ProgramHarness
import Reporting
import System
import Testing

extension FaultInjection {
  /// The relay sees nothing of what passes: links are told apart by their number alone.
  @Suite("Cases with TLS")
  struct SecureCases {
    /// The relay cannot tell bulk from urgent: page-server itself keeps the window open.
    private func migration(held: Bool = true) throws -> Migration {
      try Migration(
        Migration.needy,
        Plan(
          link: .loopback, security: .tls, hasRelay: true,
          serverOptions: held ? ["--bandwidth", "4000000"] : []))
    }

    @Test("case 17: plain, encrypted")
    func plain() throws {
      let migration = try migration(held: false)
      try migration.start()
      try migration.expectCompletion()
    }

    @Test(
      "case 17: recovery, encrypted",
      arguments: [
        FaultOrder(.cut), FaultOrder(.reset), FaultOrder(.drop), FaultOrder(.swallow, .toServer),
        FaultOrder(.corrupt, .toClient),
      ])
    func recovers(fault: FaultOrder) throws {
      let migration = try migration()
      try migration.startUntilRunning()
      try migration.relayed.order(fault)
      try migration.expectLinkLost()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test("case 17: a certificate of another authority is refused, and the right one taken")
    func mismatch() throws {
      let migration = try migration(held: false)
      let other = migration.workspace.file("other-certificates")
      let maker = try Program(
        "postcopyctl", [Binaries.path("postcopyctl"), "certificates", other])
      #expect(try maker.end() == .exited(code: 0))
      migration.securityOptions["destination"] = ["--tls", "\(other)/destination"]
      try migration.startServer()
      try migration.startReceiver(connectSeconds: 2)
      try migration.startDestination()
      try migration.receiver?.expectEnd("refused", exitCode: 10, destination: Phrase.untouched)
      try migration.source.waitForProgress()
      try migration.destination?.quit()
      migration.securityOptions = [:]
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }
  }
}
