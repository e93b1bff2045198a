import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

/// How long a test waits for what must happen, before it is wrong. Reached only by a failure.
let waitLimitMilliseconds: Int32 = 20_000

/// A thread that does one thing, which may wait for a page, and then has a value.
struct FaultingThread: ~Copyable {
  private let thread: WorkerThread
  private let result: Lock<UInt64?>

  init(_ body: @escaping @Sendable () -> UInt64) throws {
    let result = Lock<UInt64?>(nil)
    self.result = result
    self.thread = try WorkerThread(name: "faulting") {
      let value = body()
      result.withLock { $0 = value }
    }
  }

  /// Loads the 8 bytes at an address.
  init(loading address: HostAddress) throws { try self.init { address.load() } }

  /// Writes the 8 bytes at an address; its value is what it wrote.
  init(storing value: UInt64, to address: HostAddress) throws {
    try self.init {
      address.store(value)
      return value
    }
  }

  /// Whether it is through already.
  var isDone: Bool { result.withLock { $0 != nil } }

  /// Waits for its end and gives its value.
  consuming func value() throws -> UInt64 {
    try waitUntil("the faulting thread goes on") { [result] in result.withLock { $0 != nil } }
    let result = self.result
    thread.join()
    return try #require(result.withLock { $0 })
  }
}

/// Waits for a state that no descriptor announces, with a limit.
func waitUntil(
  _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation,
  _ condition: () throws -> Bool
) throws {
  for _ in 0..<waitLimitMilliseconds {
    if try condition() { return }
    _ = poll(nil, 0, 1)
  }
  try #require(Bool(false), what, sourceLocation: sourceLocation)
}

/// Waits until poll(2) reports one of `events`, and answers what it reported; 0 after `limit`.
func pollOnce(
  _ uffd: UserfaultHandle, events: Int32 = POLLIN, limitMilliseconds: Int32 = waitLimitMilliseconds
) -> Int32 {
  var entry = pollfd(fd: uffd.rawValue, events: Int16(events), revents: 0)
  // unsafe: one entry is given, and its count is one.
  return unsafe poll(&entry, 1, limitMilliseconds) > 0 ? Int32(entry.revents) : 0
}

/// Messages one by one, in the order in which the kernel gives them.
struct EventReader: ~Copyable {
  let uffd: UserfaultHandle
  var buffer: UserfaultMessageBuffer
  private var position = 0

  init(_ uffd: UserfaultHandle, capacity: Int = UserfaultMessageBuffer.defaultCapacity) {
    self.uffd = uffd
    self.buffer = UserfaultMessageBuffer(capacity: capacity)
  }

  /// The next one; waits for it, and fails the test when it does not come.
  mutating func next() throws -> UserfaultEvent {
    while position == buffer.count {
      try #require(pollOnce(uffd) != 0, "a message comes")
      _ = try uffd.read(into: &buffer)
      position = 0
    }
    position += 1
    return buffer[position - 1]
  }

  /// The next one, which must be a fault.
  mutating func nextFault() throws -> PageFault {
    let event = try next()
    guard case .fault(let fault) = event else {
      Issue.record("expected a fault, got \(event)")
      throw Errno.invalidArgument
    }
    return fault
  }

  /// The descriptor of the child of which the last event told; it can be taken once.
  mutating func takeForkedDescriptor() throws -> UserfaultDescriptor {
    guard let child = try buffer.takeForkedDescriptor(at: position - 1) else {
      Issue.record("the last event told of no child, or its descriptor was taken")
      throw Errno.noSuchEntry
    }
    let isTaken = try buffer.takeForkedDescriptor(at: position - 1) == nil
    try #require(isTaken, "a descriptor has one owner")
    return child
  }

  /// What is to be read now, without waiting.
  mutating func readBatch() throws -> [UserfaultEvent] {
    try #require(position == buffer.count, "what was read is used up")
    position = try uffd.read(into: &buffer)
    return (0..<position).map { buffer[$0] }
  }

  /// Whether nothing more is to be read.
  mutating func isEmpty() throws -> Bool {
    guard position == buffer.count else { return false }
    position = 0
    return try uffd.read(into: &buffer) == 0
  }
}
