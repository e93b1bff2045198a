internal import CLinux
internal import Glibc

/// The time of day, for people and reports only: it jumps, so no decision rests on it.
public enum WallClock {
  /// Now in UTC as in RFC 3339 with milliseconds: "2026-01-31T12:00:00.000Z".
  public static func timestamp() -> String {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return timestamp(
      secondsSince1970: Int64(time.tv_sec), milliseconds: Int(time.tv_nsec) / 1_000_000)
  }

  /// Nanoseconds since 1970, UTC.
  public static func nanosecondsSince1970() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// That moment, not before 1970, in the same form.
  public static func timestamp(secondsSince1970: Int64, milliseconds: Int) -> String {
    let day = Int(secondsSince1970) / 86_400
    let second = Int(secondsSince1970) % 86_400
    let date = civilDate(daysSince1970: day)
    return padded(date.year, 4) + "-" + padded(date.month, 2) + "-" + padded(date.day, 2) + "T"
      + padded(second / 3600, 2) + ":" + padded(second / 60 % 60, 2) + ":"
      + padded(second % 60, 2) + "." + padded(milliseconds, 3) + "Z"
  }

  /// The Gregorian date, counted in years that begin in March, so that the leap day comes last.
  private static func civilDate(daysSince1970: Int) -> (year: Int, month: Int, day: Int) {
    let days = daysSince1970 + 719_468  // since 0000-03-01
    let era = days / 146_097  // 400 years; the clock never shows a year before 0
    let dayOfEra = days % 146_097
    let yearOfEra =
      (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let monthFromMarch = (5 * dayOfYear + 2) / 153
    let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
    return (
      yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month,
      dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
    )
  }

  private static func padded(_ number: Int, _ width: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
  }
}
