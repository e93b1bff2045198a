import Migration
import Pages
import System
import Testing
import UFFD
import Uring
import Wire

@testable import FaultHandler

/// An attached guest, a data plane and the source that a test plays.
final class PlaneFixture {
  let directory: TemporaryDirectory
  let userfault: UserfaultDescriptor
  let regions: [GuestMemory]
  let memory: AttachedMemory
  let plane: DestinationDataPlane
  let source: ScriptedSource
  private var isEnded = false

  struct Shape {
    var pageCounts = [64]
    var pageSize = PageSize.small
    var isShared = false
    var bulkCount = 1
    var limitByteCount: Int?
    var takesSeeds = false
    /// The memory's file is sent along; the memory is shared then.
    var sendsFile = false
    /// Where seeds go whatever there is to be said about it; nil: where they can.
    var placement: SeedPlacement?
    var features: UserfaultFeatures = [.removeEvents]
    /// A played source sends no heartbeats.
    var heartbeatBudgetNanoseconds: UInt64 = 3_600_000_000_000
  }

  init(_ shape: Shape = Shape(), startsFaults: Bool = true) throws {
    directory = try TemporaryDirectory()
    userfault = try UserfaultDescriptor(requiring: shape.features)
    let handle = userfault.handle
    regions = try shape.pageCounts.map {
      try GuestMemory(
        pageCount: $0, pageSize: shape.pageSize, isShared: shape.isShared || shape.sendsFile,
        userfault: handle, limitByteCount: shape.limitByteCount)
    }
    memory = try Self.attach(
      regions, userfault, at: directory.file("attach.sock"),
      file: shape.sendsFile ? regions[0].fileNumber : nil)
    let placement = shape.placement ?? memory.seedPlacement()
    let states = MappedPageStates(
      try MemoryMapping(
        anonymousByteCount: Int(memory.document.layout.totalPageCount.rawValue)))
    plane = try DestinationDataPlane(
      memory: memory, ledger: PageLedger(fresh: states), session: ScriptedSource.session,
      seeds: shape.takesSeeds ? placement : nil,
      heartbeatBudgetNanoseconds: shape.heartbeatBudgetNanoseconds,
      faultPlacement: ThreadPlacement())
    source = try Self.link(plane, bulkCount: shape.bulkCount, tellsResidency: false)
    if startsFaults { try plane.startFaults() }
  }

  /// A new link for the plane; its other ends.
  static func link(
    _ plane: DestinationDataPlane, bulkCount: Int, tellsResidency: Bool
  ) throws -> ScriptedSource {
    let (urgentHere, urgentThere) = try ScriptedSource.pair(.urgent)
    var here: [Connection] = []
    var there: [Connection] = []
    for _ in 0..<bulkCount {
      let (left, right) = try ScriptedSource.pair(.bulk)
      here.append(left)
      there.append(right)
    }
    plane.attachUrgent(urgentHere)
    try plane.attachBulk(here, tellsResidency: tellsResidency)
    return ScriptedSource(urgent: urgentThere, bulk: there)
  }

  deinit {
    if !isEnded { plane.stop() }
    // Nobody reads events any more: unmapping a registered range would wait for ever.
    for region in regions { try? userfault.handle.unregister(region.range) }
  }

  var guest: GuestMemory { regions[0] }

  /// Hands the regions over as Firecracker does.
  static func attach(
    _ regions: [GuestMemory], _ userfault: borrowing UserfaultDescriptor, at path: String,
    file: Int32? = nil
  ) throws -> AttachedMemory {
    let listener = try AttachListener(path: path)
    let client = try HandOffClient(path: path)
    var offset = 0
    var elements: [String] = []
    for region in regions {
      elements.append(
        "{\"base_host_virt_addr\":\(region.start),\"size\":\(region.byteCount),"
          + "\"offset\":\(offset),\"page_size\":\(region.pageSize.byteCount)}")
      offset += region.byteCount
    }
    try client.send(
      "[" + elements.joined(separator: ",") + "]",
      [userfault.handle.rawValue] + (file.map { [$0] } ?? []))
    guard let attached = try listener.attach() else {
      throw AttachError.descriptorNeverCame
    }
    return attached
  }

  /// A read of one word by a thread of the guest.
  func reader(page: Int, region: Int = 0) throws -> GuestThread<UInt64> {
    let guest = regions[region]
    return try GuestThread { guest.word(page: page) }
  }

  /// The next event of the plane, skipping those that a test does not ask about.
  func event(where isWanted: (DataPlaneEvent) -> Bool) throws -> DataPlaneEvent {
    while true {
      let event = try #require(plane.events.receive())
      if isWanted(event) { return event }
    }
  }

  /// What the session does until the VM runs.
  func startFaults() throws {
    try plane.startFaults()
    plane.installSeeds()
  }

  func awaitAllResident() throws {
    _ = try event { if case .allResident = $0 { true } else { false } }
  }

  func finish() throws {
    try plane.unregister()
    stop()
  }

  func stop() {
    plane.stop()
    isEnded = true
  }

  func count(of state: PageState) -> Int {
    plane.statistics().pageCountByState[Int(state.rawValue)]
  }
}
