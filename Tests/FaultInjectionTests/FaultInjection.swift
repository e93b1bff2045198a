import ProgramHarness
import Testing

/// The list that peers are measured by, case by case: real processes, real userfaultfd, real vCPUs,
/// and a link that fails as told. Each case ends with the guest's own check and a comparison of all
/// memory with the frozen image, and looks for what was left behind. One at a time in a process,
/// because each looks at what the process has started; the test runner has several processes.
@Suite(
  .serialized, .enabled(if: Machine.hasUserfaultfd, "needs userfaultfd with kernel-mode faults"))
enum FaultInjection {}
