internal import Pages
internal import Session
internal import System
internal import UFFD
internal import VMM

/// How it is found out which pages the VM writes while rounds of seeds are sent.
public enum WriteTracking: String, CaseIterable, Hashable, Sendable {
  /// `vmm`, or `pagemap` where the VMM has no log.
  case automatic = "auto"
  /// The VMM tells.
  case vmm
  /// The kernel tells, of memory that the VMM has registered with an asynchronously
  /// write-protecting userfaultfd.
  case pagemap
  /// All of the memory is compared with what was sent: a second and more for each GiB, each time,
  /// the last of them while the VM stands still. Only where it is asked for.
  case content
}

/// The log that a session uses: the first of some that begins.
final class ChosenLog: DirtyLog {
  private let candidates: [(tracking: WriteTracking, log: any DirtyLog)]
  private let position = Lock(0)

  init(_ candidates: [(tracking: WriteTracking, log: any DirtyLog)]) {
    invariant(!candidates.isEmpty, "there is a log to choose")
    self.candidates = candidates
  }

  /// Which one it is; before the start the one that is tried first.
  var tracking: WriteTracking { current.tracking }

  var isCheap: Bool { current.log.isCheap }

  private var current: (tracking: WriteTracking, log: any DirtyLog) {
    candidates[position.withLock { $0 }]
  }

  /// Begins the first that can be had. One that says that it cannot has changed nothing.
  func startDirtyLog() throws(VMMError) {
    while true {
      do throws(VMMError) {
        return try current.log.startDirtyLog()
      } catch {
        let isLast = position.withLock { position in
          guard position + 1 < candidates.count else { return true }
          position += 1
          return false
        }
        guard error.isCertainlyWithoutEffect, !isLast else { throw error }
      }
    }
  }

  func fetchDirtyLog() throws(VMMError) -> [UInt8] { try current.log.fetchDirtyLog() }

  func stopDirtyLog() throws(VMMError) { try current.log.stopDirtyLog() }
}

extension ChosenLog {
  /// The logs that a configuration allows for a VM whose process is known, if it has one.
  static func make(
    _ configuration: SourceConfiguration, _ backing: any MemoryBacking, _ layout: ImageLayout,
    processID: Int32?, digests: SentDigests
  ) throws(SystemError) -> ChosenLog? {
    let vmName = configuration.vmName.text
    var candidates: [(tracking: WriteTracking, log: any DirtyLog)] = []
    for tracking in configuration.tracking.choices {
      switch tracking {
      case .automatic: break
      case .vmm: if let log = configuration.frontEnd.dirtyLog { candidates.append((.vmm, log)) }
      case .pagemap:
        guard let processID else { continue }
        do throws(SystemError) {
          if let log = try PagemapLog.make(
            vmName: vmName, processID: processID, backing, layout)
          {
            candidates.append((.pagemap, log))
          }
        } catch {
          // That we may not look into the VMM counts only where we are told to.
          guard configuration.tracking == .automatic else { throw error }
        }
      case .content:
        candidates.append(
          (.content, try ContentLog(vmName: vmName, backing, layout, digests)))
      }
    }
    return candidates.isEmpty ? nil : ChosenLog(candidates)
  }
}

extension WriteTracking {
  /// What it stands for, in the order in which they are tried.
  var choices: [WriteTracking] { self == .automatic ? [.vmm, .pagemap] : [self] }
}

extension PagemapLog {
  /// The log of a process's writes to its private memory; nil for any other memory.
  static func make(
    vmName: String, processID: Int32, _ backing: any MemoryBacking, _ layout: ImageLayout,
    hasDirectIO: @escaping @Sendable (Int32) throws(SystemError) -> Bool =
      ProcessDescriptors.hasDirectIO(pid:)
  ) throws(SystemError) -> PagemapLog? {
    // Of a memory file a page that is punched out and then only read is there and unwritten: only
    // its content tells that it is another one.
    guard case .process(let identity, let ranges) = backing.identity, identity.pid == processID
    else { return nil }
    let mappings = try ProcessMapping.current(ofPID: processID)
    let isHuge = layout.regions.contains { $0.pageSize == .huge }
    var pieces: [Piece] = []
    var offset: UInt64 = 0
    for range in ranges {
      // Private huge pages have a name.
      guard
        mappings.allSatisfy({
          !$0.addresses.overlaps(range) || $0.isPrivateAnonymous || isHuge && !$0.isShared
        })
      else { return nil }
      pieces.append(
        Piece(
          imageOffset: offset,
          range: HostRange(
            start: HostAddress(rawValue: range.lowerBound),
            end: HostAddress(rawValue: range.upperBound))))
      offset += UInt64(range.count)
    }
    return PagemapLog(
      vmName: vmName, processID: processID, layout, pieces,
      isHuge ? .privateFile : .privateAnonymous, hasDirectIO: hasDirectIO)
  }
}
