/// The number of a device as /proc writes it.
enum DeviceNumber {
  /// `major:minor`, put together as stat(2) does it; nil for anything else.
  static func parse(_ text: Substring, radix: Int) -> UInt64? {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2, let major = UInt64(parts[0], radix: radix),
      let minor = UInt64(parts[1], radix: radix)
    else { return nil }
    return (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12
      | minor & 0xff
  }
}
