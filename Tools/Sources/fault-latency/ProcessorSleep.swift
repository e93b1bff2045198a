internal import Glibc
internal import System

/// Whether idle processors sleep. Waking one takes a host between 5 µs and, in a VM on a busy host,
/// most of a millisecond, up to three times a fault: what is to be measured drowns in it.
enum ProcessorSleep {
  private static let path = "/dev/cpu_dma_latency"

  /// Prevents it until this process ends: while /dev/cpu_dma_latency is open with 0 written to it,
  /// an idle processor spins (Linux, Documentation/power/pm_qos_interface.rst), if the host has a
  /// driver that does what it is asked.
  static func prevent() throws {
    let driver = FileSystem.text(ofSmallFile: "/sys/devices/system/cpu/cpuidle/current_driver")
    guard let driver, driver != "none" else {
      throw BenchmarkError("idle processors cannot be kept awake: this host has no cpuidle driver")
    }
    let request = try OwnedDescriptor.open(path, flags: O_WRONLY)
    var latency: Int32 = 0
    // unsafe: as many bytes as the number has.
    let written = unsafe write(request.rawValue, &latency, MemoryLayout<Int32>.size)
    guard written == MemoryLayout<Int32>.size else { throw SystemError("write", path) }
    _ = request.release()
  }
}
