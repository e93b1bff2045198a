internal import FuzzTargets
internal import Glibc
internal import Pages

/// Which target this process feeds: POSTCOPY_FUZZ_TARGET, looked up once.
private let target: FuzzTarget = {
  // unsafe: getenv's string is copied at once, and nothing changes the environment.
  let name = unsafe getenv("POSTCOPY_FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
  guard let target = FuzzTarget(rawValue: name) else {
    let known = FuzzTarget.allCases.map(\.rawValue).joined(separator: ", ")
    print("POSTCOPY_FUZZ_TARGET is \"\(name)\"; known are \(known)")
    exit(64)
  }
  return target
}()

/// libFuzzer's way in: one input. 0 keeps it in the corpus when it reaches something new.
@c(LLVMFuzzerTestOneInput)
public func takeOneInput(_ bytes: UnsafePointer<UInt8>?, _ byteCount: Int) -> CInt {
  // unsafe: libFuzzer's input lives through the call, and is copied here.
  let input = unsafe Array(UnsafeBufferPointer(start: bytes, count: byteCount))
  target.run(input)
  return 0
}

/// Called once before the first input: answers the questions of Tools/fuzz instead of fuzzing.
@c(LLVMFuzzerInitialize)
public func answerQuestions(
  _ count: UnsafeMutablePointer<CInt>?,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?>?
) -> CInt {
  switch CommandLine.arguments.dropFirst().first {
  case "--list":
    for target in FuzzTarget.allCases {
      print("\(target.rawValue) \(target.maximumInputByteCount)")
    }
    exit(0)
  case "--write-seeds":
    writeSeeds(below: CommandLine.arguments.dropFirst(2).first ?? "Fuzzing/corpus")
    exit(0)
  default: return 0
  }
}

/// DIRECTORY/TARGET/NAME.bin for each seed.
private func writeSeeds(below directory: String) {
  for target in FuzzTarget.allCases {
    for seed in target.seeds {
      let path = "\(directory)/\(target.rawValue)/\(seed.name).bin"
      guard let file = unsafe fopen(path, "w") else {
        print("cannot write \(path)")
        exit(1)
      }
      // unsafe: the array lives through the call, which reads its count of bytes.
      let written = unsafe fwrite(seed.bytes, 1, seed.bytes.count, file)
      guard unsafe fclose(file) == 0, written == seed.bytes.count else { exit(1) }
    }
  }
}
