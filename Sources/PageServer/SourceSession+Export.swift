internal import Migration
internal import Session
internal import System
internal import Wire

extension SourceSession {
  /// Goes on with the session of an export: the file stands for the journal that proved the
  /// hand-off, and for the memory. There is no VM here that could run.
  convenience init(
    _ configuration: SourceConfiguration, _ preflight: consuming SourcePreflight,
    _ exported: ExportedSession, observer: @escaping (SourceNote) -> Void
  ) throws(Refusal) {
    guard
      let core = SourceCore(
        recovering: exported.records, vm: .gone, limits: configuration.limits, isCopy: true)
    else {
      throw Refusal(.journal, "the hand-off that \(exported.backing.source) proves is none")
    }
    try self.init(configuration, preflight, core, observer: observer)
    observer(.recovered(core.state))
    // The destination comes back from whoever served it before.
    linkLostAt = started
  }
}
