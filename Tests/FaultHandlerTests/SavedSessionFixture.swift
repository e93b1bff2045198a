import Foundation
import Migration
import Pages
import Session
import System
import Testing
import UFFD
import Uring
import VMM
import Wire

@testable import FaultHandler

/// A VMM that answers as the test says; nil is no answer.
final class ScriptedFrontEnd: VMMFrontEnd {
  let vmName = "web"
  private let state: VMMState?
  private let runs = Lock(0)
  /// How often it was told to let the VM run.
  var runCount: Int { runs.withLock { $0 } }

  init(_ state: VMMState?) { self.state = state }

  func status() throws(VMMError) -> VMMStatus {
    guard let state else {
      throw VMMError(
        vmName: vmName, verb: .status, address: "script", problem: .silent("no answer"))
    }
    return VMMStatus(state: state)
  }

  func pause() throws(VMMError) {}
  func resume() throws(VMMError) {}
  func saveDeviceState() throws(VMMError) -> [UInt8] { [] }
  func loadDeviceState(_ state: [UInt8]) throws(VMMError) {}
  func run() throws(VMMError) { runs.withLock { $0 += 1 } }
  func disable() throws(VMMError) {}
  func kill() throws(VMMError) {}
}

/// Another process, which may be ended in a VMM's place.
final class SleepingProcess {
  let handle: ProcessHandle
  /// Where it has memory of its own.
  let memoryBase: UInt64
  private let process = Process()

  init() throws {
    process.executableURL = URL(filePath: "/bin/sleep")
    process.arguments = ["3600"]
    try process.run()
    handle = try ProcessHandle.open(pid: process.processIdentifier)
    let stack = try ProcessMapping.current(ofPID: process.processIdentifier)
      .first { $0.name == "[stack]" }
    memoryBase = try #require(stack).addresses.lowerBound
  }

  /// The signal that has ended it; nil when none has.
  func endingSignal() -> Int32? {
    process.waitUntilExit()
    return process.terminationReason == .uncaughtSignal ? process.terminationStatus : nil
  }

  deinit { if process.isRunning { try? handle.kill() } }
}

/// What a process that died has left of a session whose VMM is this very process: journal, page
/// states, and where the memory is. No test may let such a session end its VMM, unless it has given
/// another process for that.
final class SavedSessionFixture {
  static let id = ScriptedSource.session
  static let base = Epoch(rawValue: 4)
  static let handed = Epoch(rawValue: 5)
  static let opened = DestinationRecord.opened(session: id, epoch: base, mode: .postCopy)
  static let prepared = DestinationRecord.prepared(epoch: base)
  static let goAccepted = DestinationRecord.goAccepted(epoch: handed)
  static let ran = DestinationRecord.ran(epoch: handed)

  let root: String
  let name: VMName
  let directory: StateDirectory
  let guest: GuestMemory
  let token: SessionToken
  private let userfault: UserfaultDescriptor
  private(set) var notes = Notes()

  /// What the session told.
  final class Notes {
    var all: [DestinationNote] = []
    var warnings: [String] {
      all.compactMap { if case .warning(let text) = $0 { text } else { nil } }
    }
  }

  /// - Parameters:
  ///   - seedsInPlace: whether seeds went into the memory itself.
  ///   - stagedPages: pages whose seeds nobody has settled.
  ///   - vmm: who is taken for the VMM, and some of its memory for the VM's; nil: this process.
  init(
    _ records: [DestinationRecord], pageCount: Int = 8, seedsInPlace: Bool = false,
    stagedPages: Range<Int> = 0..<0, vmm: SleepingProcess? = nil
  ) throws {
    // Page states live on tmpfs.
    root = "/dev/shm/saved-session-\(ProcessInfo.processInfo.globallyUniqueString)"
    name = try VMName("web")
    directory = StateDirectory(statePath: root + "/state", runPath: root + "/run")
    token = try #require(SessionToken(bytes: [UInt8](repeating: 3, count: 32)))
    userfault = try UserfaultDescriptor(requiring: [.removeEvents])
    guest = try GuestMemory(pageCount: pageCount, userfault: userfault.handle)
    try directory.prepare(vm: name)
    try directory.prepare(session: Self.id)
    let attached = try PlaneFixture.attach([guest], userfault, at: root + "/attach.sock")
    var saved = SavedAttachment(attached, userfaultNumber: userfault.handle.rawValue)
    let identity = try vmm?.handle.identity ?? ProcessIdentity.current()
    if let vmm {
      saved.pid = identity.pid
      saved.startTicks = identity.startTicks
      saved.regions[0].base_host_virt_addr = vmm.memoryBase
    }
    if seedsInPlace { saved.seedsInPlace = true }
    try saved.write(directory.attachmentPath(of: Self.id))
    let states = MappedPageStates(
      try PageStateFile.create(
        directory.pageStatePath(of: Self.id), session: Self.id, pageCount: PageCount(pageCount)))
    for page in stagedPages { states.store(PageState.staged.rawValue, at: page) }
    var journal = try DestinationJournal.open(vm: name, in: directory)
    let binding = VMBinding(
      vmName: name, boot: try BootID.current(), vmm: identity, memory: nil)
    for record in records { try journal.append(record, binding: binding) }
  }

  deinit {
    // Nobody reads events any more: unmapping a registered range would wait for ever.
    try? userfault.handle.unregister(guest.range)
    try? FileManager.default.removeItem(atPath: root)
  }

  var source: Endpoint { .unix(path: root + "/source.sock") }

  func configuration(_ frontEnd: ScriptedFrontEnd) -> DestinationConfiguration {
    var configuration = DestinationConfiguration(
      vmName: name, attachPath: root + "/attach.sock", frontEnd: frontEnd, sources: [source],
      security: .insecure, token: token, directory: directory)
    configuration.faultPlacement = ThreadPlacement()
    // A played source sends no heartbeats.
    configuration.heartbeatBudgetNanoseconds = 3_600_000_000_000
    return configuration
  }

  /// The session, taken up by this process. `isKept`: with the userfaultfd that somebody has kept.
  func recover(
    _ frontEnd: ScriptedFrontEnd, keeping isKept: Bool = false
  ) throws -> DestinationSession {
    let notes = notes
    let kept = isKept ? try userfault.duplicate() : nil
    return try DestinationSession(recovering: configuration(frontEnd), userfault: kept) {
      notes.all.append($0)
    }
  }
}

extension DestinationSession {
  /// Stops it with everything kept; what came of it.
  func parkNow() throws -> DestinationResult {
    handle(DestinationEvent.operatorPark)
    try #require(outcome != nil)
    return close()
  }
}
