import ArgumentParser
import Glibc
import Pages
import System

/// Measures the engine against a C reference of the same shape, in interleaved rounds of one run.
@main
struct FaultLatency: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "fault-latency",
    abstract: "Compares the engine's fault latency and bulk rate with a C reference.",
    discussion: """
      Each round runs the engine and the reference alternately in three experiments: idle (faults \
      only), push (faults under a saturated push) and bulk (the whole image pushed before the \
      guest runs). Both have the same threads on the same processors and the same kind of socket. \
      With --tls both run with TLS and without, all four interleaved. Every run ends with a \
      comparison of all the memory. Shown are medians over the rounds.
      """)

  @Option(help: "How many rounds; odd, so that a median is one of them.")
  var rounds = 5

  @Option(help: "MiB of memory in the idle experiment.")
  var idleMebibytes = 64

  @Option(help: "MiB of memory under push and in bulk.")
  var pushMebibytes = 1024

  @Option(help: "Which programs run where: split (guest and destination, source), same, free.")
  var placement = Placement.split

  @Option(help: "The socket between source and destination: tcp (loopback) or unix.")
  var transport = Transport.tcp

  @Option(help: "The TCP port on loopback.")
  var port = 47_311

  @Option(help: "Directory with page-server, postcopyd and fault-latency-reference.")
  var binaries: String?

  @Option(help: "The seed of memory and touching order.")
  var seed: UInt64 = 1

  @Flag(help: "Measure the reference alone.")
  var referenceOnly = false

  @Flag(help: "Measure both with TLS 1.3 as well: what it adds to each.")
  var tls = false

  @Flag(
    help: """
      Keep idle processors awake, as cyclictest does: waking one can take longer than all the rest \
      of a fault, and swings more. Then figures are of the programs' own work.
      """)
  var keepAwake = false

  func validate() throws {
    if tls, referenceOnly || transport == .unix {
      throw ValidationError("--tls measures the engine and the reference, over TCP")
    }
    guard (1...99).contains(rounds) else { throw ValidationError("--rounds: 1 to 99") }
    guard (1...4096).contains(idleMebibytes), (1...65_536).contains(pushMebibytes) else {
      throw ValidationError("memory: 1 to 4096 MiB idle, 1 to 65536 MiB under push")
    }
  }

  func run() throws {
    let directory = try TemporaryDirectory()
    if tls { try makeCertificates(in: directory.path) }
    var table = ResultTable(
      contenders: referenceOnly
        ? [.reference]
        : tls
          ? [.sealed, .engine, .sealedReference, .reference]
          : [.engine, .reference],
      pushByteCount: pushMebibytes << 20)
    var awake: AwakeProcessors?
    if keepAwake {
      guard AwakeProcessors.haveDriver else {
        throw BenchmarkError(
          "idle processors cannot be kept awake: this host has no cpuidle driver")
      }
      awake = try AwakeProcessors()
    }
    print(keepAwake ? "idle processors are kept awake" : "idle processors sleep")
    print("seed \(seed), \(rounds) rounds, placement \(placement.rawValue), \(transport.rawValue)")
    for experiment in Experiment.allCases {
      let mebibytes = experiment == .idle ? idleMebibytes : pushMebibytes
      let image = try FrozenImage(byteCount: mebibytes << 20, seed: seed)
      for round in 0..<rounds {
        // Who goes first alternates, so that neither always meets the warmer machine.
        let order = round % 2 == 0 ? table.contenders : table.contenders.reversed()
        for contender in order {
          let measurement = try measure(contender, experiment, round, image, in: directory.path)
          table.note(measurement, contender, experiment)
          print(table.line(measurement, contender, experiment, round: round))
        }
      }
    }
    print(table.summary())
    _ = consume awake
  }

  private func measure(
    _ contender: Contender, _ experiment: Experiment, _ round: Int,
    _ image: borrowing FrozenImage, in parent: String
  ) throws -> Measurement {
    let directory = "\(parent)/\(experiment.rawValue)-\(round)-\(contender.rawValue)"
    try FileSystem.createDirectories(directory, permissions: 0o700)
    try writeToken("\(directory)/token")
    let commands = CommandLines(
      binaries: binaries ?? ownDirectory, directory: directory,
      certificates: certificates(in: parent),
      address: transport == .tcp ? "127.0.0.1:\(port)" : "unix:\(directory)/source")
    let run = Run(
      contender: contender, experiment: experiment, placement: placement, commands: commands,
      seed: seed &+ UInt64(round))
    do {
      return try run.measure(image)
    } catch {
      let log = FileSystem.text(ofSmallFile: "\(directory)/log") ?? ""
      throw BenchmarkError(
        "\(experiment.rawValue), round \(round), \(contender.rawValue): \(error)\n\(log)")
    }
  }

  private func certificates(in directory: String) -> String { "\(directory)/certificates" }

  private func makeCertificates(in directory: String) throws {
    let log = try OwnedDescriptor.open("\(directory)/log", flags: O_WRONLY | O_CREAT | O_APPEND)
    var maker = try ChildProcess(
      ["\(binaries ?? ownDirectory)/postcopyctl", "certificates", certificates(in: directory)],
      processor: nil, log: log)
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Run.limitSeconds * 1_000_000_000)
    _ = try maker.finish(deadline: deadline)
  }

  private func writeToken(_ path: String) throws {
    let token = try OwnedDescriptor.open(path, flags: O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
    let bytes = try RandomBytes.make(32)
    // unsafe: the array is as long as write is told.
    let written = unsafe bytes.withUnsafeBytes {
      unsafe write(token.rawValue, $0.baseAddress, $0.count)
    }
    guard written == bytes.count else { throw BenchmarkError.call("write \(path)") }
  }

  /// Built together, found together.
  private var ownDirectory: String {
    let own = CommandLine.arguments[0]
    return own.lastIndex(of: "/").map { String(own[..<$0]) } ?? "."
  }
}

/// The socket between source and destination.
enum Transport: String, ExpressibleByArgument, CaseIterable, Sendable {
  case tcp
  case unix
}

extension Placement: ExpressibleByArgument {}

/// A directory of our own under TMPDIR that goes away with its owner, with all that is in it.
struct TemporaryDirectory: ~Copyable {
  let path: String

  init() throws(BenchmarkError) {
    let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    var template = Array("\(parent)/fault-latency.XXXXXX".utf8CString)
    // unsafe: the template ends with a zero byte and is changed in place, not made longer.
    let made = unsafe template.withUnsafeMutableBufferPointer { unsafe mkdtemp($0.baseAddress!) }
    guard unsafe made != nil else { throw .call("mkdtemp") }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit {
    // unsafe: nftw calls back with paths that live through the call.
    _ = unsafe nftw(
      path, { name, _, _, _ in unsafe remove(name!) }, Self.openDirectoryLimit,
      Int32(FTW_DEPTH | FTW_PHYS))
  }

  /// Our trees are three levels deep.
  private static let openDirectoryLimit: Int32 = 8
}
