internal import Pages
internal import System
internal import UFFD

/// A guest's memory, registered so that the kernel notes for others what is written: for
/// PAGEMAP_SCAN by whoever may look into this process (Linux 6.7). As long as this lives.
final class WriteRegistration: Sendable {
  private let userfault: UserfaultDescriptor

  /// Registers all of the memory; each first write to a page that was looked at costs a fault.
  init(_ memory: GuestMemory) throws(UFFDError) {
    userfault = try UserfaultDescriptor(requiring: [
      .writeProtectFaults, .writeProtectSharedMemory, .writeProtectUnpopulated,
      .asynchronousWriteProtect,
    ])
    for mapped in memory.regions {
      let range = HostRange(
        start: HostAddress(rawValue: mapped.hostAddress), byteCount: mapped.region.byteCount)
      _ = try userfault.handle.register(range, modes: .writeProtect)
    }
  }
}
