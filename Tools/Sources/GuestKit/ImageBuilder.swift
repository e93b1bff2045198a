internal import CGuestProgram
internal import Glibc

/// Puts a fresh guest into empty memory: header, page tables, program, plans and the first pages.
struct ImageBuilder {
  private static let pageTableBits: UInt64 = 0x67  // present, writable, user, accessed, dirty
  private static let hugePageBit: UInt64 = 0x80
  private static let hugePageReach: UInt64 = 2 << 20

  let layout: GuestLayout
  let pattern: AccessPattern
  /// Of 100 data pages, how many hold version 1 from the start; the others were never written.
  let fillPercent: Int

  /// Writes everything. The memory must be untouched, so that what is not written stays absent.
  func build(in memory: GuestMemory) {
    for (offset, value) in Self.headerWords(of: layout) {
      memory.setWord(at: UInt64(offset), to: value)
    }
    for (offset, value) in Self.pageTableWords(of: layout) {
      memory.setWord(at: offset, to: value)
    }
    // unsafe: the program is a constant of that size, and fits in the one page it has.
    unsafe memcpy(
      memory.pointer(at: layout.codeOffset), guest_program()!, guest_program_byte_count())
    let prefilled = prefill(memory)
    for vcpu in 0..<layout.vcpuCount {
      let page = layout.offset(ofVcpu: vcpu)
      for word in pattern.plan(vcpu: vcpu, in: layout, prefilled: prefilled[vcpu]) {
        memory.setWord(at: page + UInt64(word.offset), to: word.value)
      }
    }
  }

  /// The header's words by offset; all others of the page are 0.
  static func headerWords(of layout: GuestLayout) -> [(offset: Int, value: UInt64)] {
    [
      (Int(HEADER_MAGIC), UInt64(GUEST_MAGIC)),
      (Int(HEADER_VERSION), UInt64(GUEST_LAYOUT_VERSION)),
      (Int(HEADER_SEED), layout.seed),
      (Int(HEADER_MEMORY_BYTES), layout.byteCount),
      (Int(HEADER_TABLE_BASE), layout.tableOffset),
      (Int(HEADER_PAGES_BASE), layout.pagesOffset),
      (Int(HEADER_PAGE_COUNT), UInt64(layout.pageCount)),
      (Int(HEADER_VCPU_COUNT), UInt64(layout.vcpuCount)),
      (Int(HEADER_GRANULE_SHIFT), UInt64(layout.granuleShift)),
      (Int(HEADER_FLAGS), layout.removedMayKeep ? UInt64(FLAG_REMOVED_MAY_KEEP) : 0),
      (Int(HEADER_VCPU_BASE), layout.vcpuOffset),
      (Int(HEADER_CODE_BASE), layout.codeOffset),
      (Int(HEADER_NOISE_WORDS), UInt64(layout.noiseWordCount)),
      (Int(HEADER_BUFFER_PAGES), UInt64(layout.bufferPageCount)),
    ]
  }

  /// An identity mapping in 2 MiB pages, with the accessed and dirty bits set beforehand: the
  /// processor then never writes to the tables, and they can be compared byte by byte.
  static func pageTableWords(of layout: GuestLayout) -> [(offset: UInt64, value: UInt64)] {
    let top = GuestLayout.pageTableOffset
    let pointers = top + GuestLayout.smallPage
    let directories = pointers + GuestLayout.smallPage
    var words = [(offset: top, value: pointers | pageTableBits)]
    for index in 0..<layout.directoryCount {
      words.append((pointers + index * 8, directories + index * 4096 | pageTableBits))
    }
    for index in 0..<layout.byteCount / hugePageReach {
      words.append((directories + index * 8, index * hugePageReach | pageTableBits | hugePageBit))
    }
    return words
  }

  private func prefill(_ memory: GuestMemory) -> [UInt64] {
    var versions = [UInt64](repeating: 0, count: layout.vcpuCount)
    for page in 0..<layout.pageCount {
      let id = layout.imagePage(ofDataPage: page)
      // Which pages are filled is a function of seed and id, in no regular order.
      let draw = PageContent(id: id, version: 1, seed: ~layout.seed).mix % 100
      guard draw < UInt64(fillPercent) else { continue }
      // unsafe: a data page is 4 KiB inside the memory, and a table entry 4 aligned bytes.
      unsafe layout.content(ofDataPage: page, version: 1)
        .fill(memory.pointer(at: layout.offset(ofDataPage: page)))
      unsafe memory.pointer(at: layout.tableOffset + UInt64(page) * 4)
        .storeBytes(of: 1, as: UInt32.self)
      versions[layout.owner(ofDataPage: page)] += 1
    }
    return versions
  }
}
