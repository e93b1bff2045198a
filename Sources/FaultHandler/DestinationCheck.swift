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
    let own = hostFindings()
    let deadline = MonotonicClock.now().advanced(byNanoseconds: configuration.connectNanoseconds)
    var told = false
    while true {
      var last: HandshakeError?
      for endpoint in configuration.sources {
        do throws(HandshakeError) {
          return own + (try ask(endpoint, deadline, own, cancel))
        } catch {
          if case .connection(let failure) = error, failure.kind == .cancelled { return nil }
          if Self.isFinal(error) { return own + [Self.notReached(error)] }
          last = error
        }
      }
      guard let last else { return own }
      if MonotonicClock.now() >= deadline { return own + [Self.notReached(last)] }
      if !told { tell("the source does not answer yet (\(last)); trying on") }
      told = true
      let rest = MonotonicClock.now().advanced(byNanoseconds: Self.restNanoseconds)
      if (try? Readiness.wait(for: [cancel.rawValue], until: rest))?.first == true { return nil }
    }
  }

  private static let restNanoseconds: UInt64 = 100_000_000

  private static func notReached(_ error: HandshakeError) -> HostFinding {
    HostFinding("source", .missing, error.description)
  }

  /// Whether it is of no use to ask again. One that is busy may be so with an attempt of ours that
  /// was lost.
  private static func isFinal(_ error: HandshakeError) -> Bool {
    switch error {
    case .refused(let refusal): return refusal.code != .busy
    case .wire: return true
    case .connection(let failure):
      if case .tls(let problem) = failure.kind { return problem.isFinal }
      return false
    }
  }

  private func hostFindings() -> [HostFinding] {
    let isHeld = VMLock.isHeld(
      vm: configuration.vmName, side: .destination, in: configuration.directory)
    let isFree = DescriptorListener.isFree(configuration.attachPath)
    return [
      isHeld
        ? HostFinding("lock", .missing, "another process has a session of this VM")
        : HostFinding("lock", .good, "no other session receives this VM"),
      journalFinding(),
      isFree
        ? HostFinding("attach socket", .good, "\(configuration.attachPath) is free")
        : HostFinding(
          "attach socket", .missing,
          "\(configuration.attachPath) cannot be made: something is there, or its directory is "
            + "not; name another"),
    ]
  }

  /// Whether an earlier session stands against one in a VMM that is still to come.
  private func journalFinding() -> HostFinding {
    let name = configuration.vmName
    do {
      let histories = try DestinationJournal.read(vm: name, in: configuration.directory)
      let fresh = VMBinding(vmName: name, boot: try BootID.current(), vmm: nil, memory: nil)
      let decision = ReceiveDecision.decide(
        current: fresh, histories: histories, isAlive: { $0.vmm?.isAlive ?? false })
      if let refusal = decision.refusal(vmName: name.text) {
        return HostFinding("journal", .missing, refusal.reason)
      }
      return HostFinding("journal", .good, "nothing in it stands against a new session")
    } catch { return HostFinding("journal", .missing, "\(error)") }
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
    let there = try check.end(
      refusals.first.map { Refusal($0.code, refusals.map(\.reason).joined(separator: "; ")) })
    return more + [
      there.map { HostFinding("source", .missing, $0.reason) }
        ?? HostFinding("source", .good, "it finds nothing against it")
    ]
  }

  private static let attemptNanoseconds: UInt64 = 2_000_000_000

  private func imageFindings(_ layout: ImageLayout, _ welcome: Welcome) -> [HostFinding] {
    // What the VMM brings is not known yet: its memory may be shared, which asks for more, or not;
    // and where we may have no userfaultfd it may have one.
    var hangOnVMM: Set<String> = ["userfaultfd", "huge shared memory"]
    let host = HostCapabilities.probe()
    func findings(stagesSeeds: Bool) -> [HostFinding] {
      Preflight.destinationFindings(
        image: layout, memory: .sharedMemory, host: host, vmmGroupAvailable: nil,
        stagesSeeds: stagesSeeds, hasVMM: false,
        headroomByteCount: configuration.headroomByteCount)
    }
    if welcome.mode.hasSeedRounds {
      // A VMM that sends its memory's file has its seeds there.
      for finding in findings(stagesSeeds: false) where finding.verdict != .missing {
        hangOnVMM.insert(finding.subject)
      }
    }
    return findings(stagesSeeds: welcome.mode.hasSeedRounds).map { finding in
      guard finding.verdict == .missing, hangOnVMM.contains(finding.subject) else { return finding }
      var finding = finding
      finding.verdict = .limited
      finding.text += "; it hangs on the VMM whether that matters"
      return finding
    }
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
