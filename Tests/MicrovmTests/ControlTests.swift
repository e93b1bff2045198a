import Glibc
import GuestKit
import Pages
import System
import Testing
import VMM

@Suite(.serialized) struct ControlTests {
  private func withMicrovm(
    _ arguments: [String] = [], _ body: (SpawnedMicrovm) throws -> Void
  ) throws {
    try TestFiles.withDirectory { directory in
      let machine = try SpawnedMicrovm(
        ["--memory", "16M"] + arguments, in: directory, name: "control")
      try body(machine)
    }
  }

  @Test func onlyThisUserMayConnect() throws {
    try withMicrovm { machine in
      let status = try FileStatus.of(path: machine.socket)
      #expect(status.permissions & 0o777 == 0o600)
    }
  }

  @Test(arguments: ["GET / HTTP/1.1", "{}", "[]", "{\"verb\":1}", ""])
  func whatIsNoRequestIsAnsweredAndTheNextOneToo(line: String) throws {
    try withMicrovm { machine in
      let stream = try LocalStream.connect(machine.socket, deadline: limit())
      try stream.send(Array((line + "\n").utf8), deadline: limit())
      let client = JSONLineClient(stream: stream)
      let refusal = try client.receive(ControlReply.self, deadline: limit())
      #expect(!refusal.ok)
      #expect(refusal.code == "bad-request")
      let status = try client.call(
        ControlRequest("status"), replyingWith: ControlReply.self, deadline: limit())
      #expect(status.ok)
      #expect(status.pid == machine.pid)
    }
  }

  @Test func unknownVerbsAndMissingFieldsAreRefused() throws {
    try withMicrovm { machine in
      for verb in ["fly", "remove", "dump", "load-state"] {
        let reply = try machine.ask(verb)
        #expect(reply.code == "bad-request", "\(verb)")
      }
      var request = ControlRequest("attach")
      request.path = "/nonexistent"
      request.dialect = "0.9"
      let reply = try machine.ask(request)
      #expect(reply.code == "bad-request")
    }
  }

  @Test func aPausedGuestIsVerifiedDumpedAndComparedFromOutside() throws {
    try TestFiles.withDirectory { directory in
      let machine = try SpawnedMicrovm(["--memory", "16M"], in: directory, name: "control")
      try machine.waitForProgress(beyond: 100)
      #expect(try machine.ask("verify").code == "bad-state")
      let running = try machine.ask("status")
      #expect(throws: ControlFailure.self) { _ = try ProcessImage(status: running) }
      try machine.order("pause")
      #expect(try machine.order("verify").findingCount == 0)
      try machine.order("dump") { $0.path = "\(directory)/image" }
      let status = try machine.ask("status")
      let image = try ImageFile(path: "\(directory)/image")
      let comparison = try ImageComparison(source: image, destination: ProcessImage(status: status))
      #expect(comparison.findings == Findings())
      // The memory file is the same memory.
      let file = try ImageFile(path: try #require(status.memoryPath))
      #expect(try ImageCheck(of: file).findings == Findings())
      // A second dump does not overwrite the first.
      var again = ControlRequest("dump")
      again.path = "\(directory)/image"
      #expect(try machine.ask(again).code == "failed")
    }
  }

  @Test func damageFromOutsideIsReportedByStatusAndVerify() throws {
    try withMicrovm(["--paused", "--pattern", "sequential-write", "--fill-percent", "100"]) {
      machine in
      let status = try machine.ask("status")
      let path = try #require(status.memoryPath)
      let file = try OwnedDescriptor.open(path, flags: O_RDWR)
      let word: [UInt64] = [1]
      // In the middle of the data pages.
      let offset = 8 << 20
      #expect(unsafe pwrite(file.rawValue, word, 8, offset) == 8)
      try machine.order("run")
      try waitUntil("the guest notices") { try machine.ask("status").state == "guest-error" }
      let found = try #require(try machine.ask("status").mismatches?.first)
      #expect(found.imagePage == UInt64(offset / 4096))
      #expect(found.foundWord0 == 1)
      #expect(try machine.ask("verify").code == "check-failed")
    }
  }

  @Test func quitEndsTheProcessAndItsFiles() throws {
    try TestFiles.withDirectory { directory in
      let memory = "/dev/shm/microvm-test-\(getpid())"
      let machine = try SpawnedMicrovm(
        ["--memory", "16M", "--backing", "file:\(memory)"], in: directory, name: "control")
      #expect(unsafe access(memory, F_OK) == 0)
      try machine.order("quit")
      var status: Int32 = -1
      #expect(unsafe waitpid(machine.pid, &status, 0) == machine.pid)
      #expect(status == 0)
      #expect(unsafe access(memory, F_OK) != 0)
      #expect(unsafe access(machine.socket, F_OK) != 0)
    }
  }
}
