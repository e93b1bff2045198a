internal import Pages
internal import System
internal import UFFD
internal import VMM

/// The kernel's record of what a process writes: PAGEMAP_SCAN over memory that the process, or
/// whoever injected that into it, has registered with an asynchronously write-protecting
/// userfaultfd. The descriptor stays in the process; nothing of it is needed here.
///
/// See `DirtyTracker` for what it cannot see: direct I/O under way during a look. So a process that
/// does any is looked at while its VM stands still with its block I/O drained, or not at all. Of a
/// memory file, what is written in another way than through that one mapping is not seen either.
final class PagemapLog: DirtyLog {
  /// A piece of the image and where the process has it.
  struct Piece: Hashable, Sendable {
    let imageOffset: UInt64
    let range: HostRange

    /// Its bytes in the image.
    var bytes: Range<UInt64> { imageOffset..<imageOffset + range.byteCount.rawValue }
  }

  /// A memory file, out of which pages can be punched.
  struct Watched: Sendable {
    let file: FileBacking
    let device: UInt64
    let inode: UInt64
    let hugePageSetting: @Sendable (UInt64, Int32) throws(SystemError) -> String?
  }

  private let vmName: String
  private let processID: Int32
  private let layout: ImageLayout
  private let pieces: [Piece]
  private let memory: TrackedMemory
  /// Told of what is sent.
  private let punches: PunchWatch
  /// nil for private memory.
  private let watched: Watched?
  private let pause: LookPause?
  private let hasDirectIO: @Sendable (Int32) throws(SystemError) -> Bool
  private let state = Lock(State())

  private struct State: ~Copyable {
    var tracker: DirtyTracker?
  }

  init(
    vmName: String, processID: Int32, _ layout: ImageLayout, _ pieces: [Piece],
    _ memory: TrackedMemory, punches: PunchWatch, watched: Watched? = nil, pause: LookPause?,
    hasDirectIO: @escaping @Sendable (Int32) throws(SystemError) -> Bool
  ) {
    self.vmName = vmName
    self.processID = processID
    self.layout = layout
    self.pieces = pieces
    self.memory = memory
    self.punches = punches
    self.watched = watched
    self.pause = pause
    self.hasDirectIO = hasDirectIO
  }

  /// Not where each look is a pause.
  var isCheap: Bool {
    do throws(SystemError) { return try !hasDirectIO(processID) } catch { return false }
  }

  var earliestLook: Instant? { pause?.earliestLook }

  /// Protects all of the memory. Refused, with nothing changed, when it is not registered, or could
  /// be written unseen.
  func startDirtyLog() throws(VMMError) {
    try forgettingOnError { () throws(VMMError) in try startWhereSeen() }
  }

  private func startWhereSeen() throws(VMMError) {
    if let pause = try neededPause(.startDirtyLog) {
      return try pause.during { () throws(VMMError) in try start() }
    }
    try start()
    // Opened meanwhile: what it has under way may land unseen.
    guard let pause = try neededPause(.startDirtyLog) else { return }
    try pause.during { () throws(VMMError) in try start() }
  }

  private func start() throws(VMMError) {
    try checkHugePages()
    do throws(SystemError) { try watch() } catch {
      throw self.error(.startDirtyLog, .refused("\(error)"))
    }
    do throws(UFFDError) {
      try begin()
    } catch {
      punches.end()
      let isUnregistered = error.errno == .noSuchEntry || error.errno == .notPermitted
      throw self.error(
        .startDirtyLog,
        .refused(
          isUnregistered
            ? "its memory is not registered for asynchronous write protection, or not wholly mapped"
            : "\(error); it needs Linux 6.7"))
    }
    do throws(VMMError) { try checkMappings(.startDirtyLog) } catch {
      punches.end()
      throw error
    }
  }

  /// Refuses a memory file in which small pages may be parts of large ones. When a part of one is
  /// punched that something has pinned, the kernel clears it in its place, behind taking it out of
  /// the mappings (`truncate_inode_partial_folio`, Linux 6.18, mm/truncate.c): it may have come
  /// back into ours between the two, by a fault for its neighbour, and would not be found.
  private func checkHugePages() throws(VMMError) {
    guard let watched, layout.regions.contains(where: { $0.pageSize == .small }) else { return }
    let setting: String?
    do throws(SystemError) {
      setting = try watched.hugePageSetting(watched.device, processID)
    } catch {
      throw self.error(.startDirtyLog, .refused("\(error)"))
    }
    guard setting == "never" else {
      throw self.error(
        .startDirtyLog,
        .refused(
          "its memory file may get transparent huge pages (huge=\(setting ?? "unknown")), of which "
            + "parts can be punched out unseen"))
    }
  }

  /// Throws unless the process has its memory file mapped as it was, and nowhere else. Behind the
  /// scan: what was written through another mapping before it is found by this one's being there.
  /// One that comes and goes between two looks is not noticed.
  private func checkMappings(_ verb: VMMVerb) throws(VMMError) {
    guard let watched else { return }
    let found: [Piece]?
    do throws(SystemError) {
      found = try watched.pieces(of: layout, processID: processID)
    } catch {
      throw self.error(verb, .failed("\(error)"))
    }
    guard found != pieces else { return }
    let reason =
      "its memory file is mapped in another way than before, or a second time and writable: what "
      + "is written there is not seen"
    throw self.error(verb, verb == .startDirtyLog ? .refused(reason) : .failed(reason))
  }

  /// A page is marked when direct I/O pins it: what lands in it behind the next look is not seen.
  /// So the look waits for what is under way, in a pause; nil where there is no need. Refused where
  /// a pause would not help.
  private func neededPause(_ verb: VMMVerb) throws(VMMError) -> LookPause? {
    let isUnseen: Bool
    do throws(SystemError) { isUnseen = try hasDirectIO(processID) } catch {
      throw self.error(verb, .refused("\(error)"))
    }
    guard isUnseen else { return nil }
    guard let pause, pause.isPossible else {
      throw self.error(
        verb,
        .refused(
          "it does direct I/O (O_DIRECT, or memory or files registered with io_uring), which "
            + "writes into its memory unseen, and its pause does not wait for that"))
    }
    return pause
  }

  /// Makes a new tracker, whose first look protects everything.
  private func begin() throws(UFFDError) {
    try state.withLock { state throws(UFFDError) in
      var tracker = DirtyTracker(
        scanner: try PagemapScanner(processID: processID), ranges: pieces.map(\.range),
        memory: memory)
      try tracker.collect { _, _ in }
      state.tracker = consume tracker
    }
  }

  /// Nothing was sent yet.
  private func watch() throws(SystemError) {
    try punches.begin(
      layout, file: watched?.file, vmm: PagemapPieces(processID: processID, pieces: pieces))
  }

  /// What was written since the last time. Everything, when the record was lost and begins anew.
  func fetchDirtyLog() throws(VMMError) -> [UInt8] {
    try forgettingOnError { () throws(VMMError) in try fetchWhereSeen() }
  }

  private func fetchWhereSeen() throws(VMMError) -> [UInt8] {
    if let pause = try neededPause(.fetchDirtyLog) {
      return try pause.during { () throws(VMMError) in try look().bits }
    }
    let found = try look()
    guard let pause = try neededPause(.fetchDirtyLog) else { return found.bits }
    // Opened meanwhile: what was under way during the look has lost its mark, and has landed once
    // the VM stands still.
    return try pause.during { () throws(VMMError) in
      var all = try look()
      all.insertAll()
      return all.bits
    }
  }

  /// Nothing is under way any more in a VM whose pause has waited for it.
  func fetchFinalDirtyLog() throws(VMMError) -> [UInt8] {
    try forgettingOnError { () throws(VMMError) in
      _ = try neededPause(.fetchDirtyLog)
      let found = try look(isLast: true)
      _ = try neededPause(.fetchDirtyLog)
      return found.bits
    }
  }

  /// A look takes the kernel's marks away: when what follows it fails, what it found is lost, and
  /// the next one begins anew with everything.
  private func forgettingOnError<Result>(
    _ body: () throws(VMMError) -> Result
  ) throws(VMMError) -> Result {
    do throws(VMMError) { return try body() } catch {
      state.withLock { $0.tracker = nil }
      throw error
    }
  }

  private func look(isLast: Bool = false) throws(VMMError) -> ImagePageSet {
    var found = ImagePageSet(layout)
    do throws(UFFDError) {
      try state.withLock { state throws(UFFDError) in
        guard var tracker = state.tracker.take() else {
          // The last look failed, or what followed it.
          throw UFFDError(.scanPagemap, errno: .noSuchEntry)
        }
        try collect(from: &tracker, isLast: isLast, into: &found)
        state.tracker = consume tracker
      }
    } catch {
      // Whoever had registered it may have done so again. What it wrote meanwhile nobody knows.
      do throws(UFFDError) {
        try begin()
      } catch {
        throw self.error(.fetchDirtyLog, .failed("\(error)"))
      }
      found.insertAll()
    }
    try checkMappings(.fetchDirtyLog)
    return found
  }

  private func collect(
    from tracker: inout DirtyTracker, isLast: Bool, into found: inout ImagePageSet
  ) throws(UFFDError) {
    var unmapped: [Range<UInt64>] = []
    try tracker.collect(isLast: isLast) { run, kind in
      forEachPart(of: run) { part in
        if kind == .unpopulated, memory != .privateFile {
          unmapped.append(part)
        } else {
          // Of a file's private mapping, what is dropped is what the file holds, whatever was sent.
          found.insert(from: part.lowerBound, byteCount: UInt64(part.count))
        }
      }
    }
    try punches.look(unmapped: unmapped, of: layout, into: &found)
  }

  /// Looks no more. What is protected stays so: the first write to each page ends it.
  func stopDirtyLog() throws(VMMError) {
    state.withLock { $0.tracker = nil }
  }

  private func error(_ verb: VMMVerb, _ problem: VMMError.Problem) -> VMMError {
    VMMError(
      vmName: vmName, verb: verb, address: "pagemap of process \(processID)", problem: problem)
  }

  /// Calls `body` with what a range of addresses is of the image.
  private func forEachPart(of run: HostRange, _ body: (Range<UInt64>) -> Void) {
    for piece in pieces where piece.range.overlaps(run) {
      let start = max(piece.range.start, run.start)
      let end = min(piece.range.end, run.end)
      let offset = piece.imageOffset + (start.rawValue - piece.range.start.rawValue)
      body(offset..<offset + (end.rawValue - start.rawValue))
    }
  }
}
