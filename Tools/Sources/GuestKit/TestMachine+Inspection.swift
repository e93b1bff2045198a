internal import CGuestProgram
internal import Glibc
internal import Pages
internal import System

/// Looking at the guest: progress, checks, dumps, the dirty log.
extension TestMachine {
  /// Operations, writes and removals of all vCPUs.
  public struct Progress: Sendable, Equatable {
    /// Pages visited.
    public var operations: UInt64 = 0
    /// Pages written.
    public var writes: UInt64 = 0
    /// Granules given back.
    public var removals: UInt64 = 0
  }

  /// How far the guest is. nil while a counter's page is not here: asking never waits for a page.
  public var progress: Progress? {
    var sum = Progress()
    let mayBeMissing = state.withLock { $0.attachment != nil }
    guard activity != .incoming else { return nil }
    for vcpu in 0..<layout.vcpuCount {
      let page = layout.offset(ofVcpu: vcpu)
      if mayBeMissing, !memory.isMapped(at: page) { return nil }
      sum.operations += memory.word(at: page + UInt64(VCPU_OPERATIONS))
      sum.writes += memory.word(at: page + UInt64(VCPU_WRITES))
      sum.removals += memory.word(at: page + UInt64(VCPU_REMOVALS))
    }
    return sum
  }

  /// Whether the memory was handed to a handler, and whether that still has its socket open.
  public var attachment: (isAttached: Bool, isHandlerConnected: Bool) {
    let attachment = state.withLock(\.attachment)
    return (attachment != nil, attachment?.isHandlerConnected ?? false)
  }

  /// The states in which nothing runs that could change memory.
  private static let stopped: [Activity] = [.paused, .finished, .disabled, .guestError]

  /// Checks all of the guest's memory.
  public func verify() throws(ControlFailure) -> ImageCheck {
    try whileStopped("verify", in: Self.stopped) { () throws(ControlFailure) in
      do throws(ImageError) {
        if let file = try memoryFile() { return try ImageCheck(of: file) }
        return try ImageCheck(of: memory)
      } catch {
        throw ControlFailure(.failed, "\(error)")
      }
    }
  }

  /// Writes the image to a new file; pages of zeros become holes. Answers the image's length.
  public func dump(to path: String) throws(ControlFailure) -> UInt64 {
    try whileStopped("dump", in: Self.stopped) { () throws(ControlFailure) in
      do throws(ImageError) {
        if let file = try memoryFile() {
          try ImageDump.write(file, to: path)
        } else {
          try ImageDump.write(memory, to: path)
        }
        return layout.byteCount
      } catch {
        throw ControlFailure(.failed, "\(error)")
      }
    }
  }

  /// The memory file, where all of the image is: reading it leaves holes as they are, while reading
  /// the mapping would allocate them. A destination's missing pages are holes too, so there only
  /// the mapping will do: it waits for them.
  private func memoryFile() throws(ImageError) -> ImageFile? {
    guard let descriptor = memory.fileDescriptor, state.withLock({ $0.attachment == nil }) else {
      return nil
    }
    do throws(SystemError) {
      return try ImageFile(path: "/proc/self/fd/\(descriptor)")
    } catch {
      throw .unreadable(error)
    }
  }

  /// Starts, reads or stops KVM's log of written pages.
  func dirtyLog<Result>(
    _ verb: String, _ body: (DirtyLog) throws(SystemError) -> Result
  ) throws(ControlFailure) -> Result {
    guard let log = (engine as? KvmMachine)?.dirtyLog else {
      throw ControlFailure(.badState, "\(verb): the process guest has no dirty log")
    }
    let isStart = verb == "dirty-log-start"
    guard activity != .incoming, log.isTracking != isStart else {
      throw ControlFailure(.badState, "\(verb): the log is \(isStart ? "on already" : "off")")
    }
    do throws(SystemError) {
      return try body(log)
    } catch {
      throw ControlFailure(.failed, "\(error)")
    }
  }

  /// Starts the log: from here on every change is remembered until it is fetched.
  public func startDirtyLog() throws(ControlFailure) {
    try dirtyLog("dirty-log-start") { log throws(SystemError) in try log.start() }
  }

  /// One bit for each 4 KiB page of the image that changed since the last call.
  public func fetchDirtyLog() throws(ControlFailure) -> [UInt8] {
    try dirtyLog("dirty-log-fetch") { log throws(SystemError) in try log.fetch() }
  }

  /// Ends the log.
  public func stopDirtyLog() throws(ControlFailure) {
    try dirtyLog("dirty-log-stop") { log throws(SystemError) in try log.stop() }
  }
}

/// Copies of images on disk.
enum ImageDump {
  static func write(_ image: some ImageReading, to path: String) throws(ImageError) {
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(path, flags: O_WRONLY | O_CREAT | O_EXCL)
      var failure: SystemError?
      let zero = PageContent(id: 0, version: 0, seed: 0)
      try unsafe image.forEachPage(from: 0, to: image.byteCount) { index, page in
        // unsafe: the callback's page is 4 KiB of readable memory.
        guard failure == nil, unsafe !zero.matches(page) else { return }
        if unsafe pwrite(file.rawValue, page, 4096, index * 4096) != 4096 {
          failure = SystemError("pwrite", path)
        }
      }
      if let failure { throw failure }
      guard ftruncate(file.rawValue, Int(image.byteCount)) == 0 else {
        throw SystemError("ftruncate", path)
      }
    } catch {
      throw .unreadable(error)
    }
  }
}
