import Codec
import FuzzTargets
import Glibc
import System
import Testing
import Wire

/// The corpus of the fuzz targets, without a fuzzer: what was ever found stays found, in every
/// build and under every sanitizer.
@Suite("The corpus", .timeLimit(.minutes(5)))
struct CorpusTests {
  private static let directory: String = {
    // From Tests/FuzzTests/CorpusTests.swift to the root.
    let parts = #filePath.split(separator: "/").dropLast(3)
    return "/" + parts.joined(separator: "/") + "/Fuzzing/corpus"
  }()

  private static func files(of target: FuzzTarget) throws -> [String] {
    let path = "\(directory)/\(target.rawValue)"
    guard let stream = unsafe opendir(path) else { throw SystemError("opendir", path) }
    // unsafe: opened above, closed here and nowhere else.
    defer { unsafe closedir(stream) }
    var names: [String] = []
    // unsafe: the stream is open until the function ends, and each entry is read at once.
    while let entry = unsafe readdir(stream) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if !name.hasPrefix(".") { names.append("\(path)/\(name)") }
    }
    return names.sorted()
  }

  @Test("breaks no property of its target", arguments: FuzzTarget.allCases)
  func runs(_ target: FuzzTarget) throws {
    let files = try Self.files(of: target)
    #expect(!files.isEmpty)
    for file in files {
      let input = try FileSystem.contents(ofSmallFile: file)
      #expect(input.count <= target.maximumInputByteCount, "\(file)")
      target.run(input)
    }
  }

  @Test("holds the seeds as the encoders give them today", arguments: FuzzTarget.allCases)
  func seeds(_ target: FuzzTarget) throws {
    for seed in target.seeds {
      let path = "\(Self.directory)/\(target.rawValue)/\(seed.name).bin"
      let found = try FileSystem.contents(ofSmallFile: path)
      #expect(found == seed.bytes, "\(path): run Tools/fuzz --write-seeds")
    }
  }

  @Test("has a frame of every type that is well formed")
  func everyFrameType() throws {
    var types: Set<FrameType> = []
    for seed in FuzzTarget.frames.seeds {
      var stream = Array(seed.bytes.dropFirst())
      while !stream.isEmpty {
        let header = try FrameHeader(decoding: stream.rawBytes)
        types.insert(header.type)
        stream.removeFirst(header.frameByteCount)
      }
    }
    #expect(types == Set(FrameType.allCases))
  }

  @Test("is looked at in pieces too: every cut of every seed", arguments: FuzzTarget.allCases)
  func cuts(_ target: FuzzTarget) {
    for seed in target.seeds {
      for count in stride(from: 0, to: seed.bytes.count, by: seed.bytes.count / 64 + 1) {
        target.run(Array(seed.bytes.prefix(count)))
      }
    }
  }
}
