internal import Glibc
public import Pages
internal import System

/// Memory of a process, through /proc/PID/mem.
public final class ProcessBacking: MemoryBacking {
  /// A mapping smaller than this is no guest's memory when no ranges were named: heaps, stacks and
  /// thread arenas stay below it, the smallest test guest does not.
  public static let smallestCandidateByteCount: UInt64 = 16 << 20

  /// Where it is; with the ranges that were found if none were named.
  public let source: MemorySource
  /// The process, and where in it.
  public let identity: MemoryIdentity
  /// A process does not survive its host.
  public var isVolatile: Bool { true }
  /// One region for each range, in their order, one behind the other.
  public let naturalLayout: ImageLayout
  private let memory: ProcessMemory
  private let ranges: [Range<UInt64>]
  /// The parts whose absent pages are zeros, by address. Guarded because it is read again at the
  /// freeze, when the VMM has had time to change its mappings.
  private let privateAnonymous: Lock<[Range<UInt64>]>

  /// Opens the process that `source` names and checks its ranges.
  public init(_ source: MemorySource) throws(MemorySourceError) {
    guard case .process(let pid, let named) = source else {
      invariantBroken("a process backing is made for a process")
    }
    let mappings: [ProcessMapping]
    do throws(SystemError) {
      memory = try ProcessMemory.open(pid: pid)
      mappings = try ProcessMapping.all(ofPID: pid)
    } catch {
      throw Self.opening(source, pid: pid, error)
    }
    let ranges = named.isEmpty ? try Self.candidate(in: mappings, pid: pid) : named
    self.source = .process(pid: pid, ranges: ranges)
    self.ranges = ranges
    identity = .process(memory.identity, ranges: ranges)
    naturalLayout = try Self.layout(of: ranges, in: mappings, pid: pid, self.source)
    privateAnonymous = Lock(Self.privateAnonymous(mappings))
  }

  /// Checks that the ranges are still mapped, and learns anew which parts of them are anonymous.
  public func markFrozen() throws(MemoryError) {
    let mappings: [ProcessMapping]
    do throws(SystemError) {
      mappings = try ProcessMapping.current(ofPID: memory.identity.pid)
    } catch {
      // The directory in /proc is gone with the process, or belongs to a zombie: ESRCH.
      guard error.errno != .noSuchEntry, error.errno != .noSuchProcess else {
        throw .processGone(name: source.description)
      }
      throw .unreadable(name: source.description, offset: 0, error.errno)
    }
    guard memory.identity.isAlive else { throw .processGone(name: source.description) }
    for range in ranges where Self.firstGap(in: range, mappings) != nil {
      // A zombie has no mappings at all.
      guard !mappings.isEmpty else { throw .processGone(name: source.description) }
      throw .rangeGone(name: source.description, range: MemorySource.hexadecimal(range))
    }
    let anonymous = Self.privateAnonymous(mappings)
    privateAnonymous.withLock { $0 = anonymous }
  }

  /// See `MemoryBacking.read`.
  ///
  /// Never finds poison: /proc/PID/mem answers EIO for every page that it cannot get
  /// (`access_remote_vm` drops the reason; Linux 6.18, mm/memory.c), be it poisoned, unmapped or
  /// lost by swap. Nothing else tells them apart without guessing, and a guess could hide a loss.
  @_lifetime(bytes: copy bytes)
  public func read(
    into bytes: inout MutableRawSpan, at offset: UInt64, pageByteCount: Int
  ) throws(MemoryError) -> MemoryRead {
    let address = self.address(of: offset)
    var filled = 0
    while filled < bytes.byteCount {
      let count: Int
      do throws(Errno) {
        count = try memory.read(
          into: &bytes, from: filled, atAddress: address + UInt64(filled))
      } catch {
        throw memory.identity.isAlive
          ? .unreadable(name: source.description, offset: offset + UInt64(filled), error)
          : .processGone(name: source.description)
      }
      // The address space is gone, whether the process ended or runs another program.
      guard count > 0 else { throw .processGone(name: source.description) }
      filled += count
    }
    return .complete
  }

  /// Finds pages of private anonymous memory that were never touched, through the page map: one
  /// chunk of it a call.
  public func searchAbsent(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 {
    let start = address(of: range.lowerBound)
    let shift = start - range.lowerBound
    let end = range.upperBound + shift
    let part = privateAnonymous.withLock { parts in
      parts.first { $0.upperBound > start && $0.lowerBound < end }
    }
    guard let part else { return range.upperBound }
    let from = max(start, part.lowerBound)
    let limit = min(end, part.upperBound)
    let looked: Int
    do throws(Errno) {
      looked = try memory.absentPages(
        atAddress: from, pageCount: Int((limit - from) / ProcessMemory.pageMapPageByteCount)
      ) { run in found(run.lowerBound - shift..<run.upperBound - shift) }
    } catch {
      throw .unreadable(name: source.description, offset: range.lowerBound, error)
    }
    guard looked > 0 else { throw .processGone(name: source.description) }
    return from + UInt64(looked) * ProcessMemory.pageMapPageByteCount - shift
  }

  /// The address of an image offset. Ranges lie one behind the other in the image.
  private func address(of offset: UInt64) -> UInt64 {
    for (region, range) in zip(naturalLayout.regions, ranges) {
      let start = region.imageOffset.rawValue
      if offset >= start, offset - start < region.byteCount.rawValue {
        return range.lowerBound + (offset - start)
      }
    }
    invariantBroken("an offset lies inside the image")
  }
}
