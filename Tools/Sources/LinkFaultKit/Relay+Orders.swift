internal import Pages
internal import System
internal import Uring

// Orders: when they are carried out, and what they do to a link.
extension Relay {
  /// What a client of the control socket gets for an order.
  func answer(_ order: FaultOrder) -> RelayReply {
    if let objection = order.objection { return RelayReply(ok: false, error: objection) }
    if order.action == .status { return RelayReply(ok: true, links: links.map(\.status)) }
    accept(order, now: MonotonicClock.now())
    return RelayReply(ok: true)
  }

  /// Carries an order out, or keeps it until its time has come.
  func accept(_ order: FaultOrder, now: Instant) {
    if let milliseconds = order.afterMilliseconds {
      var later = order
      later.afterMilliseconds = nil
      scheduled.append((now.advanced(byNanoseconds: milliseconds * 1_000_000), later))
    } else if order.afterByteCount != nil {
      watching.append(order)
      for link in links { watch(order, on: link) }
    } else {
      carryOut(order, now: now)
    }
  }

  func watch(_ order: FaultOrder, on link: Link) {
    if link.matches(order.target) { link.watch(order) }
  }

  /// A link may have carried enough for an order.
  func tellWatchers(of link: Link) {
    while let order = link.reachedOrder {
      watching.removeAll { $0 == order }
      for other in links { other.unwatch(order) }
      var now = order
      now.afterByteCount = nil
      carryOut(now, now: MonotonicClock.now())
    }
  }

  func carryOutDueOrders(now: Instant) {
    let due = scheduled.filter { $0.due <= now }
    scheduled.removeAll { $0.due <= now }
    for entry in due { accept(entry.order, now: now) }
    let ended = standing.filter { $0.end.map { $0 <= now } ?? false }
    guard !ended.isEmpty else { return }
    standing.removeAll { $0.end.map { $0 <= now } ?? false }
    renewLinks()
    for entry in ended { log.note("cleared", order: entry.order) }
  }

  private func carryOut(_ order: FaultOrder, now: Instant) {
    switch order.action {
    case .clear:
      clear(order)
      return
    case .quit:
      isQuitting = true
      return
    case .listen:
      standing.removeAll { $0.order.action == .refuse }
      renewListener()
      log.note("cleared", order: order)
      return
    case .hold: holdsNextFor = Int(min(order.value ?? 1, UInt64(Self.maximumLinkCount)))
    case .refuse: listener = nil
    case .delay, .limit, .drop, .swallow, .stall, .corrupt, .cut, .reset, .halfOpen, .silent,
      .status:
      break
    }
    if order.action.lasts, order.action != .corrupt || order.value != nil {
      let end = order.forMilliseconds.map { now.advanced(byNanoseconds: $0 * 1_000_000) }
      standing.append(StandingOrder(order: order, end: end))
    }
    faultCount += 1
    for link in links { begin(order, on: link) }
    log.note("fault", order: order)
  }

  /// Does an order to one link, if it is meant.
  func begin(_ order: FaultOrder, on link: Link) {
    guard link.matches(order.target), !link.isOver else { return }
    let value = order.value ?? 0
    switch order.action {
    case .delay: link.changeLanes(order.direction) { $0.delayNanoseconds = value * 1_000_000 }
    case .limit: link.changeLanes(order.direction) { $0.setRate(bytesPerSecond: value) }
    case .drop: link.changeLanes(order.direction) { $0.isDropping = true }
    case .swallow: link.changeLanes(order.direction) { $0.isSwallowing = true }
    case .stall: link.changeLanes(order.direction) { $0.isStalled = true }
    case .corrupt: link.changeLanes(order.direction) { $0.corruption = corruption(order, $0) }
    case .cut:
      link.cut(until: MonotonicClock.now().advanced(byNanoseconds: Self.cutNanoseconds))
    case .reset: link.reset()
    case .halfOpen: link.halfOpen(telling: order.direction)
    case .hold, .refuse, .silent, .listen, .clear, .status, .quit: break
    }
  }

  private func corruption(_ order: FaultOrder, _ lane: Lane) -> Corruption {
    let seed = options.seed &+ lane.takenByteCount
    guard let meanDistance = order.value else {
      return Corruption(onceAt: lane.takenByteCount, seed: seed)
    }
    return Corruption(every: meanDistance, from: lane.takenByteCount, seed: seed)
  }

  private func clear(_ order: FaultOrder) {
    standing.removeAll { order.target == .all || $0.order.target == order.target }
    scheduled.removeAll { order.target == .all || $0.order.target == order.target }
    for watched in watching where order.target == .all || watched.target == order.target {
      for link in links { link.unwatch(watched) }
    }
    watching.removeAll { order.target == .all || $0.target == order.target }
    renewLinks()
    log.note("cleared", order: order)
  }

  /// Undoes what lasted and begins what still does. A stream with a hole in it cannot go on.
  private func renewLinks() {
    for link in links where link.isCutUntil == nil && !link.isClientGone && !link.isServerGone {
      link.toServer.clear()
      link.toClient.clear()
      if link.toServer.hasLostBytes || link.toClient.hasLostBytes {
        link.reset()
      } else {
        for order in standing { begin(order.order, on: link) }
      }
    }
    renewListener()
  }

  private func renewListener() {
    guard listener == nil, !standing.contains(where: { $0.order.action == .refuse }) else { return }
    do throws(ConnectionError) {
      listener = try Listener(address)
    } catch {
      // Somebody has taken the address meanwhile: nobody can dial any more, which the log tells.
      log.note("unreachable", text: "\(error)")
    }
  }
}
