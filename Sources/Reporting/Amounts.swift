/// Numbers as people read them: three significant digits and a unit that fits.
public enum Amounts {
  /// "740 ns", "12.3 µs", "4.05 ms", "1.20 s", "3 min 20 s".
  public static func duration(nanoseconds: UInt64) -> String {
    switch nanoseconds {
    case ..<1000: return "\(nanoseconds) ns"
    case ..<999_500: return threeDigits(nanoseconds, per: 1000) + " µs"
    case ..<999_500_000: return threeDigits(nanoseconds, per: 1_000_000) + " ms"
    case ..<99_950_000_000: return threeDigits(nanoseconds, per: 1_000_000_000) + " s"
    default:
      let seconds = (nanoseconds + 500_000_000) / 1_000_000_000
      return "\(seconds / 60) min \(seconds % 60) s"
    }
  }

  /// "512 B", "1.50 KiB", "402 MiB".
  public static func bytes(_ count: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    var unit = 0
    // 999.5 of a unit would round to four digits.
    while unit + 1 < units.count, Double(count) / Double(1 << UInt64(10 * unit)) >= 999.5 {
      unit += 1
    }
    if unit == 0 { return "\(count) B" }
    return threeDigits(count, per: 1 << UInt64(10 * unit)) + " " + units[unit]
  }

  /// "95.6 MiB/s".
  public static func rate(bytesPerSecond: UInt64) -> String { bytes(bytesPerSecond) + "/s" }

  /// "131 072": digits in groups of three.
  public static func count(_ number: UInt64) -> String {
    let digits = Array(String(number))
    var text = ""
    for (position, digit) in digits.enumerated() {
      if position > 0, (digits.count - position) % 3 == 0 { text.append(" ") }
      text.append(digit)
    }
    return text
  }

  /// "37.5 %", and "100 %" or "0 %" only when it is exactly that.
  public static func share(_ part: UInt64, of whole: UInt64) -> String {
    guard whole > 0, part < whole else { return "100 %" }
    guard part > 0 else { return "0 %" }
    let tenths = min(999, max(1, UInt64(Double(part) / Double(whole) * 1000)))
    return "\(tenths / 10).\(tenths % 10) %"
  }

  private static func threeDigits(_ number: UInt64, per unit: UInt64) -> String {
    let value = Double(number) / Double(unit)
    let decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0
    let factor: Double = decimals == 2 ? 100 : decimals == 1 ? 10 : 1
    let scaled = UInt64(value * factor + 0.5)
    if decimals == 0 { return "\(scaled)" }
    let fraction = String(scaled % UInt64(factor))
    let zeros = String(repeating: "0", count: decimals - fraction.utf8.count)
    return "\(scaled / UInt64(factor)).\(zeros)\(fraction)"
  }
}
