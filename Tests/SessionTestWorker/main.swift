import Glibc
import Session
import System
import UFFD

// The processes that the tests of the supervisor are about: a parent, a worker and a VMM, each one
// small and real. Every line that they say is for the test; a worker or VMM whose reader is gone
// ends by itself, so that a failed test leaves nothing behind.

/// One line to the test.
func say(_ text: String) { StandardStream.output.write(text + "\n") }

/// Ends this process: the test has something wrong.
func fail(_ text: String) -> Never {
  say("failed: \(text)")
  exit(99)
}

let arguments = Array(CommandLine.arguments.dropFirst())
do {
  switch arguments.first {
  case "vmm": try runVMM()
  case "parent": try runParent(Array(arguments.dropFirst()))
  case "throttler": try runThrottler(Array(arguments.dropFirst()))
  case "throttle-keeper":
    try ThrottleKeeper.run(inheritedNumber: ChildProcess.passedDescriptorNumber)
  case "worker": try runWorker(Array(arguments.dropFirst()))
  default: fail("no such role")
  }
} catch {
  fail("\(error)")
}
