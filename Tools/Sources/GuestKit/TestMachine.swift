internal import CGuestProgram
internal import FoundationEssentials
internal import Glibc
public import Pages
public import System
internal import UFFD

/// How a test VMM is made.
public struct MachineOptions: Sendable {
  /// Guest memory; a multiple of 2 MiB.
  public var memoryByteCount: UInt64 = 512 << 20
  /// 1 to 4.
  public var vcpuCount = 2
  /// How many mappings the memory is made of.
  public var regionCount = 1
  /// The pages that back the memory.
  public var pageSize = PageSize.small
  /// What the memory is made of.
  public var backing = MemoryBacking.memfd
  /// What runs the guest.
  public var guest = GuestKind.kvm
  /// How the guest visits its pages. A destination's comes with its memory.
  public var pattern = AccessPattern("random-write")!
  /// Mixed into all content.
  public var seed: UInt64 = 1
  /// Of 100 data pages, how many are written before the start.
  public var fillPercent = 75
  /// How much of a page that holds content no compressor makes less of, in percent.
  public var noisePercent = 0
  /// How pages are given back; nil for what suits the backing.
  public var removal: RemovalMethod?
  /// Whether the kernel notes what is written, for whoever looks with PAGEMAP_SCAN.
  public var tracksWrites = false
  /// Pages of guest memory into which a disk reads; 0 for none.
  public var bufferPageCount = 0
  /// The file of a disk that reads into them; nil for none.
  public var diskPath: String?
  /// Whether this is a destination: memory stays untouched, vCPU state comes later.
  public var isIncoming = false

  /// A 512 MiB guest with two vCPUs.
  public init() {}
}

/// Why a test VMM could not be made.
public enum MachineError: Error, Sendable, CustomStringConvertible {
  /// The kernel refused something.
  case system(SystemError)
  /// The guest cannot have this shape.
  case shape(GuestShapeError)
  /// Options that do not go together.
  case options(String)

  /// One sentence.
  public var description: String {
    switch self {
    case .system(let error): "\(error)"
    case .shape(let error): "\(error)"
    case .options(let reason): reason
    }
  }
}

/// A VMM with one guest: its memory, its vCPUs, and the rules of when it may run.
///
/// All verbs may be called from several threads at once. What waits (for vCPUs, for pages) waits
/// without a lock that `status` needs.
public final class TestMachine: Sendable {
  /// What it was made with.
  public let options: MachineOptions
  /// The guest's memory.
  public let memory: GuestMemory
  let layout: GuestLayout
  let engine: any GuestEngine
  let throttle: VcpuThrottle
  let removal: RemovalMethod
  private let disk: GuestDisk?
  let state: Lock<State>

  struct State {
    /// False in a destination that has no vCPU state yet.
    var hasVcpuState: Bool
    var isDisabled = false
    /// A verb that needs the guest to stay stopped until it is done.
    var heldBy: String?
    var attachment: HandlerAttachment?
    var writeRegistration: WriteRegistration?
  }

  /// Maps the memory and makes the vCPUs; a source's memory is filled as well. Nothing runs yet.
  public init(_ options: MachineOptions) throws(MachineError) {
    self.options = options
    removal = options.removal ?? (options.backing.isShared ? .remove : .dontNeed)
    guard options.backing.isShared || removal == .dontNeed else {
      throw .options("private memory has no file to punch holes into: use --remove-by dontneed")
    }
    guard options.regionCount >= 1,
      UInt64(options.regionCount) <= options.memoryByteCount / UInt64(PageSize.huge.byteCount)
    else { throw .options("each region has at least 2 MiB: \(options.regionCount) do not fit") }
    do throws(GuestShapeError) {
      layout = try GuestLayout(
        byteCount: options.memoryByteCount, vcpuCount: options.vcpuCount,
        pageSize: options.pageSize, seed: options.seed,
        removedMayKeep: options.backing.isShared,
        noiseWordCount: GuestLayout.maximumNoiseWordCount * options.noisePercent / 100,
        bufferPageCount: options.bufferPageCount)
    } catch {
      throw .shape(error)
    }
    do throws(SystemError) {
      memory = try GuestMemory(
        byteCount: options.memoryByteCount, regionCount: options.regionCount,
        pageSize: options.pageSize, backing: options.backing)
    } catch { throw .system(error) }
    disk = try Self.openDisk(options, memory, layout)
    let readerCount = disk == nil ? 0 : GuestDisk.readerCount
    do throws(SystemError) {
      engine =
        switch options.guest {
        case .kvm:
          try KvmMachine(
            memory: memory, layout: layout, removal: removal, readerCount: readerCount)
        case .process:
          try ProcessGuest(
            memory: memory, layout: layout, removal: removal, readerCount: readerCount)
        }
      throttle = VcpuThrottle(engine.gate)
      if !options.isIncoming {
        ImageBuilder(
          layout: layout, pattern: options.pattern, fillPercent: options.fillPercent
        ).build(in: memory)
        try engine.resetToEntry()
      }
      state = Lock(State(hasVcpuState: !options.isIncoming))
      try engine.startThreads()
      try disk?.startThreads(engine.gate, dirtyLog: (engine as? KvmMachine)?.dirtyLog)
      // New threads park before they run anything, so this cannot wait for a page.
      _ = engine.gate.state.wait(until: nil) { $0.isAllParked ? true : nil }
    } catch {
      throw .system(error)
    }
    guard options.tracksWrites else { return }
    do throws(UFFDError) {
      let registration = try WriteRegistration(memory)
      state.withLock { $0.writeRegistration = registration }
    } catch {
      throw .options("writes cannot be tracked: \(error)")
    }
  }

  // The threads hold the engine, not this object: without an order they would park for ever.
  deinit {
    engine.gate.ask(.leave)
    engine.joinThreads()
    disk?.joinThreads()
    throttle.join()
  }

  private static func openDisk(
    _ options: MachineOptions, _ memory: GuestMemory, _ layout: GuestLayout
  ) throws(MachineError) -> GuestDisk? {
    guard let path = options.diskPath else { return nil }
    do throws(DiskError) {
      return try GuestDisk(path: path, memory: memory, layout: layout)
    } catch { throw .options("\(error)") }
  }

  /// What the guest does now.
  public enum Activity: String, Sendable {
    /// A destination without vCPU state.
    case incoming
    /// No vCPU runs, and the disk reads nothing.
    case paused
    /// vCPUs run.
    case running
    /// Asked to stop; at least one vCPU has not, or a read of the disk is under way.
    case pausing
    /// Every vCPU has done its operations.
    case finished
    /// The guest saw something wrong, and all of it has stopped.
    case guestError = "guest-error"
    /// It never runs again.
    case disabled
  }

  /// What the guest does now.
  public var activity: Activity {
    let (hasVcpuState, isDisabled) = state.withLock { ($0.hasVcpuState, $0.isDisabled) }
    return engine.gate.state.withLock { gate in
      if isDisabled { return gate.hasLeft.allSatisfy(\.self) ? .disabled : .pausing }
      if !hasVcpuState { return .incoming }
      if !gate.mismatches.isEmpty { return gate.isAllParked ? .guestError : .pausing }
      if gate.isFinished.allSatisfy(\.self) { return .finished }
      if gate.wish == .run { return .running }
      return gate.isAllParked ? .paused : .pausing
    }
  }

  /// Whether this process may make virtual machines of KVM here.
  public static var isKVMAvailable: Bool { KvmMachine.isAvailable }

  /// Waits until the guest has finished or failed. False when the limit came first.
  public func waitUntilStopped(until deadline: Instant) -> Bool {
    engine.gate.state.wait(until: deadline) { gate in
      let isOver = !gate.mismatches.isEmpty || gate.isFinished.allSatisfy(\.self)
      return isOver && gate.isAllParked ? true : nil
    } ?? false
  }

  /// What the guest found wrong.
  public var mismatches: [Mismatch] { engine.gate.state.withLock(\.mismatches) }
}
