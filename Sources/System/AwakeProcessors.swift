internal import Glibc

/// Idle processors of this host do not sleep for as long as this lives.
///
/// Waking one takes between 5 µs and, in a VM on a busy host, most of a millisecond. While
/// /dev/cpu_dma_latency is open with 0 written to it, an idle processor spins instead (Linux,
/// Documentation/power/pm_qos_interface.rst), if the host has a driver that does what it is asked.
/// It takes root or the right to write that file.
public struct AwakeProcessors: ~Copyable {
  private static let path = "/dev/cpu_dma_latency"
  private let request: OwnedDescriptor

  /// From now on.
  public init() throws(SystemError) {
    let request = try OwnedDescriptor.open(Self.path, flags: O_WRONLY)
    // One s32, in this host's byte order: 0 µs.
    try request.writeAll([0, 0, 0, 0], atOffset: 0, operand: Self.path)
    self.request = request
  }

  /// Whether this host has a driver that decides how its idle processors sleep.
  public static var haveDriver: Bool {
    let driver = FileSystem.text(ofSmallFile: "/sys/devices/system/cpu/cpuidle/current_driver")
    return driver != nil && driver != "none"
  }
}
