/// The front end of a VM that no process runs: a snapshot file is moved, nothing is paused, and the
/// device state travels with the file's owner.
public struct NoVMM: VMMFrontEnd {
  /// The VM's name.
  public let vmName: String

  /// Nothing to drive for the VM of that name.
  public init(vmName: String) { self.vmName = vmName }

  /// Nothing runs.
  public func pause() throws(VMMError) {}
  /// Nothing was paused.
  public func resume() throws(VMMError) {}
  /// No bytes.
  public func saveDeviceState() throws(VMMError) -> [UInt8] { [] }
  /// Takes the empty state of `saveDeviceState`. State that some VMM saved has nowhere to go.
  public func loadDeviceState(_ state: [UInt8]) throws(VMMError) {
    guard state.isEmpty else {
      throw VMMError(
        vmName: vmName, verb: .loadDeviceState, address: "none",
        problem: .refused(
          "\(state.count) bytes of device state came, and \"--vmm none\" has no VMM to take them"))
    }
  }
  /// Nothing to start: whoever attached runs by itself.
  public func run() throws(VMMError) {}
  /// A file cannot run.
  public func disable() throws(VMMError) {}
  /// No process.
  public func kill() throws(VMMError) {}
  /// Always `VMMState.none`.
  public func status() throws(VMMError) -> VMMStatus { VMMStatus(state: .none) }
}
