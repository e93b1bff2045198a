internal import Pages
internal import System

/// A destination's memory compared with the source's at the freeze: is it the same guest, moved
/// without a loss, and perhaps run on?
public struct ImageComparison: Sendable, Equatable {
  /// Pages with the same entry as at the source: their bytes were compared.
  public private(set) var unchangedPages = 0
  /// Pages that the guest wrote since.
  public private(set) var rewrittenPages = 0
  /// Pages that the guest gave back since.
  public private(set) var removedPages = 0
  /// Writes that the guest counted since.
  public private(set) var writesSince: UInt64 = 0
  /// Operations that the guest counted since.
  public private(set) var operationsSince: UInt64 = 0
  /// What is wrong, in either image or between them.
  public private(set) var findings = Findings()

  /// Both guests must be stopped. `source` is the image at the freeze.
  public init(
    source: some ImageReading, destination: some ImageReading
  ) throws(ImageError) {
    for (name, check) in [
      ("source", try ImageCheck(of: source)), ("destination", try ImageCheck(of: destination)),
    ] {
      for sentence in check.findings.sentences { findings.add("\(name): \(sentence)") }
    }
    let old = try GuestSnapshot(source)
    let new = try GuestSnapshot(destination)
    guard old.layout == new.layout else {
      findings.add("source and destination are different guests: \(old.layout), \(new.layout)")
      return
    }
    compareCounters(old, new)
    do throws(SystemError) {
      try comparePages(source, destination, old, new)
    } catch {
      throw .unreadable(error)
    }
  }

  private mutating func compareCounters(_ old: GuestSnapshot, _ new: GuestSnapshot) {
    let (oldSums, newSums) = (old.versionSums(), new.versionSums())
    for index in old.vcpus.indices {
      let (before, after) = (old.vcpus[index], new.vcpus[index])
      if before.plan != after.plan { findings.add("vCPU \(index): its plan was changed") }
      if after.operations < before.operations {
        findings.add(
          "vCPU \(index): operations went back from \(before.operations) to \(after.operations)")
        continue
      }
      operationsSince += after.operations - before.operations
      let (written, counted) = (
        newSums[index].subtractingReportingOverflow(oldSums[index]),
        new.effectiveWrites(ofVcpu: index)
          .subtractingReportingOverflow(old.effectiveWrites(ofVcpu: index))
      )
      guard !written.overflow, !counted.overflow, written.partialValue == counted.partialValue
      else {
        findings.add("vCPU \(index): versions and counted writes grew by different amounts")
        continue
      }
      writesSince += counted.partialValue
    }
  }

  private mutating func comparePages(
    _ source: some ImageReading, _ destination: some ImageReading, _ old: GuestSnapshot,
    _ new: GuestSnapshot
  ) throws(SystemError) {
    let layout = old.layout
    let (oldExpectation, newExpectation) = (PageExpectation(old), PageExpectation(new))
    var (left, right): ([UInt64], [UInt64]) = ([], [])
    var first = 0
    while first < layout.pageCount {
      let count = min(ImageCheck.pagesPerRead, layout.pageCount - first)
      if left.count != count * 512 {
        left = .init(repeating: 0, count: count * 512)
        right = left
      }
      try source.read(at: layout.offset(ofDataPage: first), into: &left)
      try destination.read(at: layout.offset(ofDataPage: first), into: &right)
      for page in first..<first + count {
        let (before, after) = (old.table[page], new.table[page])
        if after.version < before.version {
          findings.add(
            "data page \(page): went back from version \(before.version) to \(after.version)")
        } else if after.version > before.version {
          rewrittenPages += 1
        } else if after.isRemoved != before.isRemoved {
          if before.isRemoved {
            findings.add("data page \(page): was given back, and is not any more")
          }
          removedPages += 1
        } else {
          unchangedPages += 1
          // One that is being written in one of the two was checked word by word.
          guard !oldExpectation.isInflight(page), !newExpectation.isInflight(page) else { continue }
          let words = (page - first) * 512..<(page - first) * 512 + 512
          guard left[words] != right[words] else { continue }
          if !after.isRemoved {
            findings.add("data page \(page): same version, different bytes")
          } else if left[words].allSatisfy({ $0 == 0 }) {
            // What either may show was checked one by one, but nothing brings back what was gone.
            findings.add("data page \(page): given back and zeros, and is not any more")
          }
        }
      }
      first += count
    }
  }
}
