import ProgramHarness
import Testing

/// Real processes from end to end: page-server, postcopyd, two microvms, as an operator would start
/// them. One test at a time, because each has the whole machine in use.
@Suite(
  .serialized, .enabled(if: Machine.hasUserfaultfd, "needs userfaultfd with kernel-mode faults"))
enum EndToEnd {}
