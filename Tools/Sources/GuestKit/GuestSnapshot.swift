internal import CGuestProgram
internal import Pages
public import System

/// Why an image could not be judged at all.
public enum ImageError: Error, CustomStringConvertible, Sendable {
  /// It could not be read.
  case unreadable(SystemError)
  /// It is not the memory of a guest of ours.
  case shape(GuestShapeError)

  /// One sentence.
  public var description: String {
    switch self {
    case .unreadable(let error): "\(error)"
    case .shape(let error): "\(error)"
    }
  }
}

/// The small parts of a stopped guest's memory, read once: header, vCPU pages, version table.
struct GuestSnapshot {
  /// What a vCPU's page said.
  struct Vcpu: Equatable {
    var plan: [UInt64]
    var operations: UInt64
    var writes: UInt64
    var removals: UInt64
    var inflightPage: UInt64
    var inflightEntry: UInt64
    var inflightWrites: UInt64
    var prefilled: UInt64

    /// The data page that was being written when the vCPU stopped, and the entry it is to get.
    func pageBeingWritten(_ layout: GuestLayout) -> (page: Int, entry: TableEntry)? {
      guard inflightPage != 0, inflightEntry & UInt64(ENTRY_REMOVED) == 0,
        let page = layout.dataPage(ofImagePage: inflightPage)
      else { return nil }
      return (page, TableEntry(rawValue: UInt32(truncatingIfNeeded: inflightEntry)))
    }

    /// The data pages that were being given back when the vCPU stopped.
    func pagesBeingRemoved(_ layout: GuestLayout) -> Range<Int>? {
      guard inflightPage != 0, inflightEntry & UInt64(ENTRY_REMOVED) != 0,
        let page = layout.dataPage(ofImagePage: inflightPage)
      else { return nil }
      return page..<page + layout.pagesPerGranule
    }
  }

  let layout: GuestLayout
  let vcpus: [Vcpu]
  let table: [TableEntry]
  /// Everything before the version table but the vCPU pages: it never changes.
  let constantWords: [UInt64]

  init(_ image: some ImageReading) throws(ImageError) {
    layout = try Self.readLayout(image)
    do throws(SystemError) {
      constantWords = try image.words(
        at: 0, count: Int(layout.vcpuOffset) / 8)
      var vcpus: [Vcpu] = []
      for vcpu in 0..<layout.vcpuCount {
        let words = try image.words(at: layout.offset(ofVcpu: vcpu), count: 512)
        vcpus.append(Self.readVcpu(words))
      }
      self.vcpus = vcpus
      // Rounded up to whole words: two entries each.
      let words = try image.words(at: layout.tableOffset, count: (layout.pageCount + 1) / 2)
      table = (0..<layout.pageCount).map { index in
        TableEntry(rawValue: UInt32(truncatingIfNeeded: words[index / 2] >> UInt64(index % 2 * 32)))
      }
    } catch {
      throw .unreadable(error)
    }
  }

  /// How many writes a vCPU has made, one that is in the table but not yet counted included.
  func effectiveWrites(ofVcpu vcpu: Int) -> UInt64 {
    let state = vcpus[vcpu]
    guard let writing = state.pageBeingWritten(layout) else { return state.writes }
    return table[writing.page] == writing.entry ? state.inflightWrites + 1 : state.inflightWrites
  }

  /// The sum of the versions of all pages of a vCPU.
  func versionSums() -> [UInt64] {
    var sums = [UInt64](repeating: 0, count: layout.vcpuCount)
    for page in table.indices {
      sums[layout.owner(ofDataPage: page)] += UInt64(table[page].version)
    }
    return sums
  }

  static func readLayout(_ image: some ImageReading) throws(ImageError) -> GuestLayout {
    let header: [UInt64]
    do throws(SystemError) {
      header = try image.words(at: 0, count: 512)
    } catch {
      throw .unreadable(error)
    }
    func field(_ offset: Int32) -> UInt64 { header[Int(offset) / 8] }
    guard field(HEADER_MAGIC) == UInt64(GUEST_MAGIC),
      field(HEADER_VERSION) == UInt64(GUEST_LAYOUT_VERSION)
    else { throw .shape(.notAnImage("the header's first words are not ours")) }
    guard field(HEADER_MEMORY_BYTES) == image.byteCount else {
      throw .shape(
        .notAnImage("the header says \(field(HEADER_MEMORY_BYTES)) bytes, not \(image.byteCount)"))
    }
    let pageSize: PageSize = field(HEADER_GRANULE_SHIFT) == 0 ? .small : .huge
    do throws(GuestShapeError) {
      guard field(HEADER_VCPU_COUNT) <= UInt64(GuestLayout.maximumVcpuCount) else {
        throw .notAnImage("the header says \(field(HEADER_VCPU_COUNT)) vCPUs")
      }
      let layout = try GuestLayout(
        byteCount: image.byteCount, vcpuCount: Int(field(HEADER_VCPU_COUNT)), pageSize: pageSize,
        seed: field(HEADER_SEED),
        removedMayKeep: field(HEADER_FLAGS) & UInt64(FLAG_REMOVED_MAY_KEEP) != 0,
        noiseWordCount: Int(min(field(HEADER_NOISE_WORDS), 512)),
        bufferPageCount: Int(min(field(HEADER_BUFFER_PAGES), 512)))
      var expected = [UInt64](repeating: 0, count: 512)
      for (offset, value) in ImageBuilder.headerWords(of: layout) { expected[offset / 8] = value }
      guard expected == header else {
        throw .notAnImage("the header does not fit its own memory size")
      }
      return layout
    } catch {
      throw .shape(error)
    }
  }

  private static func readVcpu(_ words: [UInt64]) -> Vcpu {
    func field(_ offset: Int32) -> UInt64 { words[Int(offset) / 8] }
    return Vcpu(
      plan: Array(words[..<(Int(VCPU_PLAN_END) / 8)]), operations: field(VCPU_OPERATIONS),
      writes: field(VCPU_WRITES), removals: field(VCPU_REMOVALS),
      inflightPage: field(VCPU_INFLIGHT_PAGE), inflightEntry: field(VCPU_INFLIGHT_ENTRY),
      inflightWrites: field(VCPU_INFLIGHT_WRITES), prefilled: field(VCPU_PREFILLED))
  }
}

extension ImageReading {
  func words(at offset: UInt64, count: Int) throws(SystemError) -> [UInt64] {
    var words = [UInt64](repeating: 0, count: count)
    try read(at: offset, into: &words)
    return words
  }
}
