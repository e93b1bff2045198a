public import System

/// The source's memory cannot be read any more: some page's content is unknown, so nothing may be
/// sent for it. Before HANDED_OFF the migration aborts, afterwards it parks.
public enum MemoryError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The file ends before the image does: it was shortened.
  case truncated(name: String, byteCount: UInt64)
  /// The file was written, punched or shortened after the VM was stopped.
  case changed(name: String)
  /// The process has ended, or runs another program.
  case processGone(name: String)
  /// A range of the process is not mapped as it was.
  case rangeGone(name: String, range: String)
  /// The kernel cannot read a page, for a reason that does not prove it poisoned.
  case unreadable(name: String, offset: UInt64, Errno)
  /// So many poisoned pages that the medium must be failing.
  case tooManyPoisonedPages(name: String, count: Int)
  /// An export was made when the destination had this page, and the destination asks for it: it is
  /// not the one that the export was made for, or has lost pages.
  case notInExport(name: String, offset: UInt64)
  /// An export changed, or was cut, after it was checked.
  case exportUnreadable(name: String, reason: String)

  /// What happened, for an operator.
  public var description: String {
    switch self {
    case .truncated(let name, let byteCount):
      "\(name) was shortened to \(byteCount) bytes: part of the VM's memory is gone"
    case .changed(let name): "\(name) was changed after the VM was stopped"
    case .processGone(let name): "the process of \(name) has ended, and the VM's memory with it"
    case .rangeGone(let name, let range): "\(name): the range \(range) is not mapped any more"
    case .unreadable(let name, let offset, let errno):
      "\(name) cannot be read at offset \(offset): \(errno)"
    case .tooManyPoisonedPages(let name, let count):
      "\(name): \(count) pages cannot be read; the host's memory or swap device is failing"
    case .notInExport(let name, let offset):
      "\(name) has no page at offset \(offset): the destination had it when the export was made, "
        + "and asks for it now; make an export without --missing, or with the destination's "
        + "present page states"
    case .exportUnreadable(_, let reason): reason
    }
  }
}
