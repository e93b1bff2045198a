/// Whose programs are measured.
enum Contender: String, CaseIterable, Sendable {
  case engine
  /// The engine with TLS between its two sides.
  case sealed = "engine-TLS"
  case reference
  /// The reference with TLS.
  case sealedReference = "reference-TLS"

  /// Whether this is the C program.
  var isReference: Bool { self == .reference || self == .sealedReference }
  var isSealed: Bool { self == .sealed || self == .sealedReference }
}

/// What is measured in one run.
enum Experiment: String, CaseIterable, Sendable {
  /// Faults alone: no page comes unasked.
  case idle
  /// Faults while the source pushes as fast as it can.
  case push
  /// Nothing but the push: the whole image, before the guest runs.
  case bulk
}

/// Where the programs are and how they are started.
struct CommandLines: Sendable {
  /// The directory with page-server, postcopyd and the reference.
  var binaries: String
  /// A run's own directory, for sockets, logs, the token and the journals.
  var directory: String
  /// The directory of certificates for both sides, when TLS is measured.
  var certificates: String
  /// HOST:PORT or unix:PATH of the source.
  var address: String

  var attachPath: String { "\(directory)/attach" }

  func source(
    _ contender: Contender, _ experiment: Experiment, memoryPath: String
  ) -> [String] {
    switch contender {
    case .reference, .sealedReference:
      return [
        "\(binaries)/fault-latency-reference", "serve", memoryPath, address,
        experiment == .idle ? "no-push" : "push",
      ] + (contender.isSealed ? ["\(certificates)/source"] : [])
    case .engine, .sealed:
      return [
        "\(binaries)/page-server", "send", "--memory", "snapshot:\(memoryPath)", "--vmm", "none",
        "--listen", address, "--mode", experiment == .bulk ? "quick" : "post-copy",
        "--prefetch", experiment == .idle ? "none" : "linear",
        // The reference packs nothing either.
        "--compression", "none",
      ] + shared(contender, side: "source")
    }
  }

  func destination(_ contender: Contender, _ experiment: Experiment) -> [String] {
    switch contender {
    case .reference, .sealedReference:
      return [
        "\(binaries)/fault-latency-reference", "receive", attachPath, address,
        experiment == .idle ? "no-push" : "push",
      ] + (contender.isSealed ? ["\(certificates)/destination"] : [])
    case .engine, .sealed:
      return [
        "\(binaries)/postcopyd", "receive", "--from", address, "--attach", attachPath,
        "--vmm", "none",
      ] + shared(contender, side: "destination")
    }
  }

  private func shared(_ contender: Contender, side: String) -> [String] {
    [
      "--vm", "fault-latency", "--token-file", "\(directory)/token", "--quiet",
      "--state-dir", "\(directory)/\(side)-state",
    ] + (contender.isSealed ? ["--tls", "\(certificates)/\(side)"] : ["--insecure"])
  }
}
