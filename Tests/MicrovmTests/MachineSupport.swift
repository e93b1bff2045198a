import Glibc
import GuestKit
import Pages
import System
import Testing

@testable import GuestKit

/// What this machine can do, for tests that need it.
enum Capability {
  static let hasKVM = TestMachine.isKVMAvailable
  /// Both engines where there is KVM, else the one in threads.
  static let guests: [GuestKind] = hasKVM ? [.kvm, .process] : [.process]
  /// Enough free huge pages for two small guests.
  static let hasHugePages = freeHugePages() >= 32

  /// Those that are not set aside for a mapping either.
  private static func freeHugePages() -> Int {
    let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
    let count = { Int(TestFiles.text(directory + $0).filter(\.isNumber)) ?? 0 }
    return count("free_hugepages") - count("resv_hugepages")
  }
}

enum TestFiles {
  static func text(_ path: String) -> String {
    guard let file = try? OwnedDescriptor.open(path, flags: O_RDONLY) else { return "" }
    var bytes = [UInt8](repeating: 0, count: 65_536)
    let count = unsafe read(file.rawValue, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
  }

  /// A directory of this test's own, deleted by `body`'s end.
  static func withDirectory<Result>(_ body: (String) throws -> Result) throws -> Result {
    var template = Array("/tmp/microvm-test-XXXXXX\0".utf8CString)
    let path = unsafe String(cString: mkdtemp(&template))
    defer {
      for name in entries(of: path) { _ = unsafe unlink("\(path)/\(name)") }
      _ = unsafe rmdir(path)
    }
    return try body(path)
  }

  private static func entries(of path: String) -> [String] {
    guard let directory = unsafe opendir(path) else { return [] }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }
}

/// How long a test waits for what must happen, before it is wrong. Reached only by a failure.
let waitLimitNanoseconds: UInt64 = 60_000_000_000

func limit() -> Instant { MonotonicClock.now().advanced(byNanoseconds: waitLimitNanoseconds) }

/// Waits for a state that no descriptor announces, with a limit.
func waitUntil(
  _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation,
  _ condition: () throws -> Bool
) throws {
  let deadline = limit()
  while try !condition() {
    try #require(MonotonicClock.now() < deadline, what, sourceLocation: sourceLocation)
    _ = poll(nil, 0, 1)
  }
}

extension MachineOptions {
  /// A small guest that stops by itself.
  static func small(
    _ guest: GuestKind, _ pattern: String = "random-write", operations: UInt64? = 5000
  ) -> MachineOptions {
    var options = MachineOptions()
    options.memoryByteCount = 16 << 20
    options.guest = guest
    options.pattern = AccessPattern(pattern)!
    options.pattern.operationLimit = operations
    return options
  }
}

extension TestMachine {
  /// Runs to the end of its operations, and expects that nothing was wrong.
  func runToEnd(sourceLocation: SourceLocation = #_sourceLocation) throws {
    try resume()
    try #require(waitUntilStopped(until: limit()), sourceLocation: sourceLocation)
    #expect(mismatches == [], sourceLocation: sourceLocation)
    #expect(activity == .finished, sourceLocation: sourceLocation)
  }

  /// Waits until the guest has done at least one more operation, or has stopped by itself.
  func waitForProgress() throws {
    let before = progress?.operations ?? 0
    try waitUntil("the guest makes progress") {
      (progress?.operations ?? 0) > before || activity != .running
    }
  }

  /// Copies another machine's memory into this one's, as a migration would.
  func takeMemory(of other: TestMachine) throws {
    for (target, source) in zip(memory.regions, other.memory.regions) {
      unsafe memcpy(target.base, source.base, Int(target.region.byteCount.rawValue))
    }
  }

  func expectRightMemory(sourceLocation: SourceLocation = #_sourceLocation) throws -> ImageCheck {
    let check = try verify()
    #expect(check.findings == Findings(), sourceLocation: sourceLocation)
    #expect(check.pagesChecked == layout.pageCount, sourceLocation: sourceLocation)
    return check
  }
}
