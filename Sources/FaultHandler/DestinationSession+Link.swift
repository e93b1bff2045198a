internal import Codec
internal import Migration
internal import Pages
internal import Session
internal import System
internal import Uring
internal import Wire

/// The connections of one session, all of them welcomed.
struct SourceLinks: Sendable {
  let source: Endpoint
  let urgent: Connection
  let bulk: [Connection]
  let welcome: Welcome

  /// Ends them: nobody wants them any more.
  func shutdown() {
    urgent.shutdown()
    for connection in bulk { connection.shutdown() }
  }
}

// The link to the source: made, lost, made again.
extension DestinationSession {
  /// What a dialler has to say while it goes on.
  enum DialNews: Sendable {
    /// Nobody, or the wrong one, is at that address.
    case failed(Endpoint, String)
    /// The source does not take us in; it is asked again.
    case refused(Refusal)
    /// The source has us again; bulk connections follow.
    case relinked(Connection, Welcome, Endpoint)
  }

  /// What came of dialling.
  enum DialResult: Sendable {
    /// All connections of the first link.
    case linked(SourceLinks)
    /// The bulk connections of a link that was made again.
    case bulkLinked([Connection])
    /// They could not be made, so that link is of no use.
    case bulkLost(Endpoint, Refusal)
    /// The source has heard what our journal proves.
    case told
    /// Given up, or refused.
    case ended(Refusal)
  }

  /// Dials the source, the first time or again.
  func dial() {
    invariant(!regions.isEmpty, "a source is dialled once the VM's memory is known")
    cancelDial?.signal()
    let cancel: WakeEvent
    do throws(SystemError) { cancel = try WakeEvent() } catch {
      pending.append(
        .linkDown(isFinal: true, Refusal(.unfit, "the source is not dialled: \(error)")))
      return
    }
    cancelDial = cancel
    dialNumber += 1
    let plan: DialPlan =
      plane.map {
        .again(
          lost: linkLostAt ?? MonotonicClock.now(), roundTripNanoseconds: $0.roundTripNanoseconds,
          rests: linkWasShort || uselessSource != nil, useless: uselessSource)
      } ?? (isRecovered ? .tell : .first)
    let dialler = SourceDialler(
      configuration: configuration, plan: plan, number: dialNumber, regions: regions,
      session: core.session, epoch: core.epoch, progress: core.progress, cancel: cancel,
      inputs: inputs)
    let dropped = plane?.droppedLinks
    onSetup {
      // The old link's fills are over before anybody dials (P3). Here nothing else waits for them.
      dropped?.awaitEnd()
      return .dialled(dialler.run(), dial: dialler.number)
    }
  }

  func handle(_ news: DialNews, dial: UInt32) {
    let isCurrent = dial == dialNumber && outcome == nil
    switch news {
    case .failed(let endpoint, let reason):
      if isCurrent { observer(.dialling(endpoint, reason)) }
    case .refused(let reason): if isCurrent { handle(.linkRefused(reason)) }
    case .relinked(let urgent, let welcome, let endpoint):
      guard isCurrent else { return urgent.shutdown() }
      relinked(urgent, welcome, endpoint)
    }
  }

  func handle(_ result: DialResult, dial: UInt32) {
    let isCurrent = dial == dialNumber && outcome == nil
    switch result {
    case .linked(let links):
      if isCurrent { linked(links) } else { links.shutdown() }
    case .bulkLinked(let connections):
      guard isCurrent, isLinkUp else {
        for connection in connections { connection.shutdown() }
        return
      }
      uselessSource = nil
      attachBulk(connections)
    case .bulkLost(let endpoint, let reason):
      guard isCurrent else { return }
      uselessSource = endpoint
      // Without a link that was taken there is none to lose, and nobody else dials.
      if isLinkUp { loseLink(reason) } else { self.dial() }
    case .told:
      let reason = Refusal(.session, "the source has been told what this side's journal proves")
      if isCurrent { handle(.linkDown(isFinal: true, reason)) }
    case .ended(let reason):
      if isCurrent { handle(.linkRefused(reason)) }
    }
  }

  /// A link that broke within a second will break again: whatever ended it, a peer that breaks the
  /// protocol for one, is not to keep both hosts busy.
  private var linkWasShort: Bool {
    guard let up = linkUpAt, let lost = linkLostAt else { return false }
    return lost.nanoseconds(since: up) < Self.shortLinkNanoseconds
  }

  private static let shortLinkNanoseconds: UInt64 = 1_000_000_000

  /// A guest that uses what this host's processors lack would die long after it was moved.
  func requireProcessor(of welcome: Welcome) throws(Refusal) {
    let finding = Preflight.processorFinding(
      here: .ofThisHost(), there: ProcessorFeatures(text: welcome.processorFeatures),
      mayLack: configuration.mayLackFeatures)
    if let refusal = Preflight.refusals(of: [finding]).first { throw refusal }
    if finding.verdict == .limited { observer(.warning("processor: \(finding.text)")) }
  }

  /// The source is to know why nothing comes of a link.
  private static func tell(_ refusal: Refusal, on links: SourceLinks) {
    let limit = MonotonicClock.now().advanced(byNanoseconds: tellNanoseconds)
    let frame = refusal.encodedFrame(session: links.welcome.session.shortID)
    try? links.urgent.send(frame.rawBytes, until: limit)
  }

  /// A fresh socket has room for a refusal.
  private static let tellNanoseconds: UInt64 = 100_000_000

  /// All connections are welcomed: the data plane begins, faults stay parked.
  private func linked(_ links: SourceLinks) {
    guard let vm else { invariantBroken("a link belongs to a VMM that has attached") }
    do throws(Refusal) {
      guard links.welcome.regions == vm.layout.regions else {
        throw Refusal(.layout, "the source answered with another memory layout")
      }
      try requireProcessor(of: links.welcome)
      mode = links.welcome.mode
      let plane = try makePlane(vm, links.welcome.session)
      self.plane = plane
      plane.attachUrgent(links.urgent)
      isLinkUp = true
      linkUpAt = MonotonicClock.now()
      do throws(DataPlaneError) {
        try plane.attachBulk(links.bulk, tellsResidency: false)
      } catch { throw Refusal(.unfit, "\(error)") }
    } catch {
      // Once there is a data plane, the connection is its alone.
      if plane == nil { Self.tell(error, on: links) }
      plane?.dropLink()
      isLinkUp = false
      links.shutdown()
      return handle(.linkRefused(error))
    }
    observer(.joined(links.source))
    handle(.linkUp(links.welcome))
  }

  /// The source has us again: what somebody waits for is asked for before anything else is done.
  private func relinked(_ urgent: Connection, _ welcome: Welcome, _ endpoint: Endpoint) {
    guard let plane, let vm else { invariantBroken("a link is made again for a data plane") }
    guard welcome.regions == vm.layout.regions else {
      urgent.shutdown()
      return handle(.linkRefused(Refusal(.layout, "the source answered with another layout")))
    }
    mode = welcome.mode
    plane.attachUrgent(urgent)
    isLinkUp = true
    let now = MonotonicClock.now()
    linkUpAt = now
    observer(.restored(endpoint, outageNanoseconds: now.nanoseconds(since: linkLostAt ?? now)))
    linkLostAt = nil
    handle(.linkUp(welcome))
  }

  private func attachBulk(_ connections: [Connection]) {
    do throws(DataPlaneError) {
      try plane?.attachBulk(connections, tellsResidency: true)
    } catch {
      loseLink(Refusal(.unfit, "\(error)"), isTold: true)
    }
  }

  /// The link is gone: everything that came on it is installed or dropped before anybody dials
  /// again, though not here. `isFinal`: the source has said all that it will ever say. `isTold`: it
  /// is we who end it, and the source is to know why.
  func loseLink(_ reason: Refusal, isFinal: Bool = false, isTold: Bool = false) {
    guard isLinkUp else { return }
    isLinkUp = false
    plane?.dropLink(telling: isTold ? reason : nil)
    let now = MonotonicClock.now()
    linkLostAt = now
    handle(.linkDown(isFinal: isFinal, reason))
    guard outcome == nil, !isFinal else { return }
    observer(.lost(reason))
    dial()
  }
}
