import Glibc
import Session
import System
import UFFD

/// A VMM as far as its descriptors matter: holds a userfaultfd twice and another file. SIGHUP makes
/// it close its userfaultfds, as a VMM does that leaves them to its handler.
func runVMM() throws {
  let signals = try SignalSource()
  let userfault = try UserfaultDescriptor(requiring: []).release()
  var held: [KeptDescriptor] = [
    KeptDescriptor(name: "second", try userfault.duplicate()),
    KeptDescriptor(name: "first", userfault),
  ]
  say("vmm \(getpid()) holds \(held.count)")
  while true {
    let ready = try Readiness.wait(for: [signals.descriptor.rawValue, 1])
    while let signal = try signals.next() {
      guard signal == .hangUp else { exit(0) }
      held = []
      say("vmm holds 0")
    }
    if ready[1] { exit(0) }
  }
}
