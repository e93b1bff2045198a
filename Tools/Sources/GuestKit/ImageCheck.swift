internal import CGuestProgram
internal import Glibc
internal import Pages
internal import System

/// What a check or a comparison found wrong. Counts all, spells out the first few.
public struct Findings: Sendable, Equatable, Codable {
  /// More tell nothing new, and a line of JSON has an end.
  public static let maximumSpelledOut = 32

  /// How many things are wrong; 0 is the only good answer.
  public private(set) var count = 0
  /// The first of them, a sentence each.
  public private(set) var sentences: [String] = []

  /// Nothing wrong so far.
  public init() {}

  mutating func add(_ sentence: @autoclosure () -> String) {
    count += 1
    if sentences.count < Self.maximumSpelledOut { sentences.append(sentence()) }
  }
}

/// A stopped guest's whole memory, checked against the rules by which its guest wrote it.
public struct ImageCheck: Sendable, Equatable {
  /// Data pages looked at: all of them.
  public private(set) var pagesChecked = 0
  /// Pages that hold a version.
  public private(set) var writtenPages = 0
  /// Pages that were given back and not written since.
  public private(set) var removedPages = 0
  /// The sum of all versions.
  public private(set) var versionSum: UInt64 = 0
  /// The writes that the vCPUs counted.
  public private(set) var writes: UInt64 = 0
  /// Operations that the vCPUs counted.
  public private(set) var operations: UInt64 = 0
  /// What is wrong.
  public private(set) var findings = Findings()

  /// How many pages are read at once: 1 MiB, past which reading gets no faster.
  static let pagesPerRead = 256

  /// Checks every page, and that no write is missing: for each vCPU, the sum of its pages'
  /// versions must be what the host filled in plus what the vCPU counted.
  public init(of image: some ImageReading) throws(ImageError) {
    let snapshot = try GuestSnapshot(image)
    let layout = snapshot.layout
    checkConstants(snapshot)
    checkConservation(snapshot)
    let expectation = PageExpectation(snapshot)
    do throws(SystemError) {
      try unsafe image.forEachPage(from: layout.pagesOffset, to: layout.pagesEnd) { index, page in
        pagesChecked += 1
        let entry = snapshot.table[index]
        if entry.isRemoved { removedPages += 1 } else if entry.version > 0 { writtenPages += 1 }
        if let reason = unsafe expectation.difference(ofDataPage: index, page) {
          findings.add(
            "data page \(index) (image page \(layout.imagePage(ofDataPage: index))): \(reason)")
        }
      }
      let zero = PageContent(id: 0, version: 0, seed: 0)
      try unsafe image.forEachPage(from: layout.pagesEnd, to: layout.diskRecordOffset) {
        index, page in
        if unsafe !zero.matches(page) {
          findings.add("unused page \(index) behind the data is not zero")
        }
      }
      if layout.bufferPageCount > 0 { try checkBuffer(image, layout) }
    } catch {
      throw .unreadable(error)
    }
  }

  private mutating func checkConstants(_ snapshot: GuestSnapshot) {
    let layout = snapshot.layout
    var expected = [UInt64](repeating: 0, count: snapshot.constantWords.count)
    for (offset, value) in ImageBuilder.headerWords(of: layout) { expected[offset / 8] = value }
    for (offset, value) in ImageBuilder.pageTableWords(of: layout) {
      expected[Int(offset) / 8] = value
    }
    // unsafe: the program is a constant of that size and ends before the array does.
    unsafe expected.withUnsafeMutableBytes {
      unsafe _ = memcpy(
        $0.baseAddress! + Int(layout.codeOffset), guest_program()!, guest_program_byte_count())
    }
    for page in 0..<expected.count / 512
    where expected[page * 512..<page * 512 + 512]
      != snapshot.constantWords[page * 512..<page * 512 + 512]
    {
      findings.add("image page \(page) (header, page tables or program) was changed")
    }
  }

  /// Each page of the disk's buffer holds the block that the disk has said it read there last.
  private mutating func checkBuffer(
    _ image: some ImageReading, _ layout: GuestLayout
  ) throws(SystemError) {
    let record = try image.words(at: layout.diskRecordOffset, count: 512)
    try unsafe image.forEachPage(from: layout.offset(ofBufferPage: 0), to: layout.byteCount) {
      index, page in
      // Behind the buffer there are zeros.
      let block = record[index]
      if unsafe !DiskBlock.content(block).matches(page) {
        findings.add("buffer page \(index): \(unsafe DiskBlock.difference(page, from: block))")
      }
    }
  }

  private mutating func checkConservation(_ snapshot: GuestSnapshot) {
    let sums = snapshot.versionSums()
    for (index, vcpu) in snapshot.vcpus.enumerated() {
      let counted = snapshot.effectiveWrites(ofVcpu: index)
      versionSum += sums[index]
      writes += counted
      operations += vcpu.operations
      if sums[index] != vcpu.prefilled + counted {
        findings.add(
          "vCPU \(index) counted \(counted) writes on \(vcpu.prefilled) filled versions, "
            + "but its pages' versions add up to \(sums[index])")
      }
    }
  }
}

/// What each data page of a stopped guest may hold.
struct PageExpectation {
  private let snapshot: GuestSnapshot
  private let beingWritten: [Int: TableEntry]
  private let beingRemoved: [Range<Int>]

  init(_ snapshot: GuestSnapshot) {
    self.snapshot = snapshot
    var beingWritten: [Int: TableEntry] = [:]
    for vcpu in snapshot.vcpus {
      if let writing = vcpu.pageBeingWritten(snapshot.layout) {
        beingWritten[writing.page] = writing.entry
      }
    }
    self.beingWritten = beingWritten
    beingRemoved = snapshot.vcpus.compactMap { $0.pagesBeingRemoved(snapshot.layout) }
  }

  /// Whether the page was in the middle of being written or given back.
  func isInflight(_ index: Int) -> Bool {
    beingWritten[index] != nil || beingRemoved.contains { $0.contains(index) }
  }

  /// Why the 4 KiB at `page` are not what the data page must hold; nil when they are.
  func difference(ofDataPage index: Int, _ page: UnsafeRawPointer) -> String? {
    let layout = snapshot.layout
    let entry = snapshot.table[index]
    let content = layout.content(ofDataPage: index, version: entry.version)
    let zero = layout.content(ofDataPage: index, version: 0)
    let mayBeZero = entry.isRemoved || entry.version == 0
    let mayBeContent =
      !entry.isRemoved || layout.removedMayKeep || beingRemoved.contains { $0.contains(index) }
    if mayBeZero, unsafe zero.matches(page) { return nil }
    if mayBeContent, unsafe content.matches(page) { return nil }
    if let next = beingWritten[index], next != entry {
      let new = layout.content(ofDataPage: index, version: next.version)
      // The guest writes from word 0 upwards: new words first, then what was there before.
      if mayBeZero, unsafe Self.isTransition(page, from: zero, to: new) { return nil }
      if mayBeContent, unsafe Self.isTransition(page, from: content, to: new) { return nil }
    }
    let words = unsafe (page.load(as: UInt64.self), page.load(fromByteOffset: 8, as: UInt64.self))
    let state = entry.isRemoved ? "removed after version" : "version"
    return "expected \(state) \(entry.version), found words \(words.0), \(words.1)"
  }

  private static func isTransition(
    _ page: UnsafeRawPointer, from old: PageContent, to new: PageContent
  ) -> Bool {
    var isNew = true
    for index in 0..<PageContent.wordCount {
      let word = unsafe page.load(fromByteOffset: index * 8, as: UInt64.self)
      if isNew, word == new.word(at: index) { continue }
      isNew = false
      if word != old.word(at: index) { return false }
    }
    return true
  }
}

extension ImageReading {
  /// Calls `body` with each 4 KiB page of a part of the image, counted from the part's start.
  func forEachPage(
    from start: UInt64, to end: UInt64, _ body: (_ index: Int, _ page: UnsafeRawPointer) -> Void
  ) throws(SystemError) {
    var buffer: [UInt64] = []
    var offset = start
    while offset < end {
      let pages = min(ImageCheck.pagesPerRead, Int((end - offset) / 4096))
      if buffer.count != pages * 512 { buffer = .init(repeating: 0, count: pages * 512) }
      try read(at: offset, into: &buffer)
      let first = Int((offset - start) / 4096)
      // unsafe: the buffer holds `pages` pages while the closure runs.
      unsafe buffer.withUnsafeBytes { bytes in
        for page in 0..<pages { unsafe body(first + page, bytes.baseAddress! + page * 4096) }
      }
      offset += UInt64(pages) * 4096
    }
  }
}
