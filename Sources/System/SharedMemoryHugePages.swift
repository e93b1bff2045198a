/// Whether the kernel makes huge pages in files of shared memory by itself: one write of a few
/// bytes then makes 512 small pages present.
public enum SharedMemoryHugePages {
  /// The setting that counts for files on that device, in the kernel's words: "never", "always",
  /// "within_size" or "advise". nil when the device is no tmpfs that the process `pid` has mounted,
  /// nor the one of memfds.
  public static func setting(
    ofDevice device: UInt64, seenBy pid: Int32
  ) throws(SystemError) -> String? {
    let general = FileSystem.text(
      ofSmallFile: "/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    // A kernel without the file has no huge pages to give.
    let selected = general.map { Self.selected(in: $0) } ?? "never"
    if selected == "deny" { return "never" }
    if selected == "force" { return "always" }
    if try FileStatus.of(OwnedDescriptor.memory(label: "probe")).device == device {
      return selected
    }
    let mounts = try FileSystem.contents(ofSmallFile: "/proc/\(pid)/mountinfo")
    return mountSetting(ofDevice: device, in: String(decoding: mounts, as: UTF8.self))
  }

  /// The word in brackets; "unknown" when there is none.
  static func selected(in text: String) -> String {
    guard let start = text.firstIndex(of: "["), let end = text[start...].firstIndex(of: "]") else {
      return "unknown"
    }
    return String(text[text.index(after: start)..<end])
  }

  /// What the mount of a tmpfs says, in the words of /proc/PID/mountinfo; nil when none is of that
  /// device.
  static func mountSetting(ofDevice device: UInt64, in text: String) -> String? {
    for line in text.split(separator: "\n") {
      let fields = line.split(separator: " ")
      guard fields.count > 3, DeviceNumber.parse(fields[2], radix: 10) == device,
        let dash = fields.firstIndex(of: "-"), dash + 3 < fields.count,
        fields[dash + 1] == "tmpfs"
      else { continue }
      let option = fields[dash + 3].split(separator: ",").first { $0.hasPrefix("huge=") }
      return option.map { String($0.dropFirst("huge=".count)) } ?? "never"
    }
    return nil
  }
}
