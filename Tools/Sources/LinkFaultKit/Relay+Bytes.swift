internal import Pages
internal import System
internal import Uring

// Moving bytes.
extension Link {
  func clientEntry(now: Instant) -> PollEntry {
    let isCut = isCutUntil != nil
    // Not yet dialled: what it sends stays in its socket, and its end is looked for, so that
    // clients that have given up do not pile up.
    if server == nil, !isCut { return PollEntry(descriptor: client.rawDescriptor, wantsEnd: true) }
    return PollEntry(
      descriptor: client.rawDescriptor,
      wantsRead: !isClientGone && (isCut ? !toServer.isEnded : toServer.roomByteCount > 0),
      wantsWrite: !isClientGone && !isCut && !toClient.sendable(now: now).isEmpty)
  }

  func serverEntry(now: Instant) -> PollEntry {
    guard let server else { return PollEntry(descriptor: -1) }
    let isCut = isCutUntil != nil
    return PollEntry(
      descriptor: server.rawDescriptor,
      wantsRead: !isServerGone && (isCut ? !toClient.isEnded : toClient.roomByteCount > 0),
      wantsWrite: !isServerGone && !isCut && !toServer.sendable(now: now).isEmpty)
  }

  /// Both ends were passed on, or the side that is in the dark has ended by itself.
  var isFinished: Bool {
    toServer.hasPassedEnd && toClient.hasPassedEnd || isClientGone && toClient.isEnded
      || isServerGone && toServer.isEnded
  }

  /// When something is to be done without anything coming in.
  func dueMoments(now: Instant) -> [Instant] {
    if let isCutUntil { return [isCutUntil] }
    guard server != nil else { return [] }
    // What is due already waits for room, which poll tells.
    return [toServer.nextDue(now: now), toClient.nextDue(now: now)].compactMap { $0 }
      .filter { $0 > now }
  }
}

extension Relay {
  func work(on link: Link, _ client: PollEntry, _ server: PollEntry) {
    guard !link.isOver else { return }
    do throws(ConnectionError) {
      if link.isCutUntil != nil { return try drain(link, client, server) }
      if link.server == nil {
        link.isOver = client.hasEnded
        return
      }
      if client.isReadable { try take(from: link.client, link, \.toServer) }
      if server.isReadable, let from = link.server { try take(from: from, link, \.toClient) }
      if let to = link.server, !link.isServerGone { try pass(link, to, \.toServer) }
      if !link.isClientGone { try pass(link, link.client, \.toClient) }
      if link.isFinished { link.isOver = true }
    } catch {
      // One side is gone in disorder: the other one hears the same.
      link.reset()
    }
    tellWatchers(of: link)
  }

  private func take(
    from sender: Connection, _ link: Link, _ lane: ReferenceWritableKeyPath<Link, Lane>
  ) throws(ConnectionError) {
    let room = link[keyPath: lane].roomByteCount
    guard room > 0 else { return }
    do throws(ConnectionError) {
      guard let bytes = try sender.receiveAvailable(atMost: room) else { return }
      if lane == \Link.toServer, link.learnRole(from: bytes) {
        log.note("role", link: link)
        for order in standing where order.order.target != .all { begin(order.order, on: link) }
        for order in watching where order.target != .all { watch(order, on: link) }
      }
      link[keyPath: lane].take(bytes, now: MonotonicClock.now())
    } catch {
      guard error.kind == .closedByPeer else { throw error }
      link[keyPath: lane].isEnded = true
    }
  }

  private func pass(
    _ link: Link, _ receiver: Connection, _ lane: ReferenceWritableKeyPath<Link, Lane>
  ) throws(ConnectionError) {
    while true {
      let now = MonotonicClock.now()
      let bytes = link[keyPath: lane].sendable(now: now)
      guard !bytes.isEmpty else { break }
      let count = try receiver.trySend(bytes)
      link[keyPath: lane].sent(byteCount: count, now: now)
      guard count == bytes.count else { break }
    }
    let state = link[keyPath: lane]
    if state.isEnded, state.isEmpty, !state.hasPassedEnd, !state.isDropping, !state.isSwallowing {
      receiver.endSending()
      link[keyPath: lane].hasPassedEnd = true
    }
  }

  /// Throws away what still comes on a link that was cut, until both sides have ended.
  private func drain(
    _ link: Link, _ client: PollEntry, _ server: PollEntry
  ) throws(ConnectionError) {
    if client.isReadable { link.toServer.isEnded = try discard(from: link.client) }
    if server.isReadable, let from = link.server { link.toClient.isEnded = try discard(from: from) }
    let isServerDone = link.toClient.isEnded || link.server == nil
    if link.toServer.isEnded && isServerDone || MonotonicClock.now() >= link.isCutUntil! {
      link.isOver = true
    }
  }

  private func discard(from sender: Connection) throws(ConnectionError) -> Bool {
    do throws(ConnectionError) {
      while try sender.receiveAvailable(atMost: Lane.pieceByteCount) != nil {}
      return false
    } catch {
      guard error.kind == .closedByPeer else { throw error }
      return true
    }
  }
}
