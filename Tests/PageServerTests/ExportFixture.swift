import Codec
import Foundation
import Migration
import Pages
import Session
import System
import Testing
import Wire

@testable import PageServer

/// Random numbers that a seed repeats: SplitMix64.
struct ExportRandom: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }
}

/// Memory in an array: any layout, every kind of page, no kernel.
final class ImageBacking: MemoryBacking {
  enum Page: CaseIterable {
    case absent, zero, content, poisoned
  }

  let naturalLayout: ImageLayout
  let pages: [Page]
  let source = MemorySource.file(path: "an image in memory")
  var identity: PageServer.MemoryIdentity { .file(device: 1, inode: 2) }
  var isVolatile: Bool { true }

  init(_ layout: ImageLayout, _ pages: [Page]) {
    precondition(pages.count == Int(layout.totalPageCount.rawValue))
    naturalLayout = layout
    self.pages = pages
  }

  /// Regions in any order and with gaps, of both page sizes; few poisoned pages.
  convenience init(seed: UInt64, hugePageCount: Int = 2) throws {
    var random = ExportRandom(seed: seed)
    var regions: [Region] = []
    var offset: UInt64 = 0
    let regionCount = Int.random(in: 1...4, using: &random)
    for index in 0..<regionCount {
      let isHuge = hugePageCount > 0 && Int.random(in: 0..<3, using: &random) == 0
      let size = isHuge ? PageSize.huge : .small
      let count =
        isHuge
        ? Int.random(in: 1...hugePageCount, using: &random)
        : Int.random(in: 1...2500, using: &random)
      offset = (offset + 0x20_0000 - 1) / 0x20_0000 * 0x20_0000
      regions.append(
        Region(
          index: RegionIndex(index), imageOffset: ByteCount(rawValue: offset),
          byteCount: PageCount(count).byteCount(of: size), pageSize: size))
      offset += PageCount(count).byteCount(of: size).rawValue
      if Bool.random(using: &random) { offset += 0x20_0000 }
    }
    regions.shuffle(using: &random)
    let layout = try ImageLayout(regions)
    var poisonedCount = 0
    var pages: [Page] = []
    while pages.count < Int(layout.totalPageCount.rawValue) {
      // Runs, as memory has them.
      var kind = Page.allCases.randomElement(using: &random) ?? .zero
      var count = Int.random(in: 1...40, using: &random)
      if kind == .poisoned {
        count = 1
        poisonedCount += 1
        if poisonedCount > 20 { kind = .content }
      }
      pages += Array(repeating: kind, count: count)
    }
    self.init(layout, Array(pages.prefix(Int(layout.totalPageCount.rawValue))))
  }

  func content(_ flatIndex: Int) -> [UInt8] {
    let size = naturalLayout.region(naturalLayout.pageID(atFlatIndex: flatIndex).region)
    return TestMemory.content(flatIndex, byteCount: size?.pageSize.byteCount ?? 0)
  }

  func flatIndex(at offset: UInt64) -> Int {
    let region = naturalLayout.regions.first {
      offset >= $0.imageOffset.rawValue
        && offset < $0.imageOffset.rawValue + $0.byteCount.rawValue
    }
    guard let region else { preconditionFailure("an offset lies in the image") }
    let page = (offset - region.imageOffset.rawValue) / UInt64(region.pageSize.byteCount)
    return naturalLayout.flatIndex(
      of: PageID(region: region.index, page: PageIndex(rawValue: page)))
  }

  func markFrozen() throws(MemoryError) {}

  @_lifetime(bytes: copy bytes)
  func read(
    into bytes: inout MutableRawSpan, at offset: UInt64, pageByteCount: Int
  ) throws(MemoryError) -> MemoryRead {
    for start in stride(from: 0, to: bytes.byteCount, by: pageByteCount) {
      let index = flatIndex(at: offset + UInt64(start))
      switch pages[index] {
      case .poisoned: return .poisoned(atOffset: start)
      case .content: bytes.copyBytes(of: content(index).rawBytes, at: start)
      case .zero, .absent: bytes.clearBytes(start..<start + pageByteCount)
      }
    }
    return .complete
  }

  func searchAbsent(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 {
    var position = range.lowerBound
    while position < range.upperBound {
      let index = flatIndex(at: position)
      let id = naturalLayout.pageID(atFlatIndex: index)
      let size = UInt64(naturalLayout.regions[Int(id.region.rawValue)].pageSize.byteCount)
      let end = (position / size + 1) * size
      if pages[index] == .absent { found(position..<min(end, range.upperBound)) }
      position = end
    }
    return min(position, range.upperBound)
  }
}

/// An export and all that it was made of; the directory goes with it.
final class ExportFixture {
  static let base = Epoch(rawValue: 4)
  static let handed = Epoch(rawValue: 5)
  let directory: String
  let path: String
  let token = ExportFixture.token(1)
  let name: VMName

  static func token(_ number: UInt8) -> SessionToken {
    guard let token = SessionToken(bytes: [UInt8](repeating: number, count: 32)) else {
      preconditionFailure("a token has 32 bytes")
    }
    return token
  }

  init() throws {
    directory = temporaryPath("export")
    path = directory + "/web.pcx"
    name = try VMName("web")
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: false,
      attributes: [.posixPermissions: 0o700])
  }

  deinit { try? FileManager.default.removeItem(atPath: directory) }

  func request(proof: ExportProof = .ranAcknowledged) -> ExportRequest {
    ExportRequest(
      vmName: name, session: testSession, epoch: Self.base, mode: .postCopy, proof: proof,
      token: token, path: path)
  }

  @discardableResult
  func export(
    _ backing: any MemoryBacking, isEncrypted: Bool = true, proof: ExportProof = .ranAcknowledged,
    awaited: ExportAwaited? = nil
  ) throws -> ExportHeader {
    var request = request(proof: proof)
    request.isEncrypted = isEncrypted
    var exporter = try Exporter(request, of: backing, awaited: awaited)
    let estimate = try exporter.estimate()
    let header = try exporter.write(estimate: estimate)
    #expect(header.fileByteCount <= estimate)
    return header
  }

  func open(token: SessionToken? = nil) throws -> ExportBacking {
    try ExportBacking(ExportFile.open(path, token: token ?? self.token))
  }

  /// What opening and checking all of the file throws.
  func refusal(token: SessionToken? = nil) -> ExportError? {
    do throws(ExportError) {
      try ExportFile.open(path, token: token ?? self.token).verify()
      return nil
    } catch { return error }
  }

  func bytes() throws -> [UInt8] {
    try FileSystem.contents(ofSmallFile: path, maximumByteCount: 64 << 20)
  }

  /// Replaces the file's content, keeping its mode.
  func replace(_ bytes: [UInt8]) throws {
    let file = try OwnedDescriptor.open(path, flags: O_WRONLY | O_TRUNC)
    try file.writeAll(bytes, atOffset: 0, operand: path)
  }

  /// A page-state file of the session, as it is copied from the destination.
  func pageStates(_ states: [PageState], session: SessionID = testSession) throws -> String {
    let shared = "/dev/shm/export-test-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    defer { try? FileSystem.removeFile(shared) }
    let mapping = MappedBytes(
      try PageStateFile.create(shared, session: session, pageCount: PageCount(states.count)))
    for (index, state) in states.enumerated() { mapping[index] = state.rawValue }
    let copy = directory + "/states"
    try? FileManager.default.removeItem(atPath: copy)
    try FileManager.default.copyItem(atPath: shared, toPath: copy)
    return copy
  }
}
