import Glibc
import GuestKit
import LinkFaultKit
import Pages
import ProgramHarness
import Reporting
import System
import Testing

extension EndToEnd {
  /// The source cannot be reached any more and will not be again: its frozen remainder travels as a
  /// file. Each ends with the comparison that a completed migration ends with.
  @Suite("A VM whose source is lost")
  struct SalvageTests {
    private static let plan = Plan(prefetch: "none")

    @Test("completes from an export that another host serves", arguments: ExportForm.all)
    func waiting(form: ExportForm) throws {
      let migration = try Migration(Migration.slow, Self.plan)
      try migration.startAndLoseSource()
      let path = try migration.export(form, to: "vm.pcx")
      if form.leavesOut {
        let whole = try migration.export(
          ExportForm(isPlain: form.isPlain, leavesOut: false), to: "whole.pcx")
        #expect(try FileStatus.of(path: path).byteCount < FileStatus.of(path: whole).byteCount)
      }
      try migration.expectStillWaits()
      // The session is still open on its own host: what is exported is not sent a second time.
      try migration.startServer(waits: false)
        .expectEnd("refused", exitCode: 10, saying: "was handed over")
      let carried = try migration.carry(path, as: "carried.pcx")
      try migration.serve(carried, state: "other-host")
      try migration.expectCompletion(isTakenUp: true)
      #expect(migration.receiver?.count(ofEvent: "link-restored") == 1)
    }

    @Test(
      "completes from an export on its own host, after both sides parked",
      arguments: [ExportForm.all[0], ExportForm.all[3]])
    func parked(form: ExportForm) throws {
      let migration = try Migration(
        Migration.slow,
        Plan(
          link: .loopback, prefetch: "none", hasRelay: true,
          serverOptions: ["--give-up-after", "1"], receiverOptions: ["--give-up-after", "1"]))
      try migration.startUntilRunning()
      try migration.destination?.waitForProgress(operations: 100)
      try migration.source.waitUntilDisabled()
      // Cut for good: nobody listens there any more.
      try migration.relay?.order(FaultOrder(.refuse))
      try migration.relay?.order(FaultOrder(.reset))
      try migration.receiver?.expectEnd(
        "parked", exitCode: 12, saying: "recover", destination: Phrase.runs)
      try migration.expectServerParked()
      let path = try migration.export(form, to: "vm.pcx")
      let carried = try migration.carry(path, as: "carried.pcx")
      try migration.expectGuestWaits()
      // The destination's host, its own journals beside those of the new source, its own loopback.
      try migration.serve(
        carried, state: migration.destinationStateDirectory, options: ["--insecure"])
      try migration.recoverReceiver([
        "--from", migration.listenAddress, "--give-up-after", "600",
      ])
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test(
      "is not harmed by a file that is cut off, or changed in one byte", arguments: [true, false])
    func damaged(isPlain: Bool) throws {
      let migration = try Migration(Migration.slow, Self.plan)
      try migration.startAndLoseSource()
      let path = try migration.export(
        ExportForm(isPlain: isPlain, leavesOut: false), to: "vm.pcx")
      let length = Int(try FileStatus.of(path: path).byteCount)
      for (name, count) in [("half", length / 2), ("short", length - 1)] {
        let cut = try migration.carry(path, as: name) { $0.removeSubrange(count...) }
        try migration.expectRefused(cut, state: "\(name)-host", saying: "is cut off")
      }
      // In the header, in the index, in a page, and in the last page's chunk.
      for (part, offset) in [
        ("header", 50), ("index", 4096 + 300), ("pages", length / 2), ("pages", length - 70_000),
      ] {
        let name = "changed-at-\(offset)"
        let changed = try migration.carry(path, as: name) { $0[offset] ^= 1 }
        try migration.expectRefused(
          changed, state: "\(name)-host", saying: "is damaged in its \(part)")
      }
      try migration.serve(path, state: "right")
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("is not served another VM's memory, under its own token or under that one's")
    func foreign() throws {
      let migration = try Migration(Migration.slow, Self.plan)
      // Of the same name and layout, and in another session.
      var shape = Migration.slow
      shape.seed = 2
      let other = try Migration(shape, Self.plan)
      let ownToken = try migration.carry(other.workspace.file("token"), as: "other-token")
      try migration.startAndLoseSource()
      try other.startAndLoseSource()
      let foreign = try migration.carry(try other.export(to: "vm.pcx"), as: "foreign.pcx")
      try migration.expectRefused(foreign, state: "a", saying: "another token")
      // With the token that it belongs to it is served, and not to this destination.
      let server = try migration.serve(foreign, state: "b", token: ownToken)
      try server.waitFor("was refused")
      try migration.expectStillWaits()
      try migration.park(server)
      try migration.serve(try migration.export(to: "vm.pcx"), state: "c")
      try migration.expectCompletion(isTakenUp: true)
      try other.recoverServer(["--prefetch", "linear"])
      try other.expectCompletion(isTakenUp: true)
    }

    @Test("is not served what is out of date, though the operator kept the token")
    func stale() throws {
      let first = try Migration(Migration.slow, Self.plan)
      try first.startAndLoseSource()
      let old = try first.export(to: "vm.pcx")
      // The link came back: the file was not needed.
      try first.recoverServer(["--prefetch", "linear"])
      _ = try first.receiver?.expectEnd("completed", exitCode: 0)
      _ = try first.server?.expectEnd("completed", exitCode: 0)
      let middle = try #require(first.destination)
      let second = try Migration(
        adopting: middle, shape: first.shape, Self.plan)
      // The VM left from this host twice: one set of journals.
      second.sourceStateDirectory = first.sourceStateDirectory
      _ = try second.workspace.write(
        FileSystem.contents(ofSmallFile: first.workspace.file("token"), maximumByteCount: 4096),
        to: "token")
      try second.startAndLoseSource()
      let stale = try second.carry(old, as: "stale.pcx")
      // Its own host knows by the journal, any other by what the destination says.
      try second.expectRefused(
        stale, state: second.sourceStateDirectory, saying: "is out of date")
      let server = try second.serve(stale, state: "elsewhere")
      try server.waitFor("is of session")
      try second.expectStillWaits()
      try second.park(server)
      try second.serve(try second.export(to: "vm.pcx"), state: "there")
      try second.expectCompletion(isTakenUp: true)
      try first.source.quit()
    }
  }
}

extension Migration {
  /// Ends a page-server that stands behind a hand-over, as an operator does.
  fileprivate func park(_ server: Engine) throws {
    try server.signal(SIGTERM)
    try server.waitFor("again")
    try server.signal(SIGTERM)
    try server.expectEnd("parked", exitCode: 12)
  }
}
