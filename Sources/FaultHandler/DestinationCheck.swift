internal import Migration
internal import Pages
public import Session
public import System
internal import Uring
internal import Wire

/// Looks whether a VM could be received here from a source that checks as well. Changes nothing: no
/// VMM has to be there, and no journal is written.
public struct DestinationCheck: Sendable {
  private let configuration: DestinationConfiguration

  /// With the configuration of the session that is thought of.
  public init(_ configuration: DestinationConfiguration) { self.configuration = configuration }

  /// What was found: this host's own findings first, then those for which the source has to be
  /// asked; the source hears what they come to. `cancel` ends it from another thread: nil then.
  public func run(
    cancel: WakeEvent, tell: (String) -> Void
  ) -> [HostFinding]? {
    var findings = hostFindings()
    let deadline = MonotonicClock.now().advanced(byNanoseconds: configuration.connectNanoseconds)
    var told = false
    while true {
      var last: HandshakeError?
      for endpoint in configuration.sources {
        do throws(HandshakeError) {
          findings += try ask(endpoint, deadline, findings, cancel)
          return findings
        } catch .connection(let failure) where failure.kind == .cancelled {
          return nil
        } catch { last = error }
      }
      guard let last else { return findings }
      let isFinal: Bool
      switch last {
      case .refused, .wire: isFinal = true
      case .connection(let failure):
        isFinal = if case .tls(let problem) = failure.kind { problem.isFinal } else { false }
      }
      if isFinal || MonotonicClock.now() >= deadline {
        return findings + [HostFinding("source", .missing, last.description)]
      }
      if !told { tell("the source does not answer yet (\(last)); trying on") }
      told = true
      let rest = MonotonicClock.now().advanced(byNanoseconds: Self.restNanoseconds)
      if (try? Readiness.wait(for: [cancel.rawValue], until: rest))?.first == true { return nil }
    }
  }

  private static let restNanoseconds: UInt64 = 100_000_000

  private func hostFindings() -> [HostFinding] {
    let name = configuration.vmName
    let lock: HostFinding
    do throws(StateError) {
      try configuration.directory.prepare(vm: name)
      _ = try VMLock.take(vm: name, side: .destination, in: configuration.directory)
      lock = HostFinding("lock", .good, "no other session receives this VM")
    } catch { lock = HostFinding("lock", .missing, "\(error)") }
    let isTaken = (try? FileStatus.of(path: configuration.attachPath)) != nil
    let attach =
      isTaken
      ? HostFinding(
        "attach socket", .missing, "\(configuration.attachPath) exists: remove it, or name another")
      : HostFinding("attach socket", .good, "\(configuration.attachPath) is free")
    return [lock, attach]
  }

  /// One attempt at one address; what it adds to the findings so far.
  private func ask(
    _ endpoint: Endpoint, _ deadline: Instant, _ findings: [HostFinding], _ cancel: WakeEvent
  ) throws(HandshakeError) -> [HostFinding] {
    let attempt = MonotonicClock.now().advanced(byNanoseconds: Self.attemptNanoseconds)
    let connection: Connection
    do throws(ConnectionError) {
      connection = try Connection.dial(
        endpoint, purpose: .bulk, tls: configuration.security.context,
        until: min(deadline, attempt), cancel: cancel)
    } catch { throw .connection(error) }
    defer { connection.shutdown() }
    let welcome = try Handshake.introduce(
      Hello(
        role: .check, session: .none, epoch: Epoch(rawValue: 0), progress: .unknown,
        token: configuration.token, vmName: configuration.vmName.text, regions: []),
      on: connection)
    guard let layout = try? ImageLayout(welcome.regions) else {
      throw .refused(Refusal(.layout, "the source tells a memory layout that cannot be"))
    }
    let check = LinkCheck(
      connection, with: .source, session: welcome.session, layout: layout, cancel: cancel)
    let measured = try check.measure()
    let more =
      imageFindings(layout, welcome) + Self.linkFindings(measured, layout.totalByteCount)
    let refusals = Preflight.refusals(of: findings + more)
    try check.end(
      refusals.first.map { Refusal($0.code, refusals.map(\.reason).joined(separator: "; ")) })
    return more
  }

  private static let attemptNanoseconds: UInt64 = 2_000_000_000

  private func imageFindings(_ layout: ImageLayout, _ welcome: Welcome) -> [HostFinding] {
    // Whether the VMM's memory will be shared is not known; that it may be is what asks for more.
    Preflight.destinationFindings(
      image: layout, memory: .sharedMemory, host: .probe(), vmmGroupAvailable: nil,
      stagesSeeds: welcome.mode.hasSeedRounds)
      + Preflight.roomFindings(configuration.directory, pageCount: layout.totalPageCount)
      + [
        Preflight.processorFinding(
          here: .ofThisHost(), there: ProcessorFeatures(text: welcome.processorFeatures),
          mayLack: configuration.mayLackFeatures)
      ]
  }

  private static func linkFindings(
    _ link: LinkMeasurement, _ memory: ByteCount
  ) -> [HostFinding] {
    let roundTrip = Double(link.roundTripNanoseconds) / 1e6
    let seconds = Double(memory.rawValue) / link.bytesPerSecond
    return [
      HostFinding(
        "round trip", link.roundTripNanoseconds > slowNanoseconds ? .limited : .good,
        "\(hundredths(roundTrip)) ms: each page that the guest waits for takes as long at least"),
      HostFinding(
        "rate", .good,
        "\(hundredths(link.bytesPerSecond / 1e6)) MB/s: \(memory.rawValue >> 20) MiB of memory "
          + "take \(hundredths(seconds)) s"),
    ]
  }

  /// A guest that faults feels it.
  private static let slowNanoseconds: UInt64 = 20_000_000

  private static func hundredths(_ value: Double) -> String {
    let whole = Int((min(value, 1e12) * 100).rounded())
    let rest = whole % 100
    return "\(whole / 100).\(rest < 10 ? "0" : "")\(rest)"
  }
}
