internal import Codec
internal import Migration
internal import Pages
public import Session
public import System
internal import Uring
internal import VMM
public import Wire

/// Looks whether a VM could be sent from here, and answers a destination that looks whether it
/// could be received there. Changes nothing: no journal is written, the VM runs on.
public final class SourceCheck {
  private enum Input: Sendable {
    case arrival(Arrival)
    case stranger(peer: String, StrangerError)
    case ended(Refusal?)
    case broken(HandshakeError)
  }

  private let configuration: SourceConfiguration
  private var admission: Admission?
  private var listener: Listener?
  /// What was found to speak against it here.
  private var refusal: Refusal?

  /// With the configuration of the session that is thought of.
  public init(_ configuration: SourceConfiguration) { self.configuration = configuration }

  /// What this host is for it, item by item.
  public func findings() -> [HostFinding] {
    let name = configuration.vmName
    var backing: (any MemoryBacking)?
    var vmm: VMMStatus?
    var findings = [
      finding("memory") { () throws(Refusal) in
        let opened = try SourcePreflight.open(configuration.memory, configuration.token)
        backing = opened
        return "\(opened.source) can be read"
      },
      finding("VMM") { () throws(Refusal) in
        let status = try SourcePreflight.vmmStatus(configuration.frontEnd)
        vmm = status
        return status.pid.map { "it answers, as process \($0)" } ?? "none is needed"
      },
      finding("mode") { () throws(Refusal) in
        try SourcePreflight.requireDirtyLog(configuration)
        return "\(configuration.mode.name) is possible with this VMM"
      },
      finding("lock") { () throws(Refusal) in
        guard !VMLock.isHeld(vm: name, side: .source, in: configuration.directory) else {
          throw Refusal(.busy, "another process has a session of this VM")
        }
        return "no other session moves this VM"
      },
      finding("journal") { () throws(Refusal) in
        try judgeJournal(backing, vmmProcess: vmm?.pid)
        return "nothing in it stands against a new session"
      },
      finding("address") { () throws(Refusal) in
        let opened = try SourcePreflight.listen(at: configuration.endpoint, configuration.security)
        listener = opened
        return "\(opened.endpoint) is free"
      },
    ]
    if let vmm, configuration.throttleMeans != nil {
      findings.append(
        finding("throttle") { () throws(Refusal) in
          try configuration.throttleFinding(vmm) ?? "none is wanted"
        })
    }
    if case .process = configuration.memory {
      let refusals = Preflight.sourceRefusals(readsOtherProcess: true, host: .probe())
      findings += refusals.map { HostFinding("other processes", .missing, $0.reason) }
    }
    findings += Preflight.roomFindings(configuration.directory, pageCount: nil)
    if let backing {
      admission = makeAdmission(
        SourceImage.of(backing),
        SourcePreflight.processorFeatures(of: configuration.memory, vmmProcess: vmm?.pid))
    }
    let refusals = Preflight.refusals(of: findings)
    refusal = refusals.first.map {
      Refusal($0.code, refusals.map(\.reason).joined(separator: "; "))
    }
    return findings
  }

  private func judgeJournal(
    _ backing: (any MemoryBacking)?, vmmProcess: Int32?
  ) throws(Refusal) {
    let name = configuration.vmName
    // Read and never opened: that would write, into the journal of whoever has the lock.
    let histories: [SessionHistory<SourceRecord>]
    do throws(JournalError) {
      histories = try SourceJournal.read(vm: name, in: configuration.directory)
    } catch { throw Refusal(.journal, "\(error)") }
    guard let backing else { return }
    let binding = try SourcePreflight.binding(name, backing, vmmProcess: vmmProcess)
    let exported = try (backing as? ExportBacking).map { (backing) throws(Refusal) in
      try ExportedSession.decide(backing, vmName: name, histories: histories)
    }
    _ = try SourcePreflight.decide(name, binding, histories, exported)
  }

  private func finding(
    _ subject: String, _ look: () throws(Refusal) -> String
  ) -> HostFinding {
    do throws(Refusal) {
      return HostFinding(subject, .good, try look())
    } catch { return HostFinding(subject, .missing, error.reason) }
  }

  private func makeAdmission(_ image: SourceImage, _ processorFeatures: String) -> Admission {
    // Of no session: a destination that checks keeps nothing.
    var admission = Admission(
      vmName: configuration.vmName.text, session: SessionID(high: 0, low: 0),
      epoch: Epoch(rawValue: 0), mode: configuration.mode,
      bulkConnectionCount: configuration.bulkConnectionCount, image: image,
      token: configuration.token)
    admission.processorFeatures = processorFeatures
    return admission
  }

  /// How waiting for a destination ended.
  public enum End: Sendable {
    /// Nothing speaks against a move there.
    case passed
    /// That does.
    case refused(Refusal)
    /// A signal came first.
    case stopped
  }

  /// Waits for a destination that checks, and answers it. Behind `findings`, if there was an
  /// address and an image among them; nil where there was none. `tell` hears of those who came in
  /// vain.
  public func serve(
    signals: borrowing SignalSource, tell: (String) -> Void
  ) throws(SystemError) -> End? {
    guard let listener, let admission else { return nil }
    let inputs = try Mailbox<Input>(capacity: 64)
    let doorkeeper = try Doorkeeper(
      listener,
      arrived: { if !inputs.post(.arrival($0), leaving: 8) { $0.connection.shutdown() } },
      stranger: { _ = inputs.post(.stranger(peer: $0, $1), leaving: 32) })
    let worker = try SerialWorker(name: "check", capacity: 1)
    let cancel = try WakeEvent()
    var checking: Connection?
    let refusal = refusal
    defer {
      cancel.signal()
      // One that is being sent to hears of nothing else.
      checking?.shutdown()
      worker.stop()
      doorkeeper.stop()
    }
    tell("waiting at \(listener.endpoint) for a destination that checks")
    while true {
      let ready = try Readiness.wait(
        for: [inputs.readiness.rawValue, signals.descriptor.rawValue], until: nil)
      if ready[1], let signal = try signals.next(), signal != .hangUp { return .stopped }
      while let input = inputs.take() {
        switch input {
        case .arrival(let arrival):
          do throws(Refusal) {
            guard checking == nil else {
              throw Refusal(.busy, "another destination checks just now")
            }
            let welcome = try admission.admitCheck(arrival.hello)
            checking = arrival.connection
            _ = worker.run { Self.answer(arrival, welcome, refusal, cancel, inputs) }
          } catch {
            tell("\(arrival.connection.peer): refused: \(error.reason)")
            Doorkeeper.refuse(arrival.connection, error)
          }
        case .stranger(let peer, let error): tell("\(peer): \(error)")
        case .ended(let refusal): return refusal.map { .refused($0) } ?? .passed
        case .broken(let error):
          checking = nil
          tell("the destination left before it came to an end: \(error)")
        }
      }
    }
  }

  private static func answer(
    _ arrival: Arrival, _ welcome: Welcome, _ refusal: Refusal?, _ cancel: WakeEvent,
    _ inputs: Mailbox<Input>
  ) {
    let connection = arrival.connection
    let input: Input
    do throws(HandshakeError) {
      do throws(ConnectionError) {
        try connection.send(
          welcome.encodedFrame().rawBytes,
          until: MonotonicClock.now().advanced(byNanoseconds: Handshake.limitNanoseconds))
      } catch { throw .connection(error) }
      guard let layout = try? ImageLayout(welcome.regions) else {
        invariantBroken("the image that is served has a layout")
      }
      let check = LinkCheck(
        connection, with: .destination, session: welcome.session, layout: layout, cancel: cancel)
      input = .ended(try check.serve(refusal))
    } catch { input = .broken(error) }
    connection.shutdown()
    // A mailbox that is full of strangers keeps room for it.
    _ = inputs.post(input)
  }
}
