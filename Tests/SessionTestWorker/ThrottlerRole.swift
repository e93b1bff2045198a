import Glibc
import Session
import System

/// A worker that has slowed a process down by its control group: `throttler PID RECORD`. It says
/// who its keeper is, and does nothing more until it is ended.
func runThrottler(_ arguments: [String]) throws {
  guard let pid = Int32(arguments[0]) else { fail("no process") }
  let client = try ThrottleKeeperClient(arguments: ["throttler", "throttle-keeper"])
  let group = try ThrottledGroup.find(ofVMM: pid, vcpuCount: 1)
  try client.throttle(
    percent: 80, forMilliseconds: 60_000, of: group, recordPath: arguments[1],
    owner: "throttler")
  say("throttled \(client.identity.pid)")
  // Readable when the test is gone.
  _ = try Readiness.wait(for: [1])
  try client.end()
}
