internal import System

/// What a keeper does to a group's bound: lowers it, and puts it back. The file comes before each
/// change, and goes behind the last.
struct HeldThrottle {
  private let files: HostFiles
  private let keeper: SavedProcess
  private let boot: String
  /// What is changed now, and where that is recorded; nil for nothing.
  private var held: (record: ThrottleRecord, path: String)?

  init(keeper: ProcessIdentity, boot: BootID, files: HostFiles) {
    self.files = files
    self.keeper = SavedProcess(keeper)
    self.boot = boot.text
  }

  /// Whether a bound may be ours.
  var isHeld: Bool { held != nil }

  /// Takes so many percent from a group, in place of what was taken before. A bound that somebody
  /// else has set meanwhile is theirs from then on: the one to put back. ENODEV: the group is gone.
  mutating func take(
    percent: Int, of group: ThrottledGroup, recordPath: String
  ) throws(SystemError) {
    if let held, held.record.group != group || held.path != recordPath { try release() }
    guard group.exists(files: files), let present = group.group.processorBound(files: files) else {
      try release()
      throw SystemError("read", group.group.quotaPath, .noDevice)
    }
    var original = present
    var written: [ProcessorBound] = []
    if let record = held?.record, record.isOurs(present) {
      original = record.original
      // In version 1 the period may be another one by now.
      original.periodMicroseconds =
        group.isVersion2 ? original.periodMicroseconds : present.periodMicroseconds
      written = [present]
    }
    let next = original.slowed(
      byPercent: percent, usable: group.usableMicrosecondsPerSecond)
    guard next != present else { return }
    let record = ThrottleRecord(
      boot: boot, keeper: keeper, group: group, original: original, written: written + [next])
    try ThrottleRecordFile.write(record, to: recordPath)
    held = (record, recordPath)
    try group.group.write(next, files: files)
  }

  /// Puts back what was there before. After an error it is held still.
  mutating func release() throws(SystemError) {
    guard let held else { return }
    try held.record.restore(files: files)
    try FileSystem.removeFile(held.path)
    self.held = nil
  }
}
