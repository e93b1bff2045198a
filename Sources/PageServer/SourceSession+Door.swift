internal import Codec
internal import Migration
internal import Pages
internal import Session
internal import System
internal import Uring
internal import Wire

// Who comes in, and what the data plane tells.
extension SourceSession {
  func openDoor() {
    let inputs = inputs
    do throws(SystemError) {
      doorkeeper = try Doorkeeper(
        listener,
        arrived: { arrival in
          // A full mailbox means strangers by the hundred: this one is turned away as they are.
          if !inputs.post(.arrival(arrival), leaving: 32) { arrival.connection.shutdown() }
        },
        stranger: { peer, error in
          _ = inputs.post(.stranger(peer: peer, error), leaving: 64)
        })
      observer(.listening(listener.endpoint))
    } catch {
      pending.append(
        .linkDown(isFinal: true, Refusal(.unfit, "no destination can be let in: \(error)")))
    }
  }

  func admit(_ arrival: Arrival) {
    // What the old link's threads have told is older, and may be why somebody comes.
    takeNotices()
    guard outcome == nil else { return arrival.connection.shutdown() }
    // A client ends nothing before it has its welcome. One that has ended has abandoned this dial:
    // its hello came late, and must not end the link that it has made since.
    guard !arrival.connection.hasPeerEnded else {
      observer(
        .refused(
          peer: arrival.connection.peer.description,
          Refusal(.timeout, "it left before it was answered")))
      return arrival.connection.shutdown()
    }
    if admission.isReturn(arrival.hello) {
      linkLost(Refusal(.timeout, "the destination has come on a new connection"))
    }
    do throws(Refusal) {
      let welcome = try admission.admit(arrival.hello, isHandedOff: core.isHandedOff)
      switch arrival.hello.role {
      case .urgent: try join(arrival, welcome)
      case .bulk: try addBulk(arrival.connection, welcome)
      case .check: invariantBroken("a session admits nobody who only checks")
      }
    } catch {
      // Whoever got as far as the session has the token, and may hear what an export is of.
      let exported = error.code == .session ? backing as? ExportBacking : nil
      let refusal = exported?.refusal(of: arrival.hello) ?? error
      observer(.refused(peer: arrival.connection.peer.description, refusal))
      Doorkeeper.refuse(arrival.connection, refusal)
    }
  }

  private func join(_ arrival: Arrival, _ welcome: Welcome) throws(Refusal) {
    guard let layout = admission.layout else {
      invariantBroken("a client that was admitted has agreed on a layout")
    }
    if let refusal = (backing as? ExportBacking)?.refusal(of: arrival.hello) {
      admission.clientLeft(mustReturn: false)
      throw refusal
    }
    if seeder != nil, arrival.hello.session == .none {
      admission.clientLeft(mustReturn: true)
      throw Refusal(
        .busy,
        "another destination holds a part of the VM's memory and may come back; end this move to "
          + "begin one to here")
    }
    do throws(MemorySourceError) {
      try backing.validate(layout)
    } catch {
      admission.clientLeft(mustReturn: mustReturn)
      throw Refusal(.layout, "\(error)")
    }
    do throws(SystemError) {
      let plane = try SourceDataPlane(
        backing: backing, layout: layout, session: core.session,
        prefetch: configuration.prefetch,
        bandwidth: bandwidth, packing: configuration.packing, sentSeeds: sentSeeds,
        hasPayloadChecksums: !arrival.connection.isSealed, counters: counters,
        isReturn: arrival.hello.session != .none,
        heartbeatBudgetNanoseconds: configuration.heartbeatBudgetNanoseconds,
        busyPollNanoseconds: configuration.busyPollNanoseconds,
        urgentPlacement: configuration.urgentPlacement,
        bulkPlacement: configuration.bulkPlacement)
      try answer(arrival.connection, welcome)
      // Open before the thread looks: what somebody waits for is asked for at once.
      if isServing { plane.beginServing() }
      if isPushing { plane.beginPush() }
      try plane.attachUrgent(arrival.connection)
      self.plane = plane
      hasJoined = true
      isReturnLink = arrival.hello.session != .none
    } catch {
      admission.clientLeft(mustReturn: mustReturn)
      throw Refusal(.unfit, "the source has no means to serve: \(error)")
    }
    let peer = arrival.connection.peer.description
    if let lost = linkLostAt {
      let outage = MonotonicClock.now().nanoseconds(since: lost)
      observer(.restored(peer: peer, outageNanoseconds: outage))
      linkLostAt = nil
    } else {
      observer(.joined(peer: peer))
    }
    handle(.linkUp(arrival.hello.progress))
  }

  private func addBulk(_ connection: Connection, _ welcome: Welcome) throws(Refusal) {
    guard let plane else {
      throw Refusal(.session, "the link of this bulk connection is lost already")
    }
    do throws(SystemError) {
      try answer(connection, welcome)
      try plane.attachBulk(connection)
    } catch {
      // It is counted, and nobody sends on it.
      giveLinkUp(Refusal(.unfit, "the source has no means to serve: \(error)"))
      throw Refusal(.unfit, "the source has no means to serve: \(error)")
    }
    if admission.bulkCount == Int(configuration.bulkConnectionCount),
      let ready = earlyReady.take()
    {
      handle(SourceEvent.received(ready))
    }
  }

  /// A fresh socket has room for a welcome: one that has not will not be told.
  private func answer(_ connection: Connection, _ welcome: Welcome) throws(SystemError) {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Doorkeeper.refusalNanoseconds)
    try? connection.send(welcome.encodedFrame().rawBytes, until: deadline)
  }

  /// What the data plane's threads have to tell.
  func handle(_ notice: SourceNotice) {
    switch notice {
    case .received(.ready(let epoch))
    where admission.bulkCount < Int(configuration.bulkConnectionCount):
      // One that comes back says it on the first connection that it has, ahead of the others.
      if isReturnLink { return earlyReady = .ready(epoch: epoch) }
      linkLost(
        Refusal(
          .protocolViolation, "the destination is ready before its bulk connections are there"))
    case .received(let message): handle(SourceEvent.received(message))
    case .linkLost(_, .connection(let error)):
      // A destination that has read the acknowledgement closes in good order: nobody is left to be
      // told.
      linkLost(
        Refusal(.timeout, error.description),
        isFinal: core.state == .lingering && error.kind == .closedByPeer)
    case .linkLost(_, let failure):
      linkLost(failure.refusal, isTold: failure.isPeersFault)
    case .memoryLost(let error): handle(SourceEvent.memoryLost(Refusal(.memory, "\(error)")))
    case .pushFinished: break
    }
  }

  /// Whether no other destination may come: something was changed, or what was seeded is of use
  /// to this one alone.
  private var mustReturn: Bool { core.state != .preparing || seeder != nil }

  /// Ends a link that is of no use, and tells the destination why.
  func giveLinkUp(_ reason: Refusal) { linkLost(reason, isTold: true) }

  /// Before anything was changed another client may come; afterwards only this one, and what its
  /// loss means the core decides. `isTold`: it is we who end the link, and the destination is to
  /// know why.
  private func linkLost(_ reason: Refusal, isFinal: Bool = false, isTold: Bool = false) {
    guard let plane else { return }
    // The VM may stand still: nothing is waited for.
    plane.cut(telling: isTold ? reason : nil)
    // What the destination said last decides what its silence means: RAN, COMPLETE, ABORTED may
    // have come in behind the end of another connection.
    while let notice = plane.events.take() {
      if case .received(let message) = notice, !message.isReady {
        handle(SourceEvent.received(message))
      }
    }
    self.plane = nil
    let hadBegun = mustReturn
    earlyReady = nil
    admission.clientLeft(mustReturn: hadBegun)
    if hadBegun { linkLostAt = MonotonicClock.now() }
    handle(.linkDown(isFinal: isFinal, reason))
    // Behind COMPLETE the destination leaves; only if it has missed our answer it comes back.
    guard outcome == nil, core.state != .lingering else { return }
    observer(hadBegun ? .lost(reason) : .left(reason))
  }
}

extension ControlMessage {
  /// A destination that says it on a link that is lost says it again on the next.
  fileprivate var isReady: Bool { if case .ready = self { true } else { false } }
}
