internal import Migration
public import System

/// What the data plane has done so far.
public struct DataPlaneStatistics: Sendable {
  /// Fault messages that were read, duplicates included.
  public var faultCount: UInt64 = 0
  /// Of these, faults on pages that were asked for already, or were there.
  public var repeatedFaultCount: UInt64 = 0
  /// Pages asked for because somebody waited for them.
  public var demandCount: UInt64 = 0
  /// Pages asked for at the end because no push had brought them.
  public var sweptPageCount: UInt64 = 0
  /// Pages installed from answers on the urgent connection.
  public var demandedPageCount: UInt64 = 0
  /// Pages installed from bulk connections.
  public var pushedPageCount: UInt64 = 0
  /// Pages that came as seeds, each as often as it came, zeros included.
  public var seededPageCount: UInt64 = 0
  /// Bytes of seeds that were put on the stage, or in place.
  public var seededByteCount: UInt64 = 0
  /// Pages installed from the stage.
  public var stageInstalledPageCount: UInt64 = 0
  /// Pages that were seeded in place, and that counted as installed when no seed came any more.
  public var inPlacePageCount: UInt64 = 0
  /// Seeds that were to go in place and are missing instead: for lack of memory, held up by an
  /// event that nobody had read, or because something was there.
  public var lostSeedPageCount: UInt64 = 0
  /// Pages that a thread waited for and that were installed as zeros.
  public var zeroFilledPageCount: UInt64 = 0
  /// Pages that the source reported as zeros, whether somebody waited for them or not. Those are
  /// installed only when they are touched: see `zeroFilledPageCount`.
  public var zeroReportedPageCount: UInt64 = 0
  /// Pages that came when they were here, or void, already.
  public var droppedPageCount: UInt64 = 0
  /// Pages that were found to be there although we did not know (EEXIST).
  public var foundPresentPageCount: UInt64 = 0
  /// Pages that the guest gave back.
  public var removedPageCount: UInt64 = 0
  /// Pages that are poisoned as they were at the source.
  public var poisonedPageCount: UInt64 = 0
  /// Fills that had to wait for an event to be read (EAGAIN).
  public var retryCount: UInt64 = 0
  /// Calls of UFFDIO_COPY that installed at least one page.
  public var copyCount: UInt64 = 0
  /// Demands for which there was no room in the table of times; served, but not timed.
  public var untimedDemandCount: UInt64 = 0
  /// Pages of the image in each state, in the order of `PageState`.
  public var pageCountByState: [Int] = []
  /// From reading a fault to its page being installed, for each demand.
  public var demandLatency = LatencyHistogram()

  /// Bytes installed from answers on the urgent connection.
  public var demandedByteCount: UInt64 = 0
  /// Bytes installed from bulk connections.
  public var pushedByteCount: UInt64 = 0

  /// Bytes of pages installed so far.
  public var installedByteCount: UInt64 { demandedByteCount + pushedByteCount }

  /// Pages that need nothing more from the source.
  public var settledPageCount: UInt64 {
    UInt64(
      PageState.allCases.enumerated().reduce(0) { sum, state in
        state.element.isAwaited ? sum : sum + pageCountByState[state.offset]
      })
  }
}
