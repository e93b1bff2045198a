internal import Migration
internal import Pages
internal import System
internal import Uring
internal import Wire

/// The urgent connection comes and goes; the fault loop stays, and answers meanwhile whatever needs
/// no source.
extension FaultLoop {
  /// Sends what the session wants to say; a new link among it takes over in its turn, and what is
  /// behind it waits until it has.
  mutating func takeMessages() {
    while nextConnection == nil, outbox.hasRoomForMessage || !isLinkUp,
      let item = plane.inbox.take()
    {
      switch item {
      case .message(let message): send(message)
      case .link(let connection, let number):
        // The session has given the last one up.
        dropLink()
        nextConnection = (connection, number)
        takeOverLink()
      case .farewell(let farewell): sayFarewell(farewell)
      case .nudge: break
      }
    }
  }

  private mutating func send(_ message: ControlMessage) {
    guard isLinkUp else { return }
    outbox.append(message.encodedFrame(session: plane.session), to: &ring)
  }

  /// Begins with a new link once the ring holds nothing of the last one. What was half received is
  /// dropped with its room; what was asked for and not answered is asked for first.
  mutating func takeOverLink() {
    guard let next = nextConnection, outbox.isIdle, !inbound.isReceiving else { return }
    nextConnection = nil
    (connection, linkNumber) = next
    outbox = RequestOutbox(sealedBase: Self.sealedOutboxBase(for: plane.installer.layout))
    inbound = UrgentInbound(plane: plane)
    connection?.enterRing()
    isLinkUp = true
    isLinkNew = true
    isLinkDoubted = false
    isDeaf = false
    monitor = LinkMonitor(
      budgetNanoseconds: plane.heartbeatBudgetNanoseconds, now: MonotonicClock.now())
    hasUnsentRequests = false
    repeatPosition = 0
    // The push begins anew; what it leaves out is looked for behind it.
    sweepPosition = nil
  }

  /// How long the loop may wait before the link has to be looked after; nil without one.
  func nanosecondsToHeartbeat() -> UInt64? {
    guard isLinkUp, let monitor else { return nil }
    return monitor.nextTick.nanoseconds(since: MonotonicClock.now())
  }

  /// Sends a heartbeat that is due, and gives up a link on which nothing was heard.
  mutating func watchLink() {
    guard isLinkUp else { return }
    switch monitor?.tick(now: MonotonicClock.now()) {
    case .nothing, nil: break
    case .ping(let sequence):
      // Without room for it the outbox holds more than enough to be heard of.
      if outbox.hasRoomForMessage { send(.ping(sequence: sequence)) }
    case .lost:
      guard isLinkDoubted else {
        isLinkDoubted = true
        return
      }
      guard let connection else { return }
      giveUp(
        .linkLost(
          .urgent, position: 0,
          ConnectionError(.silent, "heartbeat", peer: connection.peer.description)))
    }
  }

  /// A heartbeat of the source is answered here, so that it tells of this very thread.
  mutating func answerPing(_ sequence: UInt64) {
    if outbox.hasRoomForMessage { send(.pong(sequence: sequence)) }
  }

  mutating func heardPong(_ sequence: UInt64) {
    monitor?.pong(sequence, now: MonotonicClock.now())
    plane.noteRoundTrip(monitor?.shortestRoundTripNanoseconds)
  }

  /// An operation on the urgent connection ended it.
  mutating func loseLink(_ operation: StaticOperation, result: Int32) {
    guard isLinkUp, let connection else { return }
    do throws(ConnectionError) {
      _ = try connection.byteCount(ofCompletion: result, operation)
      invariantBroken("an operation that ended the link has no bytes")
    } catch {
      giveUp(.linkLost(.urgent, position: 0, error))
    }
  }

  /// Uses nothing more of what comes on the link. The session ends it, with a word to the source.
  mutating func stopListening(_ reason: DataPlaneEvent) {
    isDeaf = true
    plane.events.sayOnce(.link(linkNumber, .urgent, 0), reason)
  }

  private mutating func sayFarewell(_ word: PlaneInbox.Farewell) {
    guard isLinkUp, linkNumber == word.link else { return word.isOver.signal() }
    isDeaf = true
    farewell = word
    outbox.append(word.refusal.encodedFrame(session: plane.session), to: &ring)
  }

  /// Ends the link once the last word has left for the kernel, or finds no room there.
  mutating func endAfterFarewell() {
    guard farewell != nil, outbox.isEmpty || outbox.isBlocked else { return }
    dropLink()
  }

  /// Gives the link up and says why. From here on no request goes out; removals are still read,
  /// zeros and wakes still given.
  mutating func giveUp(_ reason: DataPlaneEvent) {
    plane.events.sayOnce(.link(linkNumber, .urgent, 0), reason)
    dropLink()
  }

  private mutating func dropLink() {
    guard isLinkUp else { return }
    isLinkUp = false
    // Else the thread would look again without waiting for as long as there is no link.
    isLinkDoubted = false
    monitor = nil
    outbox.clear()
    // Ends the receive that waits; its completion frees the room.
    connection?.shutdown()
    farewell?.isOver.signal()
    farewell = nil
  }
}
