import Glibc
import Pages
import System
import Testing

@testable import VMM

@Suite("microvm's control protocol", .serialized)
struct MicroVMTests {
  /// Short, for peers that never answer; all others answer at once.
  private static let impatient = VMMTimeouts(
    pauseMilliseconds: 10, answerMilliseconds: 20, saveMilliseconds: 30, loadMilliseconds: 30)

  private func vm(_ peer: ScriptedPeer, _ timeouts: VMMTimeouts = VMMTimeouts()) -> MicroVM {
    MicroVM(vmName: "web1", socketPath: peer.path, timeouts: timeouts)
  }

  private func problem(_ body: () throws -> Void) -> VMMError.Problem? {
    do {
      try body()
      return nil
    } catch {
      return (error as? VMMError)?.problem
    }
  }

  @Test("Each verb is one line, on one connection, and answers are understood however they are cut")
  func verbs() throws {
    let ok = "{\"ok\":true,\"state\":\"paused\",\"new\":{\"key\":[1]}}\n"
    let script: [Act] = [
      .read, .say("{\"ok\":tr"), .say("ue,\"state\":\"pau"), .say("sed\"}\n"),  // pause
      .read, .say("{\"ok\":true,\"vm_state\":\"AQIDBA==\",\"byte_count\":4}\n"),
      .read, .say(ok), .read, .say(ok), .read, .say(ok), .read, .say(ok),
    ]
    try withPeer(script) { peer in
      let vm = vm(peer)
      try vm.pause()
      #expect(try vm.saveDeviceState() == [1, 2, 3, 4])
      try vm.resume()
      try vm.loadDeviceState([255, 0])
      try vm.run()
      try vm.disable()
      #expect(
        peer.lines == [
          #"{"timeout_ms":1000,"verb":"pause"}"#, #"{"verb":"save-state"}"#,
          #"{"verb":"resume"}"#, #"{"verb":"load-state","vm_state":"/wA="}"#, #"{"verb":"run"}"#,
          #"{"timeout_ms":1000,"verb":"disable"}"#,
        ])
    }
  }

  @Test("Status has a connection of its own, and null where a counter is not here yet")
  func status() throws {
    let script: [Act] = [
      .read,
      .say(
        #"{"ok":true,"state":"running","pid":4194303,"operations":12,"mismatches":[{"vcpu":1}]}"#
          + "\n"), .read,
      .say(#"{"ok":true,"state":"guest-error","operations":null,"mismatches":[]}"# + "\n"), .read,
      .say(#"{"ok":true,"state":"dancing"}"# + "\n"),
    ]
    try withPeer(script) { peer in
      let vm = vm(peer)
      let first = try vm.status()
      let second = try vm.status()
      #expect(
        first == VMMStatus(state: .running, pid: 4_194_303, operationCount: 12, mismatchCount: 1))
      #expect(second == VMMStatus(state: .guestError))
      #expect(problem { _ = try vm.status() } == .garbled("unknown state \"dancing\""))
    }
  }

  @Test("Refusals, pending pauses and failures are told apart")
  func errors() throws {
    let reply = { (code: String) in
      Act.say(#"{"ok":false,"code":"\#(code)","error":"because"}"# + "\n")
    }
    let script: [Act] = [
      .read, reply("bad-state"), .read, reply("bad-request"), .read, reply("timeout"), .read,
      reply("failed"), .read, .say("{\"ok\":false}\n"),
    ]
    try withPeer(script) { peer in
      let vm = vm(peer)
      #expect(problem { try vm.run() } == .refused("because"))
      #expect(problem { try vm.run() } == .refused("because"))
      #expect(problem { try vm.pause() } == .pending("because"))
      #expect(problem { try vm.run() } == .failed("because"))
      #expect(problem { try vm.run() } == .failed("no reason given"))
    }
  }

  @Test("A run that was not answered counts as one that may have happened; a refused one does not")
  func meaning() {
    let error = { (problem: VMMError.Problem) in
      VMMError(vmName: "web1", verb: .run, address: "microvm:/s", problem: problem)
    }
    #expect(error(.refused("no")).isCertainlyWithoutEffect)
    for problem: VMMError.Problem in [
      .failed("x"), .pending("x"), .silent("x"), .unreachable("x"), .garbled("x"),
    ] {
      #expect(!error(problem).isCertainlyWithoutEffect)
      #expect(error(problem).description.contains("must be treated as running"))
    }
    #expect(
      error(.refused("it is paused")).description
        == "could not start VM \"web1\" (microvm:/s): it refused: it is paused. "
        + "Nothing changed at the VM.")
  }

  @Test("A silent peer ends the call at our own deadline, and the next call connects anew")
  func silence() throws {
    let script: [Act] = [
      .read, .hangUp,  // only to keep the first connection unanswered until the second comes
      .read, .say("{\"ok\":true}\n"),
    ]
    try withPeer([.read, .stay]) { peer in
      let vm = vm(peer, Self.impatient)
      #expect(problem { try vm.pause() } == .silent("no answer from \(peer.path) in time"))
    }
    try withPeer(script) { peer in
      let vm = vm(peer)
      #expect(
        problem { try vm.run() } == .unreachable("\(peer.path) closed the connection"))
      try vm.run()
      #expect(peer.lines.count == 2)
    }
  }

  @Test("An end of file in a line, garbage, and nobody at all are errors that say so")
  func garbage() throws {
    let script: [Act] = [
      .read, .say("{\"ok\":tr"), .hangUp, .read, .say("HTTP/1.1 400 Bad Request\r\n"), .hangUp,
      .read, .say("[1,2]\n"), .hangUp, .read, .say("\n"),
    ]
    try withPeer(script) { peer in
      let vm = vm(peer)
      let path = peer.path
      let closed = "\(path) closed the connection after 8 bytes of an unfinished line"
      #expect(problem { try vm.run() } == .unreachable(closed))
      for excerpt in [#""HTTP/1.1 400 Bad Request\r""#, #""[1,2]""#, #""""#] {
        let text = "\(path) sent something else than asked: \(excerpt)"
        #expect(problem { try vm.run() } == .garbled(text))
      }
    }
    let nobody = MicroVM(vmName: "web1", socketPath: "/tmp/postcopy-no-such-socket")
    let error = SystemError("connect", "/tmp/postcopy-no-such-socket", .noSuchEntry)
    #expect(problem { try nobody.run() } == .unreachable("\(error)"))
    let long = MicroVM(vmName: "web1", socketPath: "/" + String(repeating: "x", count: 200))
    guard case .unreachable = problem({ try long.run() }) else {
      Issue.record("a path that is too long is no address")
      return
    }
  }

  @Test("A line that never ends is cut off at its limit, and two lines in one piece are two")
  func lines() throws {
    let script: [Act] = [
      .say("{\"a\":1}\n{\"b\""), .say(":2}\n"), .say(String(repeating: "x", count: 5000)), .stay,
    ]
    try withPeer(script) { peer in
      let deadline = MonotonicClock.now().advanced(byNanoseconds: 10_000_000_000)
      let client = JSONLineClient(
        stream: try LocalStream.connect(peer.path, deadline: deadline), maximumLineByteCount: 1000)
      #expect(try client.receiveLine(deadline: deadline) == Array(#"{"a":1}"#.utf8))
      #expect(try client.receiveLine(deadline: deadline) == Array(#"{"b":2}"#.utf8))
      #expect(throws: JSONLineError.lineTooLong(path: peer.path, maximumByteCount: 1000)) {
        try client.receiveLine(deadline: deadline)
      }
    }
  }

  @Test("kill ends the very process that answered, also when it does not answer any more")
  func kill() throws {
    let child = try ChildProcess("/bin/sleep", ["60"])
    let pid = child.pid
    let reply = #"{"ok":true,"state":"paused","pid":\#(pid)}"# + "\n"
    try withPeer([.read, .say(reply), .hangUp]) { peer in
      let vm = vm(peer)
      _ = try vm.status()
      try vm.kill()
      #expect(try #require(child.waitForEnd()) & 0x7F == SIGKILL)
      try vm.kill()
    }
  }
}

@Suite("--vmm")
struct VMMSelectionTests {
  @Test("none and microvm are front ends; what comes later is said to")
  func parse() throws {
    #expect(try VMMSelection.parse("none") == .none)
    #expect(
      try VMMSelection.parse("microvm:/run/a:b.sock") == .microvm(socketPath: "/run/a:b.sock"))
    #expect("\(try VMMSelection.parse("microvm:/a"))" == "microvm:/a")
    for name in ["qemu", "firecracker", "exec"] {
      #expect(throws: VMMSelectionError.laterVersion(name: name)) {
        try VMMSelection.parse(name + ":/x")
      }
    }
    #expect(throws: VMMSelectionError.missingAddress(name: "microvm")) {
      try VMMSelection.parse("microvm:")
    }
    #expect(throws: VMMSelectionError.unexpectedAddress(name: "none")) {
      try VMMSelection.parse("none:/x")
    }
    #expect(throws: VMMSelectionError.unknown("xen:/x")) { try VMMSelection.parse("xen:/x") }
    #expect("\(VMMSelectionError.laterVersion(name: "qemu"))".contains("later version"))
  }

  @Test("Without a VMM nothing is paused, and device state has nowhere to go")
  func none() throws {
    let vm = VMMSelection.none.makeFrontEnd(vmName: "web1")
    try vm.pause()
    try vm.loadDeviceState(try vm.saveDeviceState())
    #expect(try vm.status().state == .none)
    #expect(throws: VMMError.self) { try vm.loadDeviceState([1]) }
  }
}
