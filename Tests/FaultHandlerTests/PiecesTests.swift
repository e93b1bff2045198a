import Migration
import Pages
import System
import Testing
import UFFD

@testable import FaultHandler

/// The parts that need no kernel.
@Suite struct PiecesTests {
  @Test(arguments: [1, 2, 3] as [UInt64]) func theTableOfDemandsRemembersWhatADictionaryDoes(
    seed: UInt64
  ) {
    var state = seed
    func random(below limit: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % limit
    }
    var table = DemandTable()
    var expected: [Int: UInt64] = [:]
    for step in 0..<20_000 {
      // Few distinct pages, so that probes collide, and holes are made in their middle.
      let page = random(below: 3000) * 4096
      if random(below: 5) < 3 {
        let isRoom = table.insert(page, at: Instant(nanoseconds: UInt64(step)))
        if expected[page] == nil, isRoom { expected[page] = UInt64(step) }
      } else {
        let removed = table.remove(page)
        #expect(removed?.nanoseconds == expected.removeValue(forKey: page))
      }
      #expect(table.count == expected.count)
    }
    for (page, step) in expected {
      let removed = table.remove(page)
      #expect(removed?.nanoseconds == step)
    }
    #expect(table.count == 0)
  }

  @Test func aFullTableOfDemandsRefusesAndKeepsWhatItHas() {
    var table = DemandTable()
    var accepted = 0
    while table.insert(accepted, at: Instant(nanoseconds: 1)) { accepted += 1 }
    #expect(accepted == 2048)
    let removed = table.remove(0)
    let isAccepted = table.insert(5000, at: Instant(nanoseconds: 2))
    #expect(removed != nil && isAccepted)
  }

  @Test func manyUnmapsDoNotHideAFork() throws {
    let events = try DataPlaneEvents()
    let page = HostRange(start: HostAddress(rawValue: 4096), byteCount: ByteCount(4096))
    for change in [UserfaultEvent](repeating: .unmap(page), count: 100) + [.fork] {
      events.sayAFewTimes(.init(change: change), .addressSpaceChanged(change))
    }
    var said: [UserfaultEvent] = []
    while case .addressSpaceChanged(let change) = events.take() { said.append(change) }
    #expect(said.count == DataPlaneEvents.maximumRepeatCount + 1)
    #expect(said.last == .fork)
  }

  private func map() throws -> HostRegionMap {
    // The second region of the image lies below the first in the VMM, with a gap in between.
    let document = try AttachDocument(
      parsing: Array(
        ("[{\"base_host_virt_addr\":1048576,\"size\":16384,\"offset\":0},"
          + "{\"base_host_virt_addr\":65536,\"size\":8192,\"offset\":16384}]").utf8))
    return HostRegionMap(document, kinds: [.privateAnonymous, .shared])
  }

  @Test func addressesFindTheirPages() throws {
    let map = try map()
    let cases: [(UInt64, Int?)] = [
      (0, nil), (65535, nil), (65536, 4), (65536 + 4095, 4), (65536 + 4096, 5),
      (65536 + 8192, nil), (1_048_575, nil), (1_048_576, 0), (1_048_576 + 16383, 3),
      (1_048_576 + 16384, nil), (.max, nil),
    ]
    for firstHint in [0, 1] {
      var hint = firstHint
      for (address, page) in cases {
        #expect(map.flatIndex(at: HostAddress(rawValue: address), hint: &hint) == page)
      }
    }
  }

  @Test func pagesFindTheirAddresses() throws {
    let map = try map()
    #expect(map.entry(holding: 3).region.index.rawValue == 0)
    #expect(map.entry(holding: 4).region.index.rawValue == 1)
    let range = map.entry(holding: 5).hostRange(5..<6)
    #expect(range.start.rawValue == 65536 + 4096)
    #expect(range.byteCount.rawValue == 4096)
  }

  @Test func onlyWholePagesOfAPartCount() throws {
    let entry = try map().entries[0]
    func pages(_ start: UInt64, _ end: UInt64) -> Range<Int> {
      entry.pages(
        inside: HostRange(
          start: HostAddress(rawValue: start), end: HostAddress(rawValue: end)))
    }
    #expect(pages(0, 2_000_000) == 0..<4)
    #expect(pages(1_048_576 + 1, 1_048_576 + 12287) == 1..<2)
    #expect(pages(1_048_576 + 1, 1_048_576 + 4095).isEmpty)
    #expect(pages(0, 4096).isEmpty)
  }

  @Test func coverageTellsPrivateSharedMixedAndHoles() {
    let space = ProcessAddressSpace(
      mappings: ProcessMapping.parse(
        """
        10000-20000 rw-p 00000000 00:00 0
        20000-30000 rw-s 00000000 00:01 55 /memfd:guest (deleted)
        40000-50000 rw-p 00000000 00:00 0 [heap]
        """))
    #expect(space.coverage(0x10000..<0x20000) == .allPrivate)
    #expect(space.coverage(0x11000..<0x12000) == .allPrivate)
    #expect(space.coverage(0x20000..<0x30000) == .allShared)
    #expect(space.coverage(0x18000..<0x28000) == .mixed)
    #expect(space.coverage(0x28000..<0x48000) == .unmapped(at: 0x30000))
    #expect(space.coverage(0x8000..<0x18000) == .unmapped(at: 0x8000))
    #expect(space.coverage(0x48000..<0x58000) == .unmapped(at: 0x50000))
  }

  @Test func boundNodesComeFromTheMappingsPolicy() {
    let text = """
      10000 default anon=4 dirty=4 N0=4
      20000 bind:1 anon=4 N1=4
      30000 prefer:0 anon=1
      40000 bind:0-1 anon=1
      50000 bind=static:3
      60000 interleave:0-1
      """
    #expect(
      NumaNodes.boundNodes(
        inText: text, at: [0x8000, 0x10000, 0x20000, 0x28000, 0x30000, 0x40000, 0x50000, 0x60000])
        == [nil, nil, 1, 1, 0, nil, 3, nil])
    #expect(NumaNodes.count >= 1)
  }
}
