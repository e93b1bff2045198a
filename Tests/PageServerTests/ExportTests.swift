import Codec
import Foundation
import Migration
import Pages
import Session
import System
import Testing
import Wire

@testable import PageServer

/// What a backing serves for one page.
private enum Served: Equatable {
  case bytes([UInt8])
  case poisoned
  case lost(MemoryError)
}

private func serve(_ backing: any MemoryBacking, _ flatIndex: Int) -> Served {
  let layout = backing.naturalLayout
  let id = layout.pageID(atFlatIndex: flatIndex)
  let region = layout.regions[Int(id.region.rawValue)]
  let size = region.pageSize.byteCount
  var bytes = [UInt8](repeating: 0xAA, count: size)
  do throws(MemoryError) {
    let result = try bytes.withMutableRawBytes { span throws(MemoryError) in
      try backing.read(
        into: &span, at: region.imageOffset.rawValue + id.page.rawValue * UInt64(size),
        pageByteCount: size)
    }
    return result == .complete ? .bytes(bytes) : .poisoned
  } catch { return .lost(error) }
}

/// The flat indices of the pages that a search finds, each once.
private func found(
  _ backing: any MemoryBacking,
  _ search: (Range<UInt64>, (Range<UInt64>) -> Void) throws(MemoryError) -> UInt64
) throws -> Set<Int> {
  var pages = Set<Int>()
  for region in backing.naturalLayout.regions {
    let start = region.imageOffset.rawValue
    let end = start + region.byteCount.rawValue
    let size = UInt64(region.pageSize.byteCount)
    let first = backing.naturalLayout.flatIndex(
      of: PageID(region: region.index, page: PageIndex(0)))
    var position = start
    while position < end {
      position = try search(position..<end) { run in
        for page in (run.lowerBound - start) / size..<(run.upperBound - start) / size {
          #expect(pages.insert(first + Int(page)).inserted)
        }
      }
    }
  }
  return pages
}

@Suite(.timeLimit(.minutes(5))) struct ExportTests {
  @Test(arguments: 0..<12) func servesWhatTheMemoryServed(_ seed: UInt64) throws {
    let fixture = try ExportFixture()
    let image = try ImageBacking(seed: seed)
    let header = try fixture.export(image, isEncrypted: seed.isMultiple(of: 2))
    let backing = try fixture.open()
    try backing.file.verify()
    #expect(backing.naturalLayout == image.naturalLayout)
    var content = 0
    for index in image.pages.indices {
      #expect(serve(backing, index) == serve(image, index), "seed \(seed), page \(index)")
      if image.pages[index] == .content { content += 1 }
    }
    #expect(header.counts.content == UInt64(content))
    #expect(header.counts.unheld == 0)
    #expect(
      header.counts.zero
        == UInt64(image.pages.count { $0 == .zero || $0 == .absent }))
    let zeros = try found(backing, backing.searchAbsent)
    #expect(
      zeros == Set(image.pages.indices.filter { [.zero, .absent].contains(image.pages[$0]) }))
    #expect(try found(backing, backing.searchUnheld).isEmpty)
  }

  @Test(arguments: 20..<32) func holdsExactlyWhatIsAwaited(_ seed: UInt64) throws {
    let fixture = try ExportFixture()
    let image = try ImageBacking(seed: seed)
    var random = ExportRandom(seed: seed)
    let states = image.pages.map { _ in PageState.allCases.randomElement(using: &random)! }
    let awaited = try ExportAwaited.open(
      fixture.pageStates(states), session: testSession, layout: image.naturalLayout)
    let header = try fixture.export(image, awaited: awaited)
    let backing = try fixture.open()
    try backing.file.verify()
    #expect(header.counts.unheld == UInt64(states.count { $0.isSettled }))
    for (index, state) in states.enumerated() {
      let served = serve(backing, index)
      if !state.isSettled {
        #expect(served == serve(image, index), "seed \(seed), page \(index)")
      } else {
        guard case .lost(.notInExport) = served else {
          Issue.record("seed \(seed): page \(index), \(state), was served")
          continue
        }
      }
    }
    #expect(
      try found(backing, backing.searchUnheld)
        == Set(states.indices.filter { states[$0].isSettled }))
  }

  /// Runs are read as the engine reads them: across chunks, kinds and poisoned pages.
  @Test func readsRunsOfMixedPages() throws {
    let fixture = try ExportFixture()
    let image = try ImageBacking(seed: 77, hugePageCount: 0)
    try fixture.export(image)
    let backing = try fixture.open()
    for region in image.naturalLayout.regions {
      let pageCount = Int(region.pageCount.rawValue)
      for start in stride(from: 0, to: pageCount, by: 7) {
        let count = min(16, pageCount - start)
        let offset = region.imageOffset.rawValue + UInt64(start * 4096)
        var ours = [UInt8](repeating: 1, count: count * 4096)
        var theirs = [UInt8](repeating: 2, count: count * 4096)
        let result = try ours.withMutableRawBytes { span throws(MemoryError) in
          try backing.read(into: &span, at: offset, pageByteCount: 4096)
        }
        let expected = try theirs.withMutableRawBytes { span throws(MemoryError) in
          try image.read(into: &span, at: offset, pageByteCount: 4096)
        }
        #expect(result == expected)
        var end = ours.count
        if case .poisoned(let offset) = result { end = offset }
        #expect(ours[..<end] == theirs[..<end])
      }
    }
  }

  /// A destination that lists its regions in another order than they have in the image.
  @Test func readsPageStatesInTheDestinationsOrder() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 12)
    try memory.fill(0..<12)
    let layout = try ImageLayout([
      Region(
        index: RegionIndex(0), imageOffset: ByteCount(8 * 4096), byteCount: ByteCount(4 * 4096),
        pageSize: .small),
      Region(
        index: RegionIndex(1), imageOffset: .zero, byteCount: ByteCount(8 * 4096),
        pageSize: .small),
    ])
    var states = [PageState](repeating: .present, count: 12)
    states[1] = .missing
    states[4] = .requested
    let awaited = try ExportAwaited.open(
      fixture.pageStates(states), session: testSession, layout: layout)
    try fixture.export(try memory.open(), awaited: awaited)
    let backing = try fixture.open()
    #expect(try found(backing, backing.searchUnheld) == Set(0..<12).subtracting([0, 9]))
    #expect(serve(backing, 9) == .bytes(memory.content(9)))
  }

  @Test func foreignPageStatesAreRefused() throws {
    let fixture = try ExportFixture()
    let layout = try TestMemory(pageCount: 8).open().naturalLayout
    let path = try fixture.pageStates([PageState](repeating: .missing, count: 8))
    #expect(throws: PageStateFileError.self) {
      try ExportAwaited.open(path, session: SessionID(high: 1, low: 1), layout: layout)
    }
    let other = try TestMemory(pageCount: 9).open().naturalLayout
    let error = #expect(throws: PageStateFileError.self) {
      try ExportAwaited.open(path, session: testSession, layout: other)
    }
    #expect("\(try #require(error))".contains("9 pages"))
  }

  @Test func poisonIsRecordedAndALotOfItIsAFailingDevice() throws {
    let fixture = try ExportFixture()
    let limit = SourceContext.maximumPoisonedPageCount
    let memory = try TestMemory(pageCount: limit + 2)
    try memory.fill(0..<limit + 2)
    let broken = PoisonedBacking(try memory.open(), poisonedPages: Set(0...limit))
    let error = #expect(throws: ExportError.self) { try fixture.export(broken) }
    #expect(
      error
        == .memory(
          .tooManyPoisonedPages(name: memory.source.description, count: limit + 1)))
    #expect(try FileManager.default.contentsOfDirectory(atPath: fixture.directory).isEmpty)
    try fixture.export(PoisonedBacking(try memory.open(), poisonedPages: [3]))
    let backing = try fixture.open()
    #expect(serve(backing, 3) == .poisoned)
    #expect(serve(backing, 4) == .bytes(memory.content(4)))
  }

  @Test func holesOfTheMemoryAreNotFilled() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 3000)
    try memory.fill([0, 1, 1500, 2999])
    let blocks = memory.blockCount()
    let header = try fixture.export(try memory.open())
    #expect(memory.blockCount() == blocks)
    #expect(header.counts.content == 4)
    #expect(header.counts.zero == 2996)
  }

  @Test func memoryThatChangesMeanwhileLeavesNoFile() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    var exporter = try Exporter(fixture.request(), of: try memory.open())
    let estimate = try exporter.estimate()
    try memory.descriptor.setByteCount(4096, operand: "test")
    #expect(throws: ExportError.self) { try exporter.write(estimate: estimate) }
    #expect(try FileManager.default.contentsOfDirectory(atPath: fixture.directory).isEmpty)
  }

  @Test func nobodyElseReadsItAndNothingIsReplaced() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 4)
    try fixture.export(try memory.open())
    #expect(try FileStatus.of(path: fixture.path).permissions == 0o600)
    #expect(
      try FileManager.default.contentsOfDirectory(atPath: fixture.directory) == ["web.pcx"])
    let before = try fixture.bytes()
    #expect(throws: ExportError.exists(path: fixture.path)) {
      try fixture.export(try memory.open())
    }
    #expect(try fixture.bytes() == before)
    let partial = fixture.path + ExportFileWriter.partialEnding
    try FileManager.default.removeItem(atPath: fixture.path)
    try Data("other".utf8).write(to: URL(fileURLWithPath: partial))
    #expect(throws: ExportError.unfinished(path: partial)) {
      try fixture.export(try memory.open())
    }
    #expect(FileManager.default.contents(atPath: partial) == Data("other".utf8))
  }

  @Test func stoppedItLeavesNothing() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 3000)
    try memory.fill(0..<3000)
    var exporter = try Exporter(fixture.request(), of: try memory.open())
    var calls = 0
    #expect(throws: ExportError.stopped(path: fixture.path)) {
      try exporter.write(estimate: 0) { _ in
        calls += 1
        return calls < 2
      }
    }
    #expect(calls == 2)
    #expect(try FileManager.default.contentsOfDirectory(atPath: fixture.directory).isEmpty)
  }

  /// A name that somebody takes while the export is written is theirs.
  @Test func aNameThatIsTakenMeanwhileIsNotReplaced() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 4)
    var exporter = try Exporter(fixture.request(), of: try memory.open())
    let path = fixture.path
    #expect(throws: ExportError.exists(path: path)) {
      try exporter.write(estimate: 0) { _ in
        try? Data("theirs".utf8).write(to: URL(fileURLWithPath: path))
        return true
      }
    }
    #expect(FileManager.default.contents(atPath: path) == Data("theirs".utf8))
    #expect(
      try FileManager.default.contentsOfDirectory(atPath: fixture.directory) == ["web.pcx"])
  }

  /// Two exports of one session share no key: the same page is not sealed twice alike.
  @Test func twoExportsShareNothing() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    try fixture.export(try memory.open())
    let first = try fixture.bytes()
    try FileManager.default.removeItem(atPath: fixture.path)
    try fixture.export(try memory.open())
    let second = try fixture.bytes()
    #expect(first.count == second.count)
    #expect(first[8192..<8224] != second[8192..<8224])
    let content = memory.content(3)
    #expect(first.firstRange(of: content) == nil, "the guest's memory is encrypted")
    try FileManager.default.removeItem(atPath: fixture.path)
    try fixture.export(try memory.open(), isEncrypted: false)
    #expect(try fixture.bytes().firstRange(of: content) != nil)
  }
}
