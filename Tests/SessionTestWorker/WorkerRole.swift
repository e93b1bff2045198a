import Glibc
import Migration
import Session
import System

/// A session without a migration: `worker DIRECTORY VMM-PID MODE`.
///
/// `begin` takes the VMM's userfaultfd by its number, `recover` uses what the keeper has, and only
/// without that looks at the VMM; `die` kills itself. It says what it got, and what it hears. The
/// second SIGTERM parks it, with exit code 12; `abort` over the control socket is COMPLETE here:
/// released, exit code 0.
func runWorker(_ arguments: [String]) throws {
  let signals = try SignalSource()
  let keeper = try KeeperClient(inheritedNumber: ChildProcess.passedDescriptorNumber)
  if arguments[2] == "die" { kill(getpid(), SIGKILL) }
  let names = try SharedNames(arguments[0])
  try names.directory.prepare(vm: names.vmName)
  let lock = try VMLock.take(vm: names.vmName, side: .destination, in: names.directory)
  guard let vmm = Int32(arguments[1]) else { fail("no VMM") }

  let userfault = try takeUserfault(keeper, vmm)
  try keeper.keep(KeptName.userfault, userfault)
  try keeper.keep(KeptName.vmm, ProcessHandle.open(pid: vmm).descriptor)

  let orders = try Mailbox<OrderRequest>(capacity: 4)
  let desk = try SessionDesk(
    SessionStatus(vmName: names.vmName, side: .destination, state: arguments[2]))
  desk.pass(to: { orders.post($0) })
  let context = WorkerContext(keeper: keeper, arguments: ["--vm", "test"])
  try context.begin(
    in: names.directory, vmName: names.vmName, side: .destination, control: desk)
  say("worker \(getpid()) \(arguments[2]) session \(getsid(0) == getpid())")

  var terminateCount = 0
  var exitCode: Int32?
  while exitCode == nil {
    let ready = try Readiness.wait(
      for: [signals.descriptor.rawValue, orders.readiness.rawValue, 1])
    while let signal = try signals.next() {
      say("worker heard \(signal.name)")
      context.publish("{\"heard\":\"\(signal.name)\"}")
      if signal == .terminate { terminateCount += 1 }
      if terminateCount == 2 { exitCode = 12 }
    }
    while let request = orders.take() {
      if request.order == .abort { keeper.release() }
      exitCode = request.order == .park ? 12 : 0
    }
    if ready[2] { exitCode = 98 }
  }
  desk.end(
    Outcome(
      ending: exitCode == 0 ? .completed : .parked, reason: nil, source: .unknown,
      destination: .unknown))
  context.end(exitCode: exitCode ?? 99, isOver: exitCode == 0)
  _ = consume lock
  exit(exitCode ?? 99)
}

private func takeUserfault(_ keeper: KeeperClient, _ vmm: Int32) throws -> OwnedDescriptor {
  if let kept = try keeper.inheritedDuplicate(named: KeptName.userfault) {
    say("userfaultfd inherited")
    return kept
  }
  var taken = try TakenDescriptor.userfaultfds(of: ProcessHandle.open(pid: vmm))
  guard taken.count == 1, let userfault = taken.takeFirst() else {
    fail("the VMM holds \(taken.count) userfaultfds")
  }
  say("userfaultfd taken")
  return userfault
}
