import Pages
import System
import Testing
import Wire

@testable import Session

@Suite("Preflight: processors and room")
struct PreflightTests {
  private func features(_ cpuinfo: String) throws -> ProcessorFeatures {
    let scratch = try ScratchDirectory()
    try scratch.write(cpuinfo, to: "proc/cpuinfo")
    return ProcessorFeatures.of(HostFiles(root: scratch.path))
  }

  @Test("x86: instructions count, the kernel's own notes do not; the first processor's")
  func x86() throws {
    let found = try features(
      "processor\t: 0\nflags\t\t: fpu sse2 avx2 pti ssbd aperfmperf\n\n"
        + "processor\t: 1\nflags\t\t: fpu\n"
    )
    #expect(found.text == "avx2 fpu sse2")
  }

  @Test("arm64: all of them count")
  func arm() throws {
    #expect(try features("processor : 0\nFeatures\t: fp asimd sve\n").text == "asimd fp sve")
  }

  @Test("this host has some, and lacks none of its own")
  func here() {
    let here = ProcessorFeatures.ofThisHost()
    #expect(!here.names.isEmpty)
    #expect(here.text.utf8.count <= WireLimits.maximumProcessorFeaturesByteCount)
    #expect(here.missing(from: here).isEmpty)
    #expect(ProcessorFeatures(text: here.text) == here)
  }

  @Test("what a guest may have seen has to be here, unless the operator knows better")
  func processors() {
    let more = ProcessorFeatures(text: "avx2 avx512f sse2")
    let fewer = ProcessorFeatures(text: "sse2")
    let none = ProcessorFeatures(text: "")
    func verdict(
      _ here: ProcessorFeatures, _ there: ProcessorFeatures, mayLack: Bool = false
    ) -> HostFinding.Verdict {
      Preflight.processorFinding(here: here, there: there, mayLack: mayLack).verdict
    }
    #expect(verdict(more, fewer) == .good)
    #expect(verdict(fewer, more) == .missing)
    #expect(verdict(fewer, more, mayLack: true) == .limited)
    #expect(verdict(none, more) == .limited)
    #expect(verdict(fewer, none) == .limited)
    let finding = Preflight.processorFinding(here: fewer, there: more, mayLack: false)
    #expect(finding.text.contains("avx2, avx512f") && finding.text.contains("--allow-fewer"))
  }

  @Test("room is looked for where the directory will be; page states need a byte each")
  func room() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(
      statePath: scratch.path + "/not/there/yet", runPath: scratch.path)
    let small = Preflight.roomFindings(directory, pageCount: PageCount(1000))
    #expect(small.map(\.verdict) == [.good, .good])
    // More than any file system has.
    let huge = Preflight.roomFindings(directory, pageCount: PageCount(rawValue: 1 << 60))
    #expect(huge.map(\.verdict) == [.good, .missing])
    #expect(Preflight.refusals(of: huge).count == 1)
  }

  @Test("some memory stays free beside the guest")
  func headroom() throws {
    var host = HostTests.good
    let image = try ImageLayout([
      Region(
        index: RegionIndex(0), imageOffset: .zero, byteCount: ByteCount(rawValue: 1 << 30),
        pageSize: .small)
    ])
    func refusals() -> Int {
      Preflight.refusals(
        of: Preflight.destinationFindings(
          image: image, memory: .sharedMemory, host: host, vmmGroupAvailable: nil,
          stagesSeeds: false)
      ).count
    }
    let needed =
      1 << 30 + Preflight.overheadByteCount + image.totalPageCount.rawValue
      + Preflight.usualHeadroomByteCount
    host.availableByteCount = needed
    #expect(refusals() == 0)
    host.availableByteCount = needed - 1
    #expect(refusals() == 1)
  }
}

@Suite("How the rounds go")
struct RoundStatusTests {
  @Test("the time that is left is what is gained on the guest")
  func left() {
    func left(_ sent: UInt64?, _ dirty: UInt64?) -> UInt64? {
      RoundStatus(
        number: 2, remainingByteCount: 300, sentBytesPerSecond: sent, dirtyBytesPerSecond: dirty,
        predictedDowntimeNanoseconds: nil, throttlePercent: 0, throttleMeans: nil, tracking: "vmm",
        lookNanoseconds: 0
      ).nanosecondsLeft
    }
    #expect(left(100, nil) == 3_000_000_000)
    #expect(left(100, 40) == 5_000_000_000)
    #expect(left(100, 100) == nil)
    #expect(left(100, 500) == nil)
    #expect(left(nil, 10) == nil)
  }
}
