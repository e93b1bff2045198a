public import Pages

/// What became of a call that fills or protects a range. Each case wants an answer of its own; an
/// errno that is not here is thrown.
@frozen
public enum RangeOutcome: Hashable, Sendable {
  /// All of it is done.
  case complete
  /// Only the first bytes are done, and their waiters woken when that was asked for: go on behind
  /// them.
  case partial(ByteCount)
  /// The first page is there already; nothing was done. It does **not** prove that its waiter was
  /// woken: wake that page.
  case exists
  /// The address space is changing and its event is unread, or its thread not yet past it: nothing
  /// was done. Read the messages, then try again; never spin.
  case retry
  /// The process that owns the memory is gone.
  case gone
  /// No registered mapping holds the range any more, or not all of it as one.
  case noMapping
  /// No memory, or no huge page, is left for the page. Never fill with zeros instead.
  case outOfMemory
}
