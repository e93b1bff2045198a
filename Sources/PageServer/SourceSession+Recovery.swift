internal import Migration
internal import Session
internal import System
internal import VMM
public import Wire

// A session that an earlier process began: its journal tells where it stands, and the memory that
// was frozen is still there.
extension SourceSession {
  /// Takes up the VM's last session where its journal leaves it: a VM that was not handed over is
  /// let run again, one that was is served on.
  ///
  /// A refusal has changed nothing: what the earlier process left stays as it is.
  public convenience init(
    recovering configuration: SourceConfiguration, observer: @escaping (SourceNote) -> Void
  ) throws(Refusal) {
    let preflight = try SourcePreflight(recovering: configuration) {
      observer(.leftThrottle($0))
    }
    let records = preflight.records
    let isCopy = preflight.backing is ExportBacking
    let observed =
      isCopy ? .gone : try Self.observe(preflight.binding, configuration.frontEnd)
    guard
      let core = SourceCore(
        recovering: records, vm: observed, limits: configuration.limits, isCopy: isCopy)
    else { throw Refusal(.journal, "the journal of the VM's last session is not understood") }
    let backing = preflight.backing
    try self.init(configuration, preflight, core, observer: observer)
    observer(.recovered(core.state))
    guard core.isHandedOff else { return }
    // It was frozen when it was handed over, and nothing has let it run since.
    do throws(MemoryError) { try backing.markFrozen() } catch {
      throw Refusal(.memory, "the frozen memory cannot be served any more: \(error)")
    }
    // The destination comes back with the layout that it was served before.
    linkLostAt = started
  }

  /// Whether the VM runs here. One whose process has ended does not, and never will.
  private static func observe(
    _ binding: VMBinding, _ frontEnd: any VMMFrontEnd
  ) throws(Refusal) -> ObservedVM {
    if let process = binding.vmm, !process.isAlive { return .gone }
    do throws(VMMError) {
      switch try frontEnd.status().state {
      case .running: return .running
      case .incoming, .paused, .pausing, .finished, .guestError, .none: return .stopped
      case .disabled: return .gone
      }
    } catch {
      throw Refusal(.vmm, "it cannot be seen whether the VM runs: \(error)")
    }
  }
}
