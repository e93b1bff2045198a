internal import CLinux
internal import Glibc
internal import Pages

/// How a thread asks to be scheduled. What the process may not have is silently left out: it costs
/// speed, not correctness.
public struct ThreadPlacement: Sendable, Hashable {
  /// The one processor to run on; nil for any.
  public var processor: Int?
  /// Whether it goes before ordinary threads (SCHED_FIFO 1; needs CAP_SYS_NICE).
  public var isUrgent: Bool

  /// Any processor, ordinary priority, unless said otherwise.
  public init(processor: Int? = nil, isUrgent: Bool = false) {
    self.processor = processor
    self.isUrgent = isUrgent
  }
}

/// A thread of our own that must be joined exactly once.
public struct WorkerThread: ~Copyable, Sendable {
  private let handle: pthread_t

  private final class Start: Sendable {
    let name: String
    let placement: ThreadPlacement
    let body: @Sendable () -> Void

    init(name: String, placement: ThreadPlacement, body: @escaping @Sendable () -> Void) {
      self.name = name
      self.placement = placement
      self.body = body
    }
  }

  /// Starts a thread that runs `body` and ends. `name` shows up in ps and gdb, cut to 15 bytes.
  public init(
    name: String, placement: ThreadPlacement = ThreadPlacement(),
    _ body: @escaping @Sendable () -> Void
  ) throws(SystemError) {
    let start = Start(name: name, placement: placement, body: body)
    var handle = pthread_t()
    // unsafe: the retained box is released exactly once, by the new thread, or below on failure.
    let box = unsafe Unmanaged.passRetained(start)
    let result = unsafe pthread_create(
      &handle, nil,
      { argument in
        let start = unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
        WorkerThread.place(start.placement, name: start.name)
        start.body()
        return nil
      }, box.toOpaque())
    guard result == 0 else {
      unsafe box.release()
      throw SystemError("pthread_create", name, Errno(rawValue: result))
    }
    self.handle = handle
  }

  /// Waits until the thread has ended.
  public consuming func join() {
    let result = pthread_join(handle, nil)
    invariant(result == 0, "a worker thread is joined once, by another thread")
  }

  private static func place(_ placement: ThreadPlacement, name: String) {
    _ = unsafe pthread_setname_np(pthread_self(), String(name.prefix(15)))
    if let processor = placement.processor {
      _ = clinux_pin_current_thread(UInt32(processor))
    }
    if placement.isUrgent {
      var parameter = sched_param()
      parameter.sched_priority = 1
      _ = unsafe pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameter)
    }
  }
}
