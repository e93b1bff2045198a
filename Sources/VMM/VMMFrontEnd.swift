/// What a VM does, as its VMM tells.
public enum VMMState: String, CaseIterable, Hashable, Sendable {
  /// Waits for device state at the destination.
  case incoming
  /// Has its state; no vCPU runs.
  case paused
  /// Runs.
  case running
  /// Was asked to pause; at least one vCPU waits for a page and has not stopped.
  case pausing
  /// Its work is done and it stopped by itself.
  case finished
  /// The guest found something wrong with its own memory and stopped.
  case guestError = "guest-error"
  /// Will never run again.
  case disabled
  /// There is no VMM process behind this front end: a snapshot.
  case none
}

/// A VM's state and how far its guest came.
public struct VMMStatus: Hashable, Sendable {
  /// What the VM does.
  public var state: VMMState
  /// The VMM's process; nil where there is none.
  public var pid: Int32?
  /// How many vCPUs the VM has; nil where the VMM does not tell.
  public var vcpuCount: Int?
  /// Operations that the guest completed; nil where it does not count, or the counter's page is
  /// not here yet.
  public var operationCount: UInt64?
  /// How many of its pages the guest found wrong.
  public var mismatchCount: Int

  /// A status with all its parts.
  public init(
    state: VMMState, pid: Int32? = nil, vcpuCount: Int? = nil, operationCount: UInt64? = nil,
    mismatchCount: Int = 0
  ) {
    self.state = state
    self.pid = pid
    self.vcpuCount = vcpuCount
    self.operationCount = operationCount
    self.mismatchCount = mismatchCount
  }
}

/// A VMM as the engine drives it. Every call blocks, for a bounded time; none may be made on a
/// thread that resolves faults, because loading state and even pausing can wait for a page.
public protocol VMMFrontEnd: Sendable {
  /// The VM's name, for messages.
  var vmName: String { get }
  /// Whether the VMM may be asked to pause while a vCPU waits for a page: it answers in time even
  /// then, and can be asked for other things afterwards.
  var pausesBesideFaults: Bool { get }
  /// Whether `pause` ends with no block I/O under way: what was begun has landed in guest memory,
  /// and nothing more is begun before `resume`.
  var pauseDrainsBlockIO: Bool { get }
  /// The VMM's own record of written pages; nil where it keeps none.
  var dirtyLog: (any DirtyLog)? { get }
  /// What slows its guest down; nil where nothing does.
  var throttle: (any ProcessorThrottle)? { get }
  /// Does ahead of a pause what would make it longer: connects, say. What fails here fails again,
  /// and is told, where it matters. The VM need not be there yet.
  func prepare()
  /// Stops every vCPU. After an error the VM may still come to a stop by itself: `resume` it.
  func pause() throws(VMMError)
  /// Lets a paused VM run on; cancels a pause that is not complete. Running already is fine.
  func resume() throws(VMMError)
  /// The state of vCPUs and devices of the paused VM, opaque to us.
  func saveDeviceState() throws(VMMError) -> [UInt8]
  /// Loads what `saveDeviceState` gave into a VM that waits for it. It reads guest memory: the
  /// faults must be served meanwhile, on another thread.
  func loadDeviceState(_ state: [UInt8]) throws(VMMError)
  /// Starts the loaded VM. Look at `VMMError.isCertainlyWithoutEffect` before thinking that it
  /// does not run.
  func run() throws(VMMError)
  /// Makes the VM unable to run for ever; its memory stays.
  func disable() throws(VMMError)
  /// Ends the VMM's process and returns when no thread of it runs any more.
  func kill() throws(VMMError)
  /// The VM's state. May be called beside another verb, from another thread.
  func status() throws(VMMError) -> VMMStatus
}

extension VMMFrontEnd {
  /// Unless a front end knows better: QEMU's `stop` does not answer before the page has come, and
  /// its control socket is of no use until then.
  public var pausesBesideFaults: Bool { false }
  /// Unless a front end knows better.
  public var pauseDrainsBlockIO: Bool { false }
  /// Unless a front end knows better.
  public var dirtyLog: (any DirtyLog)? { nil }
  /// Unless a front end knows better.
  public var throttle: (any ProcessorThrottle)? { nil }
  /// Unless a front end has something to prepare.
  public func prepare() {}
}
