import Foundation
import Pages
import Session
import System
import Testing
import VMM
import Wire

@testable import PageServer

/// A VMM that notes what it is asked, and whose answers a test says.
final class ScriptedVMM: VMMFrontEnd {
  struct State {
    var vm = VMMState.running
    var asked: [VMMVerb] = []
    var failingPauses = 0
    var failingResumes = 0
    /// Pauses that are not answered; the last is carried out once the VM has been seen to run as
    /// often as `latePauseStatuses` says.
    var silentPauses = 0
    var silentResumes = 0
    var refusedResumes = 0
    var failingStatuses = 0
    /// Those that come while it stands still.
    var failingStatusesWhenPaused = 0
    var latePauseStatuses: Int?
  }

  let vmName = "test"
  let pauseDrainsBlockIO: Bool
  let state = Lock(State())
  /// Called in each pause and each resume that is carried out.
  private let changed: @Sendable (_ isPaused: Bool) -> Void

  init(drains: Bool = true, changed: @escaping @Sendable (Bool) -> Void = { _ in }) {
    pauseDrainsBlockIO = drains
    self.changed = changed
  }

  var asked: [VMMVerb] { state.withLock(\.asked) }
  var vm: VMMState { state.withLock(\.vm) }

  func status() throws(VMMError) -> VMMStatus {
    let isFailing = state.withLock { state in
      if state.vm == .running, let count = state.latePauseStatuses {
        state.latePauseStatuses = count > 0 ? count - 1 : nil
        if count == 0 { state.vm = .paused }
      }
      state.failingStatuses -= 1
      if state.vm == .paused { state.failingStatusesWhenPaused -= 1 }
      return state.failingStatuses >= 0
        || state.vm == .paused && state.failingStatusesWhenPaused >= 0
    }
    if isFailing { throw error(.status, .silent("nothing")) }
    return VMMStatus(state: vm)
  }

  private func error(_ verb: VMMVerb, _ problem: VMMError.Problem) -> VMMError {
    VMMError(vmName: vmName, verb: verb, address: "test", problem: problem)
  }

  func pause() throws(VMMError) {
    let isSilent = state.withLock { state in
      state.silentPauses -= 1
      if state.silentPauses >= 0 { state.asked.append(.pause) }
      return state.silentPauses >= 0
    }
    if isSilent { throw error(.pause, .silent("nothing")) }
    let isFailing = state.withLock { state in
      state.asked.append(.pause)
      state.failingPauses -= 1
      // It may stop yet, as a VMM does that has not answered in time.
      if state.failingPauses >= 0 { state.vm = .pausing }
      return state.failingPauses >= 0
    }
    if isFailing {
      throw error(.pause, .pending("reads"))
    }
    changed(true)
    state.withLock { $0.vm = .paused }
  }

  func resume() throws(VMMError) {
    let problem: VMMError.Problem? = state.withLock { state in
      state.asked.append(.resume)
      state.failingResumes -= 1
      state.silentResumes -= 1
      state.refusedResumes -= 1
      if state.failingResumes >= 0 { return .failed("no") }
      if state.silentResumes >= 0 { return .silent("nothing") }
      return state.refusedResumes >= 0 ? .refused("no") : nil
    }
    if let problem { throw error(.resume, problem) }
    state.withLock { $0.vm = .running }
    changed(false)
  }

  func saveDeviceState() throws(VMMError) -> [UInt8] { [] }
  func loadDeviceState(_ state: [UInt8]) throws(VMMError) {}
  func run() throws(VMMError) {}
  func disable() throws(VMMError) {}
  func kill() throws(VMMError) {}
}

/// Directories of a test's own, removed with it.
final class TestDirectory {
  private let path = "/dev/shm/postcopy-test-\(getpid())-\(UUID().uuidString)"

  init() throws { try FileSystem.createDirectories(path, permissions: 0o700) }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  var state: StateDirectory { StateDirectory(statePath: path + "/state", runPath: path + "/run") }
}

@Suite("A pause for a look at what a VM writes")
struct LookPauseTests {
  private static let session = SessionID(high: 3, low: 4)
  private let directory: StateDirectory
  private let scratch: TestDirectory

  init() throws {
    scratch = try TestDirectory()
    directory = scratch.state
  }

  private func pause(of vm: ScriptedVMM, found: [PauseMark] = []) -> LookPause {
    LookPause(
      vm, session: Self.session, found: found, in: directory, watchNanoseconds: 300_000_000)
  }

  private var mark: PauseMark { PauseMark(ofLookIn: Self.session, in: directory) }

  private let failure = VMMError(
    vmName: "test", verb: .fetchDirtyLog, address: "test", problem: .failed("look"))

  @Test("stops the VM, looks, and lets it run on; the mark is there meanwhile")
  func straightWay() throws {
    let vm = ScriptedVMM()
    let pause = pause(of: vm)
    let found = try pause.during { () throws(VMMError) in
      #expect(vm.vm == .paused && mark.isSet && pause.owesResume)
      return 7
    }
    #expect(found == 7 && vm.asked == [.pause, .resume])
    #expect(!mark.isSet && !pause.owesResume)
    #expect(pause.earliestLook != nil)
    let stoodStill = pause.takeNanoseconds()
    #expect(stoodStill > 0 && pause.takeNanoseconds() == 0)
  }

  @Test("that fails lets the VM run on, and says why")
  func pauseFails() {
    let vm = ScriptedVMM()
    vm.state.withLock { $0.failingPauses = 1 }
    #expect {
      try pause(of: vm).during { () throws(VMMError) in Issue.record("there is no look") }
    } throws: {
      "\($0)".contains("block I/O could not be drained")
    }
    #expect(vm.asked == [.pause, .resume] && vm.vm == .running && !mark.isSet)
  }

  @Test("ends with a look that fails")
  func lookFails() {
    let vm = ScriptedVMM()
    #expect(throws: failure) {
      try pause(of: vm).during { () throws(VMMError) in throw failure }
    }
    #expect(vm.vm == .running && !mark.isSet)
  }

  @Test("leaves a VM alone that somebody else has paused")
  func pausedByOthers() throws {
    let vm = ScriptedVMM()
    vm.state.withLock { $0.vm = .paused }
    let pause = pause(of: vm)
    try pause.during { () throws(VMMError) in #expect(!mark.isSet) }
    #expect(vm.vm == .paused && vm.asked == [.pause] && pause.takeNanoseconds() == 0)
  }

  @Test("in which somebody lets the VM run is none")
  func resumedByOthers() {
    let vm = ScriptedVMM()
    #expect {
      try pause(of: vm).during { () throws(VMMError) in vm.state.withLock { $0.vm = .running } }
    } throws: {
      "\($0)".contains("somebody let it run")
    }
    #expect(vm.vm == .running && !mark.isSet)
  }

  @Test("is ended again and again, and owed where that fails, also by the next one")
  func resumeFails() throws {
    let vm = ScriptedVMM()
    let pause = pause(of: vm)
    vm.state.withLock { $0.failingResumes = 1 }
    try pause.during { () throws(VMMError) in }
    #expect(vm.asked == [.pause, .resume, .resume] && !pause.owesResume)
    vm.state.withLock { $0.failingResumes = 5 }
    #expect(throws: VMMError.self) { try pause.during { () throws(VMMError) in } }
    #expect(pause.owesResume && mark.isSet && vm.vm == .paused)
    try pause.during { () throws(VMMError) in }
    #expect(!pause.owesResume && !mark.isSet && vm.vm == .running)
  }

  @Test("that is not answered makes the look void, and the VM runs when it stops by that later")
  func latePause() throws {
    let vm = ScriptedVMM()
    // The third status is the second of the watch, when it has been resumed and seen to run.
    vm.state.withLock {
      $0.silentPauses = 1
      $0.latePauseStatuses = 2
    }
    let pause = pause(of: vm)
    #expect {
      try pause.during { () throws(VMMError) in Issue.record("there is no look") }
    } throws: {
      "\($0)".contains("block I/O could not be drained")
    }
    #expect(vm.vm == .running && vm.asked == [.pause, .resume, .resume])
    #expect(!mark.isSet && !pause.owesResume)
    // No look and no hand-over may follow.
    #expect(throws: VMMError.self) { try pause.requireCertainty() }
    #expect(throws: VMMError.self) {
      try pause.during { () throws(VMMError) in Issue.record("there is no look") }
    }
    #expect(vm.asked.count == 3)
  }

  @Test("whose end is not answered at once makes the look void: it may come behind a hand-over")
  func lateResume() {
    let vm = ScriptedVMM()
    vm.state.withLock { $0.silentResumes = 1 }
    let pause = pause(of: vm)
    #expect {
      try pause.during { () throws(VMMError) in }
    } throws: {
      "\($0)".contains("may yet resume it")
    }
    #expect(vm.vm == .running && vm.asked == [.pause, .resume, .resume])
    #expect(!mark.isSet && !pause.owesResume)
    #expect(throws: VMMError.self) { try pause.requireCertainty() }
  }

  @Test("leaves the mark where nobody can tell whether the VM runs on")
  func unseen() throws {
    let vm = ScriptedVMM()
    let pause = pause(of: vm)
    vm.state.withLock { $0.silentResumes = 1 }
    #expect(throws: VMMError.self) {
      try pause.during { () throws(VMMError) in vm.state.withLock { $0.failingStatuses = 2 } }
    }
    #expect(mark.isSet && pause.owesResume)
    // As the session does then.
    vm.state.withLock { $0.failingStatuses = 0 }
    try pause.resume()
    #expect(!mark.isSet && !pause.owesResume && vm.vm == .running)
  }

  @Test("of an earlier process is ended by the first one, and its mark goes")
  func found() throws {
    let vm = ScriptedVMM()
    let other = PauseMark(ofLookIn: SessionID(high: 3, low: 5), in: directory)
    try directory.prepareLookPauses()
    try other.set()
    vm.state.withLock { $0.vm = .paused }
    let pause = pause(of: vm, found: [other])
    #expect(pause.owesResume)
    try pause.during { () throws(VMMError) in #expect(mark.isSet && other.isSet) }
    #expect(vm.vm == .running && !mark.isSet && !other.isSet && !pause.owesResume)
    try pause.requireCertainty()
  }

  @Test(
    "in which the guest stops by itself is over: it is not our pause any more",
    arguments: [VMMState.guestError, .finished, .disabled])
  func stoppedByItself(state: VMMState) {
    let vm = ScriptedVMM()
    vm.state.withLock { $0.refusedResumes = 5 }
    let pause = pause(of: vm)
    #expect(throws: VMMError.self) {
      try pause.during { () throws(VMMError) in vm.state.withLock { $0.vm = state } }
    }
    #expect(vm.asked == [.pause, .resume] && !pause.owesResume && !mark.isSet)
    pause.oweResume()
    #expect(!pause.owesResume)
  }

  @Test("that goes on is told as well")
  func goesOn() {
    let vm = ScriptedVMM()
    let pause = pause(of: vm)
    vm.state.withLock { $0.failingResumes = 5 }
    #expect(throws: VMMError.self) { try pause.during { () throws(VMMError) in } }
    #expect(pause.owesResume && pause.takeNanoseconds() > 0 && pause.takeNanoseconds() > 0)
  }

  @Test("that cannot be noted does not begin")
  func noPlace() throws {
    let vm = ScriptedVMM()
    let nowhere = StateDirectory(statePath: "/dev/null/state", runPath: "/dev/null/run")
    let pause = LookPause(vm, session: Self.session, in: nowhere)
    #expect(throws: VMMError.self) { try pause.during { () throws(VMMError) in } }
    #expect(vm.asked == [] && !pause.owesResume)
  }
}
