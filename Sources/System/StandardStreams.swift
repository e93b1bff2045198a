internal import CLinux
internal import Glibc

/// The process's standard output or standard error.
public enum StandardStream: Int32, Sendable {
  /// For results: what a program reads.
  case output = 1
  /// For people: progress and messages.
  case error = 2

  /// Whether a person's terminal is behind it.
  public var isTerminal: Bool { isatty(rawValue) == 1 }

  /// The terminal's width in columns; nil when there is no terminal, or it does not tell.
  public var columnCount: Int? {
    let count = Int(clinux_terminal_column_count(rawValue))
    return count > 0 ? count : nil
  }

  /// Writes all the bytes. A reader that is gone, or a full disk behind a redirection, is no reason
  /// to stop a migration: what cannot be written is dropped, and false returned. Blocks as long as
  /// a reader stands still: not for a thread that others wait for.
  @discardableResult
  public func write(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    var done = 0
    while done < bytes.count {
      // unsafe: `done` is below the span's length, which bounds the write.
      let count = unsafe bytes.span.withUnsafeBytes {
        unsafe Glibc.write(rawValue, $0.baseAddress! + done, bytes.count - done)
      }
      if count > 0 {
        done += count
        continue
      }
      switch count == 0 ? .inputOutput : Errno.current {
      case .interrupted: continue
      // Somebody who shares the terminal or pipe with us has made it non-blocking.
      case .tryAgain: waitWritable()
      default: return false
      }
    }
    return true
  }

  private func waitWritable() {
    var entry = pollfd(fd: rawValue, events: Int16(POLLOUT), revents: 0)
    // Interrupted or refused: the next write tells.
    _ = unsafe poll(&entry, 1, -1)
  }
}
