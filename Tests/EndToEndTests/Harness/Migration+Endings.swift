import Glibc
import GuestKit
import Pages
import Reporting
import System
import Testing

// The other ways in which a migration ends.
extension Migration {
  /// Pages outstanding for minutes: the guest is slow, and only what it touches is sent.
  package static let slow = GuestShape(
    memory: "64M", vcpus: 2, pattern: "rate-limited-write", more: ["--rate", "300"])

  /// Stops the destination's VMM as soon as it has attached, and waits until it is asked to load:
  /// the hand-over then stands still in front of PREPARED.
  package func startAndHoldInLoad() throws {
    try startReceiver()
    try startDestination().signal(SIGSTOP)
    try startServer()
    try receiver?.waitFor(state: "loading")
    try server?.waitFor(state: "saved")
  }

  /// Starts all and waits until the VM runs at the destination with pages outstanding.
  package func startUntilRunning() throws {
    try start()
    try receiver?.waitFor(state: "running")
    try server?.waitFor(state: "serving")
  }

  /// Has an operator say something at the source: a verb of postcopyctl, which must be taken.
  package func order(_ verb: String) throws {
    let program = try Program(
      "postcopyctl",
      [
        Binaries.path("postcopyctl"), verb, "--vm", Self.vmName, "--state-dir",
        sourceStateDirectory,
      ])
    guard try program.end() == .exited(code: 0) else {
      throw HarnessError(description: "postcopyctl \(verb): \(program.transcript)")
    }
  }

  /// Goes on with the session whose page-server is gone; what is not said again it knows.
  package func recoverServer(_ options: [String] = []) throws {
    server = try Engine(
      "page-server",
      ["recover", "--vm", Self.vmName, "--state-dir", sourceStateDirectory] + options,
      prefix: prefixes["page-server"] ?? [])
  }

  /// Goes on with the session whose postcopyd is gone.
  package func recoverReceiver(_ options: [String] = []) throws {
    receiver = try Engine(
      "postcopyd",
      ["recover", "--vm", Self.vmName, "--state-dir", destinationStateDirectory] + options,
      prefix: prefixes["postcopyd"] ?? [])
  }

  /// After GO: SIGHUP ends nothing, the first stop is refused, the second parks both sides with
  /// everything kept and nothing made up.
  package func expectParksOnSecondSignal(of engine: Engine, _ signal: Int32) throws {
    try engine.signal(SIGHUP)
    try engine.waitFor("SIGHUP ends nothing")
    try engine.signal(signal)
    try engine.waitFor("again")
    #expect(!engine.program.hasEnded)
    try engine.signal(signal)
    try expectBothParked()
  }

  /// Both sides have parked; the guest at the destination waits for its pages.
  package func expectBothParked(saying words: String = "") throws {
    let receiver = try #require(receiver)
    try receiver.expectEnd(
      "parked", exitCode: 12, saying: words, source: Phrase.stopped, destination: Phrase.runs)
    try expectServerParked()
    try expectGuestWaits()
    try cleanUpParked()
  }

  /// The source has parked: its VM is stopped, and disabled unless that was still under way.
  package func expectServerParked(saying words: String = "") throws {
    let end = try #require(server).expectEnd("parked", exitCode: 12, saying: words)
    #expect([Phrase.disabled, Phrase.stopped].contains(end.report?.sourceState))
    #expect(end.report?.destinationState == Phrase.runs)
  }

  /// Nobody brings pages any more: sooner or later each vCPU needs one that is missing and waits.
  /// It must never see anything in its place.
  package func expectGuestWaits() throws {
    try expectGuestStandsStill()
    try expectNothingMadeUp()
  }

  /// Every vCPU waits for a page: nothing moves, and the VM is not taken for finished.
  package func expectGuestStandsStill() throws {
    let destination = try #require(destination)
    let deadline = Patience.deadline()
    while true {
      let before = try destination.status
      #expect(before.state == "running" && (before.mismatches ?? []).isEmpty)
      // No count at all: the page of a counter is one of the missing.
      if try destination.waitingFaultCount >= shape.vcpus,
        try destination.status.operations == before.operations
      {
        break
      }
      guard MonotonicClock.now() < deadline else {
        throw HarnessError(description: "the guest still finds all the pages that it touches")
      }
      try destination.program.pause()
    }
    #expect(try source.status.state != "running")
  }

  /// No page that the destination's memory holds is zeros where the source's frozen one is not.
  /// The memory file is read as such: that fills no page and waits for none.
  private func expectNothingMadeUp() throws {
    guard let frozen = try source.status.memoryPath,
      let moved = try #require(destination).status.memoryPath
    else { return }
    let left = try OwnedDescriptor.open(frozen, flags: O_RDONLY)
    let right = try OwnedDescriptor.open(moved, flags: O_RDONLY)
    var filledPages = 0
    var madeUp: [Int] = []
    var offset = lseek(right.rawValue, 0, SEEK_DATA)
    while offset >= 0 {
      let end = lseek(right.rawValue, offset, SEEK_HOLE)
      for page in stride(from: offset, to: end, by: 4096) {
        filledPages += 1
        let bytes = try right.read(byteCount: 4096, atOffset: UInt64(page), operand: moved)
        guard bytes.allSatisfy({ $0 == 0 }) else { continue }
        let original = try left.read(byteCount: 4096, atOffset: UInt64(page), operand: frozen)
        if !original.allSatisfy({ $0 == 0 }) { madeUp.append(page / 4096) }
      }
      offset = lseek(right.rawValue, end, SEEK_DATA)
    }
    #expect(madeUp == [])
    let size = lseek(right.rawValue, 0, SEEK_END)
    #expect(filledPages > 0 && filledPages < size / 4096, "some pages are here, some are missing")
  }

  /// Ends both VMs, whose guest is lost to the test, and forgets the session as an operator would.
  package func cleanUpParked() throws {
    if let destination, !destination.program.hasEnded {
      try destination.signal(SIGKILL)
      #expect(try destination.program.end() == .killed(signal: SIGKILL))
    }
    try source.quit()
    forgetSession()
  }

  /// Before GO both sides give up: the source runs on, the destination's VMM is ended.
  package func expectBothAborted(saying words: String = "", atDestination: String = "") throws {
    let server = try #require(server)
    let receiver = try #require(receiver)
    try server.expectEnd("aborted", exitCode: 11, saying: words, source: Phrase.runs)
    try receiver.expectEnd(
      "aborted", exitCode: 11, saying: atDestination, destination: Phrase.killed)
    #expect(try destination?.program.end() == .killed(signal: SIGKILL))
    try expectSourceRunsOn()
  }
}
