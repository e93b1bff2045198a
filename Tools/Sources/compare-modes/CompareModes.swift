internal import ArgumentParser
internal import System

/// What the modes cost, for guests that write more or less, over links of a known rate.
@main
struct CompareModes: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare-modes",
    abstract: "Move the same VM in every mode, and compare what that costs.",
    discussion: """
      Each run is one of Tools/demo: real VMs, TLS, and a comparison of all memory at its end. The \
      guest writes random pages at a share of the link's rate; with 0, one a second and vCPU. \
      Modes are interleaved, and each figure is a median over the rounds. Rates are of pages: a \
      link of 1 Gbit/s carries 125 MB of them in a second at most.
      """)

  @Option(help: "How many rounds; odd, so that a median is one of them.")
  var rounds = 5

  @Option(help: "Guest memory, such as 1G.")
  var memory = "1G"

  @Option(help: "Virtual processors.")
  var vcpus = 2

  @Option(help: "Megabits a second between two namespaces, or loopback; repeatable.")
  var link: [String] = ["1000", "loopback"]

  @Option(help: "What the guest writes, in percent of the link; repeatable.")
  var load: [Int] = [0, 10, 50, 100, 200]

  @Option(help: "A mode; repeatable.")
  var mode: [String] = ["post-copy", "hybrid", "pre-copy", "quick"]

  @Option(help: "How pages are packed: auto, none, lz4 or zstd; repeatable.")
  var compression: [String] = ["none"]

  @Option(help: "How much of the guest's pages no compressor makes less of, in percent.")
  var noise = 100

  @Option(help: "For how many seconds pre-copy may try before it is switched over.")
  var maxTime = 60

  @Option(help: ArgumentHelp("Where the demo is.", valueName: "path"))
  var demo: String

  /// What is compared.
  private struct Kind: Hashable {
    let mode: String
    let compression: String
  }

  private var kinds: [Kind] {
    mode.flatMap { mode in compression.map { Kind(mode: mode, compression: $0) } }
  }

  private func label(of kind: Kind) -> String {
    compression.count == 1 ? kind.mode : "\(kind.mode), \(kind.compression)"
  }

  func validate() throws {
    guard (0...100).contains(noise) else { throw ValidationError("--noise: 0 to 100 percent") }
    guard (1...99).contains(rounds) else { throw ValidationError("--rounds: 1 to 99") }
    guard load.allSatisfy({ (0...1000).contains($0) }) else {
      throw ValidationError("--load: 0 to 1000 percent")
    }
    for name in link where name != "loopback" {
      guard let megabits = Int(name), (1...1_000_000).contains(megabits) else {
        throw ValidationError("--link: megabits a second, or loopback, not \(name)")
      }
    }
  }

  func run() throws {
    SignalSource.ignoreBrokenPipes()
    let runner = Runner(
      demo: demo, memory: memory, vcpus: vcpus, noise: noise, maxTime: maxTime)
    // A row is there as soon as it is known, also in a file.
    StandardStream.output.write(Row.header + "\n")
    for name in link {
      let link = try runner.link(named: name)
      for percent in load {
        let writesPerSecond = max(vcpus, Int(link.bytesPerSecond * Double(percent) / 100 / 4096))
        var runs: [Kind: [Run]] = [:]
        for round in 0..<rounds {
          for kind in kinds {
            let rate = max(1, writesPerSecond / vcpus)
            runs[kind, default: []].append(
              try runner.run(kind.mode, packing: kind.compression, over: link, rate: rate))
            StandardStream.error.write(
              "\(link.name), \(percent) %: round \(round + 1) of \(rounds), \(label(of: kind))\n")
          }
        }
        for kind in kinds {
          let row = Row(
            link: link.name, percent: percent, mode: label(of: kind), runs: runs[kind] ?? [],
            rounds)
          StandardStream.output.write(row.line + "\n")
        }
      }
    }
  }
}
