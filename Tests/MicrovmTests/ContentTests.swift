import GuestKit
import Pages
import Testing

@testable import GuestKit

@Suite struct ContentTests {
  private func page(_ content: PageContent) -> [UInt64] {
    var words = [UInt64](repeating: 0xdead, count: PageContent.wordCount)
    var span = words.mutableSpan
    content.fill(&span)
    return words
  }

  // A span cannot stand inside #expect.
  private func matches(_ content: PageContent, _ words: [UInt64]) -> Bool {
    content.matches(words.span)
  }

  private func firstDifference(_ content: PageContent, _ words: [UInt64]) -> Int? {
    content.firstDifference(in: words.span)
  }

  @Test func aPageHoldsIdVersionChecksumAndMix() {
    let content = PageContent(id: 77, version: 3, seed: 5)
    let words = page(content)
    #expect(words[0] == 77)
    #expect(words[1] == 3)
    #expect(words[2] == content.checksum)
    #expect(words[3...].allSatisfy { $0 == content.mix })
    #expect(matches(content, words))
    #expect(firstDifference(content, words) == nil)
  }

  @Test(arguments: [1, 2, 254, 508, 509])
  func noiseStandsBeforeTheMix(count: Int) {
    let content = PageContent(id: 77, version: 3, seed: 5, noiseWordCount: count)
    let words = page(content)
    #expect(words[..<3] == page(PageContent(id: 77, version: 3, seed: 5))[..<3])
    #expect(words[3] == content.mix && Set(words[3..<3 + count]).count == count)
    #expect(words[(3 + count)...].allSatisfy { $0 == content.mix })
    #expect(words.indices.allSatisfy { content.word(at: $0) == words[$0] })
    #expect(matches(content, words) && firstDifference(content, words) == nil)
    for index in [0, 3, 3 + count / 2, 2 + count, 511] {
      var damaged = words
      damaged[index] ^= 1
      #expect(!matches(content, damaged) && firstDifference(content, damaged) == index)
    }
    let zero = PageContent(id: 77, version: 0, seed: 5, noiseWordCount: count)
    #expect(page(zero).allSatisfy { $0 == 0 })
  }

  @Test func versionZeroIsAllZeros() {
    let words = page(PageContent(id: 77, version: 0, seed: 5))
    #expect(words.allSatisfy { $0 == 0 })
  }

  @Test(arguments: [0, 1, 2, 3, 4, 255, 510, 511])
  func oneWrongWordIsSeen(index: Int) {
    let content = PageContent(id: 77, version: 3, seed: 5)
    var words = page(content)
    words[index] ^= 1 << 40
    #expect(!matches(content, words))
    #expect(firstDifference(content, words) == index)
  }

  @Test func staleForeignAndOtherGuestsPagesDiffer() {
    let content = PageContent(id: 77, version: 3, seed: 5)
    for other in [
      PageContent(id: 77, version: 2, seed: 5), PageContent(id: 78, version: 3, seed: 5),
      PageContent(id: 77, version: 3, seed: 6), PageContent(id: 77, version: 0, seed: 5),
    ] {
      #expect(!matches(content, page(other)))
    }
  }

  @Test func aShortPageNeverMatches() {
    let words = [UInt64](repeating: 0, count: 511)
    #expect(!matches(PageContent(id: 1, version: 0, seed: 0), words))
  }

  @Test func removalKeepsTheVersionAndAWriteEndsIt() {
    let entry = TableEntry(rawValue: 7)
    #expect(entry.removed.isRemoved)
    #expect(entry.removed.version == 7)
    #expect(entry.removed.written == TableEntry(rawValue: 8))
  }
}

@Suite struct GuestLayoutTests {
  @Test(arguments: [PageSize.small, .huge], [1, 2, 3, 4])
  func everyDataPageHasOneOwner(pageSize: PageSize, vcpus: Int) throws {
    let layout = try GuestLayout(
      byteCount: 32 << 20, vcpuCount: vcpus, pageSize: pageSize, seed: 1, removedMayKeep: false)
    var owners = [Int?](repeating: nil, count: layout.pageCount)
    for vcpu in 0..<vcpus {
      for local in 0..<layout.pagesPerVcpu {
        let page = layout.dataPage(ofVcpu: vcpu, local: local)
        #expect(owners[page] == nil)
        #expect(layout.owner(ofDataPage: page) == vcpu)
        owners[page] = vcpu
      }
    }
    #expect(!owners.contains(nil))
    #expect(layout.pagesOffset % UInt64(pageSize.byteCount) == 0)
    #expect(layout.pagesEnd <= layout.byteCount)
    #expect(layout.tableOffset + UInt64(layout.pageCount) * 4 <= layout.pagesOffset)
  }

  @Test func imagePagesNameDataPagesOnly() throws {
    let layout = try GuestLayout(
      byteCount: 16 << 20, vcpuCount: 3, pageSize: .small, seed: 1, removedMayKeep: false)
    let first = layout.imagePage(ofDataPage: 0)
    #expect(layout.dataPage(ofImagePage: first) == 0)
    #expect(layout.dataPage(ofImagePage: first - 1) == nil)
    #expect(layout.dataPage(ofImagePage: first + UInt64(layout.pageCount)) == nil)
  }

  @Test func largeMemoryHasADirectoryForEachGigabyte() throws {
    let layout = try GuestLayout(
      byteCount: 6 << 30, vcpuCount: 2, pageSize: .small, seed: 1, removedMayKeep: true)
    #expect(layout.directoryCount == 6)
    #expect(layout.pageCount > 1_500_000)
  }

  @Test(arguments: [(UInt64(0), 1), (3 << 20, 1), (65 << 30, 1), (16 << 20, 0), (16 << 20, 5)])
  func shapesThatNoGuestHasAreRefused(byteCount: UInt64, vcpus: Int) {
    #expect(throws: GuestShapeError.self) {
      _ = try GuestLayout(
        byteCount: byteCount, vcpuCount: vcpus, pageSize: .small, seed: 1, removedMayKeep: false)
    }
  }

  @Test func hugePagesNeedRoomForOneEach() {
    #expect(throws: GuestShapeError.tooSmall(byteCount: 2 << 20)) {
      _ = try GuestLayout(
        byteCount: 2 << 20, vcpuCount: 1, pageSize: .huge, seed: 1, removedMayKeep: false)
    }
  }
}

@Suite struct AccessPatternTests {
  @Test func namesTellOrderAndWrites() throws {
    #expect(AccessPattern("random")?.writePercent == 50)
    #expect(AccessPattern("random-write")?.writePercent == 100)
    #expect(AccessPattern("zipf-read")?.writePercent == 0)
    let limited = try #require(AccessPattern("rate-limited"))
    #expect(limited.operationsPerSecond > 0)
    #expect(limited.writePercent == 100)
  }

  @Test(arguments: ["", "-write", "backwards", "random-"])
  func otherNamesAreRefused(name: String) {
    #expect(AccessPattern(name) == nil)
  }
}

@Suite struct StateBlobTests {
  private let blob: StateBlob = {
    var blob = StateBlob(
      kind: .kvm, vcpuCount: 2, pageSize: 4096, memoryByteCount: 1 << 24, seed: 9)
    blob.sections = [
      .init(tag: 1, vcpu: 0, bytes: [1, 2, 3]), .init(tag: 1, vcpu: 1, bytes: []),
      .init(tag: 2, vcpu: 1, bytes: Array(repeating: 7, count: 300)),
    ]
    return blob
  }()

  @Test func whatWasEncodedIsDecoded() throws {
    let decoded = try StateBlob(decoding: blob.encoded())
    #expect(decoded == blob)
    #expect(try decoded.section(2, vcpu: 1).count == 300)
  }

  @Test func everyTruncationIsRefused() {
    let bytes = blob.encoded()
    for count in 0..<bytes.count {
      #expect(throws: StateBlobError.self) { _ = try StateBlob(decoding: Array(bytes[..<count])) }
    }
  }

  @Test func everyFlippedBitIsRefused() {
    let bytes = blob.encoded()
    for index in bytes.indices {
      var damaged = bytes
      damaged[index] ^= 0x10
      #expect(throws: StateBlobError.self) { _ = try StateBlob(decoding: damaged) }
    }
  }

  @Test func anotherVersionIsNamed() {
    var bytes = blob.encoded()
    bytes[4] = 2
    #expect(throws: StateBlobError.unknownVersion(2)) { _ = try StateBlob(decoding: bytes) }
  }

  @Test func missingAndDoubledSectionsAreRefused() throws {
    var doubled = blob
    doubled.sections.append(doubled.sections[0])
    #expect(throws: StateBlobError.self) { _ = try doubled.section(1, vcpu: 0) }
    #expect(throws: StateBlobError.self) { _ = try blob.section(3, vcpu: 0) }
  }
}
