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

  func status() throws(VMMError) -> VMMStatus { VMMStatus(state: vm) }

  func pause() throws(VMMError) {
    let isFailing = state.withLock { state in
      state.asked.append(.pause)
      state.failingPauses -= 1
      // It may stop yet, as a VMM does that has not answered in time.
      if state.failingPauses >= 0 { state.vm = .pausing }
      return state.failingPauses >= 0
    }
    if isFailing {
      throw VMMError(vmName: vmName, verb: .pause, address: "test", problem: .pending("reads"))
    }
    changed(true)
    state.withLock { $0.vm = .paused }
  }

  func resume() throws(VMMError) {
    let isFailing = state.withLock { state in
      state.asked.append(.resume)
      state.failingResumes -= 1
      return state.failingResumes >= 0
    }
    if isFailing {
      throw VMMError(vmName: vmName, verb: .resume, address: "test", problem: .silent("nothing"))
    }
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

  private func pause(of vm: ScriptedVMM) -> LookPause {
    LookPause(vm, session: Self.session, in: directory)
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
    #expect(pause.takeNanoseconds() > 0 && pause.takeNanoseconds() == 0)
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

  @Test("that cannot be noted does not begin")
  func noPlace() throws {
    let vm = ScriptedVMM()
    let nowhere = StateDirectory(statePath: "/dev/null/state", runPath: "/dev/null/run")
    let pause = LookPause(vm, session: Self.session, in: nowhere)
    #expect(throws: VMMError.self) { try pause.during { () throws(VMMError) in } }
    #expect(vm.asked == [] && !pause.owesResume)
  }
}
