internal import Glibc
internal import System

/// At most one process of this host has a session of a VM on one side: page-server and postcopyd of
/// one VM may share a host (in tests and moves between processes), two page-servers may not.
public struct VMLock: ~Copyable, Sendable {
  private let lock: FileLock

  private init(_ lock: consuming FileLock) { self.lock = lock }

  /// Whether a process has a session of that VM on that side, looked at without disturbing it.
  public static func isHeld(
    vm name: VMName, side: JournalSide, in directory: StateDirectory
  ) -> Bool {
    FileLock.isHeld(directory.lockPath(ofVM: name, side: side))
  }

  /// Takes the VM's lock for this process, or says who has it. The kernel gives it back when the
  /// process ends, however it ends. The VM's directory must be prepared.
  public static func take(
    vm name: VMName, side: JournalSide, in directory: StateDirectory
  ) throws(StateError) -> VMLock {
    let outcome: FileLock.Outcome
    do throws(SystemError) {
      outcome = try FileLock.take(
        directory.lockPath(ofVM: name, side: side),
        holder: "pid \(getpid()) since \(WallClock.timestamp())")
    } catch {
      throw .system(error)
    }
    switch consume outcome {
    case .taken(let lock): return VMLock(lock)
    case .held(let holder): throw .busy(vmName: name.text, side: side, holder: holder)
    }
  }
}
