internal import System

/// Why a measurement could not be taken. A benchmark does not recover: it says so and ends.
struct BenchmarkError: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }

  /// A call of the C library that just failed.
  static func call(_ name: String) -> BenchmarkError { BenchmarkError("\(name): \(Errno.current)") }
}
