import Glibc
import GuestKit
import Pages
import ProgramHarness
import System
import Testing

extension EndToEnd {
  /// `--check` on both sides: everything is looked at, and nothing is changed.
  @Test static func aMoveThatIsCheckedFirstIsPossible() throws {
    let migration = try Migration(GuestShape(), Plan(mode: "hybrid", link: .loopback))
    migration.plan.serverOptions = ["--check"]
    migration.plan.receiverOptions = ["--check"]
    let receiver = try migration.startReceiver(waits: false)
    let server = try migration.startServer(waits: false)
    #expect(try receiver.program.end() == .exited(code: 0), "\(receiver.program.transcript)")
    #expect(try server.program.end() == .exited(code: 0), "\(server.program.transcript)")
    for subject in [
      "memory", "processor", "round trip", "rate", "journal", "page sizes", "source",
    ] {
      #expect(receiver.verdict(of: subject) == "ok", "\(subject)")
    }
    for subject in ["memory", "VMM", "mode", "journal", "address", "destination"] {
      #expect(server.verdict(of: subject) == "ok", "\(subject)")
    }
    // And then it is done.
    migration.plan.serverOptions = []
    migration.plan.receiverOptions = []
    try migration.start()
    try migration.expectCompletion()
  }

  /// What speaks against it on one side is told on both, with the VM running on as before.
  @Test static func whatSpeaksAgainstAMoveIsToldOnBothSides() throws {
    let migration = try Migration()
    migration.plan.serverOptions = ["--check"]
    migration.plan.receiverOptions = ["--check"]
    _ = try migration.workspace.write([1], to: "attach.sock")
    let server = try migration.startServer(waits: false)
    let receiver = try migration.startReceiver(waits: false)
    #expect(try receiver.program.end() == .exited(code: 10))
    #expect(try server.program.end() == .exited(code: 10))
    #expect(receiver.verdict(of: "attach socket") == "missing")
    #expect(server.verdict(of: "destination") == "missing")
    #expect(server.texts.contains { $0.contains("attach.sock cannot be made") })
    try migration.source.expectRunsAndVerifies()
  }

  /// Nobody takes a check for a move, nor the other way round.
  @Test static func aCheckAndAMoveDoNotMeet() throws {
    let migration = try Migration()
    let server = try migration.startServer()
    migration.plan.receiverOptions = ["--check"]
    let checking = try migration.startReceiver(waits: false)
    #expect(try checking.program.end() == .exited(code: 10))
    #expect(checking.texts.contains { $0.contains("start it with --check as well") })
    // The move goes on as if nothing had been.
    migration.plan.receiverOptions = []
    try migration.startReceiver()
    try migration.startDestination()
    _ = server
    try migration.expectCompletion()
  }

  /// A destination that comes to move the VM is told that the source only checks.
  @Test static func aMoveIsRefusedByASourceThatChecks() throws {
    let migration = try Migration()
    migration.plan.serverOptions = ["--check"]
    let server = try migration.startServer(waits: false)
    try migration.startReceiver()
    try migration.startDestination()
    try migration.receiver?.expectEnd("refused", exitCode: 10, saying: "only checks")
    try server.signal(SIGTERM)
    #expect(try server.program.end() == .exited(code: 10))
    try migration.source.expectRunsAndVerifies()
  }

  /// A check beside a session of the same VM says so, and touches nothing of it.
  @Test static func aCheckLeavesASessionAlone() throws {
    let migration = try Migration()
    let server = try migration.startServer()
    let path = "\(migration.sourceStateDirectory)/vms/\(Migration.vmName)"
    func state() throws -> [[UInt8]] {
      try ["source.journal", "source.lock"].map {
        try FileSystem.contents(ofSmallFile: "\(path)/\($0)")
      }
    }
    let before = try state()
    migration.plan.serverOptions = ["--check"]
    let checking = try migration.startServer(waits: false)
    #expect(try checking.program.end() == .exited(code: 10))
    #expect(checking.verdict(of: "lock") == "missing")
    #expect(checking.verdict(of: "address") == "missing")
    #expect(try state() == before)
    migration.server = server
    try migration.startReceiver()
    try migration.startDestination()
    try migration.expectCompletion()
  }

  /// A source that lacks something tells the destination as well.
  @Test static func whatSpeaksAgainstItAtTheSourceIsToldThere() throws {
    let migration = try Migration()
    // A session has the VM's lock.
    let server = try migration.startServer()
    let elsewhere = "unix:\(migration.workspace.file("check.sock"))"
    migration.plan.serverOptions = ["--check", "--listen", elsewhere]
    migration.plan.receiverOptions = ["--check", "--from", elsewhere]
    let checking = try migration.startServer(waits: false)
    let receiver = try migration.startReceiver(waits: false)
    #expect(try receiver.program.end() == .exited(code: 10))
    #expect(try checking.program.end() == .exited(code: 10))
    #expect(receiver.verdict(of: "source") == "missing")
    #expect(checking.verdict(of: "destination") == "ok")
    try server.signal(SIGTERM)
    migration.server = server
    try server.expectEnd("aborted", exitCode: 11)
  }
}
