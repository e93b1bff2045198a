internal import Pages
internal import System

/// Takes a share of their time from all vCPUs: they run for a slice, and rest for as long as the
/// share asks for.
final class VcpuThrottle: Sendable {
  /// What QEMU gives a throttled vCPU in one piece (CPU_THROTTLE_TIMESLICE_NS).
  private static let sliceNanoseconds: UInt64 = 10_000_000
  private let gate: VcpuGate
  private let threads = ThreadGroup()
  private let hasStarted = Lock(false)

  init(_ gate: VcpuGate) { self.gate = gate }

  /// From now on, until that moment, in percent of their time.
  func set(percent: Int, until end: Instant) throws(SystemError) {
    gate.state.withLock { $0.throttle = .init(percent: percent, end: end) }
    try hasStarted.withLock { hasStarted throws(SystemError) in
      guard !hasStarted else { return }
      try threads.start(count: 1, name: "throttle") { [gate] _ in Self.live(gate) }
      hasStarted = true
    }
  }

  /// What they lose now.
  var percent: Int { gate.state.withLock { $0.throttle.percent(now: MonotonicClock.now()) } }

  /// After the gate was told to leave.
  func join() { threads.join() }

  private static func live(_ gate: VcpuGate) {
    while let percent = awaitWork(gate) {
      sleep(sliceNanoseconds, gate)
      gate.rest(true)
      let share = UInt64(percent)
      sleep(sliceNanoseconds * share / (100 - share), gate)
      gate.rest(false)
    }
  }

  /// The share that is to be taken now, once there is one; nil when the vCPUs leave for good.
  private static func awaitWork(_ gate: VcpuGate) -> Int? {
    gate.state.wait(until: nil) { state -> Int?? in
      if state.wish == .leave { return .some(nil) }
      let percent = state.throttle.percent(now: MonotonicClock.now())
      return percent > 0 ? .some(percent) : nil
    } ?? nil
  }

  /// Ends early when the share is another one, or the vCPUs leave.
  private static func sleep(_ nanoseconds: UInt64, _ gate: VcpuGate) {
    let began = gate.state.withLock { $0.throttle }
    _ = gate.state.wait(until: MonotonicClock.now().advanced(byNanoseconds: nanoseconds)) { state in
      state.wish == .leave || state.throttle.percent != began.percent ? true : nil
    }
  }
}
