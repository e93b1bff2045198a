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

  var earliestLook: Instant? { current.log.earliestLook }

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

  func fetchFinalDirtyLog() throws(VMMError) -> [UInt8] { try current.log.fetchFinalDirtyLog() }

  func stopDirtyLog() throws(VMMError) { try current.log.stopDirtyLog() }
}

extension ChosenLog {
  /// The logs that a configuration allows for a VM whose process is known, if it has one.
  static func make(
    _ configuration: SourceConfiguration, _ backing: any MemoryBacking, _ layout: ImageLayout,
    processID: Int32?, seeds: SentSeeds, pause: LookPause
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
            vmName: vmName, processID: processID, backing, layout, punches: seeds.punches,
            pause: pause)
          {
            candidates.append((.pagemap, log))
          }
        } catch {
          // That we may not look into the VMM counts only where we are told to.
          guard configuration.tracking == .automatic else { throw error }
        }
      case .content:
        candidates.append(
          (.content, try ContentLog(vmName: vmName, backing, layout, seeds.digests)))
      }
    }
    return candidates.isEmpty ? nil : ChosenLog(candidates)
  }
}

extension WriteTracking {
  /// What it stands for, in the order in which they are tried.
  var choices: [WriteTracking] { self == .automatic ? [.vmm, .pagemap] : [self] }
}
