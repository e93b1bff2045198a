import CLinux
import Foundation
import Pages
import System
import Testing
import Wire

@testable import PageServer

@Suite(.timeLimit(.minutes(5))) struct LeakTests {
  /// In a process of its own: other tests open and close descriptors meanwhile.
  @Test func noDescriptorAndNoThreadIsLeftBehind() async {
    await #expect(processExitsWith: .success) {
      func entries(_ path: String) throws -> Int {
        try FileManager.default.contentsOfDirectory(atPath: path).count
      }
      func migrate(_ round: Int) throws {
        let memory = try UrgentServerTests.mixedMemory()
        let migration = try TestMigration(
          try memory.open(), bulkCount: 2, over: round % 2 == 0 ? "unix:" : "127.0.0.1:0")
        try migration.beginServing()
        try migration.urgent.request(0, sequence: 1)
        _ = try migration.urgent.receive()
        // Every third ends in the middle of its push, every third by a violation.
        if round % 3 == 0 {
          migration.plane.beginPush()
          _ = try BulkSenderTests.drainAll(migration, expected: UrgentServerTests.expected)
        } else if round % 3 == 1 {
          try migration.urgent.connection.send([UInt8](repeating: 1, count: 32))
          _ = try migration.notice()
        } else {
          migration.plane.beginPush()
        }
      }
      try migrate(0)
      let descriptors = try entries("/proc/self/fd")
      let threads = try entries("/proc/self/task")
      for round in 0..<30 { try migrate(round) }
      let after = try (entries("/proc/self/fd"), entries("/proc/self/task"))
      guard after == (descriptors, threads) else {
        print("descriptors \(descriptors) → \(after.0), threads \(threads) → \(after.1)")
        exit(1)
      }
    }
  }
}
