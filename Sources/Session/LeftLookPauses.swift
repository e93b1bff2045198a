public import Migration
internal import System

extension Array where Element == SessionHistory<SourceRecord> {
  /// The marks of pauses for a look that nobody has ended, in any session of that very VM; none
  /// when it is not this host's any more, or its VMM has ended and took the pause with it.
  public func leftLookPauses(of current: VMBinding, in directory: StateDirectory) -> [PauseMark] {
    guard current.vmm?.isAlive ?? true else { return [] }
    return lookPauses(of: current, in: directory)
  }

  /// The same, of a VMM that has ended as well.
  public func lookPauses(of current: VMBinding, in directory: StateDirectory) -> [PauseMark] {
    let own = filter { current.compare($0.binding) != .different }
    guard own.allSatisfy({ SourceStanding($0.records) == .kept }) else { return [] }
    return own.map { PauseMark(ofLookIn: $0.session, in: directory) }.filter(\.isSet)
  }
}
