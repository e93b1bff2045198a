internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// Something that the guest found wrong, at the moment it found it.
public struct Mismatch: Hashable, Sendable, Codable {
  /// The vCPU that noticed.
  public var vcpu: Int
  /// The page's place in the image, in 4 KiB pages.
  public var imagePage: UInt64
  /// The version that the table promised.
  public var expectedVersion: UInt32
  /// Whether the table says that the page was given back.
  public var wasRemoved: Bool
  /// The page's first two words as found: id and version, if it is a page of ours at all.
  public var foundWord0: UInt64
  /// See `foundWord0`.
  public var foundWord1: UInt64
  /// One sentence.
  public var what: String

  /// For a person, loudly.
  public var report: String {
    """
    microvm: GUEST STOPPED, \(what): vCPU \(vcpu), image page \(imagePage), expected version \
    \(expectedVersion)\(wasRemoved ? " or zeros (given back)" : ""), found words \(foundWord0), \
    \(foundWord1)
    """
  }

  enum CodingKeys: String, CodingKey {
    case vcpu, what
    case imagePage = "image_page"
    case expectedVersion = "expected_version"
    case wasRemoved = "was_removed"
    case foundWord0 = "found_word0"
    case foundWord1 = "found_word1"
  }
}

/// Why a vCPU came out of the guest.
enum VcpuStop {
  /// Somebody asked it to.
  case kicked
  /// It has done all its operations.
  case finished
  /// The guest stopped itself, or crashed.
  case failed(Mismatch)
}

/// Where the vCPU threads wait, and how others make them run or wait. The disk's readers do so,
/// too, behind the vCPUs: they come when their read is complete.
///
/// A thread is *parked* when it is inside `waitToRun`. Pausing asks all of them to park; one that
/// waits for a page comes only after the page (kernel fact, measured on Linux 6.18), so every wait
/// for them has a limit.
final class VcpuGate: Sendable {
  /// Only EINTR is wanted of it; SIGUSR1 has no other use in this process.
  static let kickSignal = SIGUSR1

  enum Wish { case park, run, leave }

  struct State {
    var wish = Wish.park
    var isParked: [Bool]
    var hasLeft: [Bool]
    var isFinished: [Bool]
    var threadIDs: [pid_t?]
    var mismatches: [Mismatch] = []
    var throttle = Throttle()
    /// All are to rest for a moment, whatever is wished.
    var isResting = false

    var isAllParked: Bool { zip(isParked, hasLeft).allSatisfy { $0 || $1 } }

    /// Whether it has nothing more to do: a reader, when all vCPUs have finished.
    func isOver(forThread index: Int) -> Bool {
      index < isFinished.count ? isFinished[index] : isFinished.allSatisfy(\.self)
    }
  }

  /// A share of the vCPUs' time that is taken from them, up to a moment.
  struct Throttle {
    var percent = 0
    var end = Instant(nanoseconds: 0)

    func percent(now: Instant) -> Int { now < end ? percent : 0 }
  }

  let vcpuCount: Int
  let state: Monitor<State>
  private let interrupt: @Sendable (Int) -> Void

  /// `interrupt` makes a vCPU that is about to run, or runs, come back; it is called with the lock
  /// held, and followed by a signal to the vCPU's thread.
  init(
    vcpuCount: Int, readerCount: Int, interrupt: @escaping @Sendable (_ vcpu: Int) -> Void
  ) {
    self.vcpuCount = vcpuCount
    self.interrupt = interrupt
    let threadCount = vcpuCount + readerCount
    state = Monitor(
      State(
        // A thread that has not come so far is as far from the guest as a parked one.
        isParked: .init(repeating: true, count: threadCount),
        hasLeft: .init(repeating: false, count: threadCount),
        isFinished: .init(repeating: false, count: vcpuCount),
        threadIDs: .init(repeating: nil, count: threadCount)))
    // The handler does nothing; it only must exist, so that the signal interrupts and not kills.
    let result = clinux_install_empty_signal_handler(Self.kickSignal)
    invariant(result == 0, "a signal handler can be installed")
  }

  /// A vCPU thread's life: `beforeRun` under the lock each time it is about to run, then `run`.
  func live(vcpu: Int, beforeRun: () -> Void, run: () -> VcpuStop) {
    let result = clinux_unblock_signal(Self.kickSignal)
    invariant(result == 0, "a thread can unblock a signal")
    state.withLock { $0.threadIDs[vcpu] = clinux_thread_id() }
    while waitToRun(vcpu: vcpu, beforeRun: beforeRun) {
      let stop = run()
      state.withLock { state in
        switch stop {
        case .kicked: break
        case .finished: state.isFinished[vcpu] = true
        case .failed(let mismatch):
          state.mismatches.append(mismatch)
          // One wrong page stops the whole guest: evidence first.
          if state.wish == .run { state.wish = .park }
          interruptRunning(state)
        }
      }
    }
  }

  private func waitToRun(vcpu: Int, beforeRun: () -> Void) -> Bool {
    state.withLock { $0.isParked[vcpu] = true }
    let mayRun = state.wait(until: nil) { state -> Bool? in
      switch state.wish {
      case .park: return nil
      case .leave:
        state.hasLeft[vcpu] = true
        state.threadIDs[vcpu] = nil
        return false
      case .run:
        guard !state.isOver(forThread: vcpu), state.mismatches.isEmpty, !state.isResting else {
          return nil
        }
        state.isParked[vcpu] = false
        beforeRun()
        return true
      }
    }
    return mayRun ?? false
  }

  /// Asks every vCPU to park or to leave for good. Does not wait.
  func ask(_ wish: Wish) {
    state.withLock { state in
      // Whoever was told to leave has left, or will: that is not taken back.
      guard state.wish != .leave else { return }
      state.wish = wish
      if wish != .run { interruptRunning(state) }
    }
  }

  /// Has every vCPU rest, or go on if it is to run. Does not wait.
  func rest(_ isResting: Bool) {
    state.withLock { state in
      state.isResting = isResting
      if isResting { interruptRunning(state) }
    }
  }

  /// Waits until no vCPU runs. False when the limit came first.
  func waitUntilParked(until deadline: Instant) -> Bool {
    state.wait(until: deadline) { $0.isAllParked ? true : nil } ?? false
  }

  private func interruptRunning(_ state: State) {
    // A read that is under way is not to be interrupted.
    for vcpu in 0..<vcpuCount where !state.isParked[vcpu] && !state.hasLeft[vcpu] {
      interrupt(vcpu)
      guard let thread = state.threadIDs[vcpu] else { continue }
      // ESRCH: the thread has just ended; then it has nothing to be told.
      _ = clinux_send_thread_signal(thread, Self.kickSignal)
    }
  }
}
