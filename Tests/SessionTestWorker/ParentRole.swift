import Glibc
import Session
import System

/// A parent of workers: `parent DIRECTORY VMM-PID MODE [RESTARTS [STORE]]`. MODE is that of the
/// first worker, "recover" that of all others; with 0 restarts there are none. STORE is a service
/// manager's socket.
func runParent(_ arguments: [String]) throws {
  let signals = try SignalSource()
  let worker = ["session-test-worker", "worker", arguments[0], arguments[1]]
  let restartCount = arguments.count > 3 ? Int(arguments[3]) ?? 0 : 100
  var plan = SupervisorPlan(first: worker + [arguments[2]])
  // A worker that dies at once goes on doing so.
  let later = arguments[2] == "die" ? "die" : "recover"
  plan.restart = restartCount > 0 ? worker + [later] : nil
  plan.limits = RestartLimits(maximumCount: restartCount, firstPauseNanoseconds: 1_000_000)
  plan.controlSocketPath = try SharedNames(arguments[0]).controlSocketPath
  plan.storeAddress = arguments.count > 4 ? arguments[4] : nil
  say("parent \(getpid())")
  let supervisor = Supervisor(plan) { note in
    switch note {
    case .started(let pid): say("started \(pid)")
    case .adopted(let pid): say("adopted \(pid)")
    case .died(_, let how): say("died \(how)")
    case .restarting(_, let count): say("restarting \(count)")
    case .event(let line): say("event \(line)")
    case .warning(let text): say("warning \(text)")
    case .staying(let reason): say("staying \(reason)")
    case .stopRefused(let signal, _): say("refused \(signal.name)")
    }
  }
  switch try supervisor.run(signals: signals) {
  case .worker(let exitCode):
    say("ended \(exitCode)")
    exit(exitCode)
  case .parked(let reason):
    say("parked \(reason)")
    exit(12)
  case .refused(let reason):
    say("refused \(reason)")
    exit(10)
  }
}

/// The names that parent and worker agree on.
struct SharedNames {
  let directory: StateDirectory
  let vmName: VMName

  init(_ path: String) throws {
    directory = StateDirectory(statePath: path + "/state", runPath: path + "/run")
    vmName = try VMName("test")
  }

  var controlSocketPath: String { directory.controlSocketPath(ofVM: vmName, side: .destination) }
}
