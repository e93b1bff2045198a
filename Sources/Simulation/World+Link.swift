internal import Migration
internal import Wire

/// Links: dialled, superseded, given up.
extension World {
  /// How long a connection may take to be welcomed before the next is tried.
  static let dialNanoseconds: UInt64 = 1_500_000

  /// The destination begins to look for the source; what it proves is what its journal proves now.
  mutating func beginDialling() {
    diallingProgress = destinationCore.progress
    diallingKnowsSession = destinationCore.session != .none
  }

  mutating func dial(life: Int) {
    guard isCurrent(.destination, life), hosts[1].connection == nil, dialled == nil,
      acceptsLinks[1]
    else { return }
    let connection = network.newConnection()
    dialled = connection
    let hello = SimulatedHello(
      connection: connection, life: life, progress: diallingProgress,
      knowsSession: diallingKnowsSession)
    let fault = takeScripted(.hello)
    if fault == .senderDiesBefore { return crash(.destination) }
    helloArrival = nanoseconds
    if let arrival = launchTime(from: .destination, on: connection, fault) {
      helloArrival = arrival
      agenda.add(.helloArrives(hello), at: arrival)
      if fault == .duplicated { agenda.add(.helloArrives(hello), at: arrival + 100_000) }
    }
    agenda.add(
      .dialFails(connection: connection, life: life), at: nanoseconds + Self.dialNanoseconds)
    if fault == .senderDiesAfter { crash(.destination) }
  }

  /// When a hello or a welcome arrives, under the script's fault; nil when it never does.
  private mutating func launchTime(
    from side: Side, on connection: Int, _ fault: HandOverFault.Kind?
  ) -> UInt64? {
    guard var arrival = arrivalTime(from: side, on: connection) else { return nil }
    switch fault {
    case .lost, .lostSilently:
      note("lost: the first frame of connection \(connection)")
      return nil
    case .delayed: arrival += Self.scriptedDelayNanoseconds
    case .receiverDiesBefore: agenda.add(.trouble(.crash(side.other)), at: arrival - 1)
    case .receiverDiesAfter: agenda.add(.trouble(.crash(side.other)), at: arrival + 1)
    case .duplicated, .senderDiesBefore, .senderDiesAfter, .writerDiesBefore, .writerDiesAfter,
      .fails, .failsUnclear, .failsDurable, .refused, nil:
      break
    }
    return arrival
  }

  mutating func dialFails(_ connection: Int, life: Int) {
    guard isCurrent(.destination, life), dialled == connection else { return }
    dialled = nil
    tellClosed(from: .destination, connection, behind: helloArrival)
    schedule(.dial(life: life), within: 100_000..<600_000)
  }

  mutating func dialRefused(_ connection: Int, life: Int, _ refusal: Refusal) {
    guard isCurrent(.destination, life), dialled == connection else { return }
    dialled = nil
    feedDestination(.linkRefused(refusal))
    if isCurrent(.destination, life) { schedule(.dial(life: life), within: 100_000..<600_000) }
  }

  /// The source's door.
  mutating func helloArrives(_ hello: SimulatedHello) {
    guard isDoorOpen else { return refuseDial(hello, nil) }
    // A second hello on a connection: the frame gate ends what it is no first frame of.
    if hosts[0].connection == hello.connection { return }
    if hosts[0].connection != nil {
      guard hello.knowsSession else {
        return refuseDial(hello, Refusal(.busy, "the session has a destination already"))
      }
      supersededCount += 1
      // It has found its link broken before we did: that one is given up first.
      loseLink(.source, Refusal(.session, "the destination has come on another connection"))
      guard isDoorOpen else { return refuseDial(hello, nil) }
    }
    accept(hello)
  }

  private var isDoorOpen: Bool { hosts[0].isAlive && isListening && acceptsLinks[0] }

  private mutating func refuseDial(_ hello: SimulatedHello, _ refusal: Refusal?) {
    guard let arrival = arrivalTime(from: .source, on: hello.connection) else { return }
    if let refusal {
      agenda.add(
        .dialRefused(connection: hello.connection, life: hello.life, refusal), at: arrival)
    } else {
      agenda.add(.dialFails(connection: hello.connection, life: hello.life), at: arrival)
    }
  }

  private mutating func accept(_ hello: SimulatedHello) {
    let welcome = Welcome(
      session: sourceCore.session, epoch: sourceCore.epoch, mode: sourceCore.mode,
      bulkConnectionCount: 1, isHandedOff: sourceCore.isHandedOff, regions: [])
    let fault = takeScripted(.welcome)
    if fault == .senderDiesBefore { return crash(.source) }
    hosts[0].connection = hello.connection
    var first = nanoseconds
    if let arrival = launchTime(from: .source, on: hello.connection, fault) {
      first = arrival
      let happening = Happening.welcomed(
        connection: hello.connection, life: hello.life, welcome)
      agenda.add(happening, at: arrival)
      if fault == .duplicated { agenda.add(happening, at: arrival + 100_000) }
    }
    beginLink(.source, firstArrival: first, isBulkUp: !hello.knowsSession)
    beginMap(isAwaited: hello.knowsSession)
    if fault == .senderDiesAfter { return crash(.source) }
    feedSource(.linkUp(hello.progress))
  }

  mutating func beginLink(_ side: Side, firstArrival: UInt64, isBulkUp: Bool) {
    hosts[side.rawValue].firstArrival = firstArrival
    hosts[side.rawValue].arrivalFloors = [firstArrival, firstArrival]
    hosts[side.rawValue].isBulkUp = isBulkUp
    beginHeartbeats(side)
  }

  mutating func welcomed(connection: Int, life: Int, _ welcome: Welcome) {
    guard isCurrent(.destination, life), dialled == connection else { return }
    dialled = nil
    hosts[1].connection = connection
    // The first time the plane begins with all connections; a link made again begins with urgent.
    let isReturn = diallingKnowsSession
    if isReturn { reconnectCount += 1 }
    beginLink(.destination, firstArrival: nanoseconds, isBulkUp: !isReturn)
    isMapDue = isReturn
    requestedOnLink = [Bool](repeating: false, count: plan.pageCount)
    if isTroubled(.relapse) {
      schedule(.trouble(.linkBreaks(connection: connection)), within: 1_000..<700_000)
    }
    // Somebody waits: that comes before anything that the session has to say.
    requestAgain()
    if isReturn {
      schedule(.bulkJoins(connection: connection, life: life), within: 80_000..<400_000)
    }
    feedDestination(.linkUp(welcome))
  }

  /// A side finds its connection closed or reset.
  mutating func notice(_ side: Side, connection: Int) {
    if side == .destination, dialled == connection {
      return dialFails(connection, life: destinationLife)
    }
    guard hosts[side.rawValue].connection == connection, hosts[side.rawValue].isAlive else {
      return
    }
    loseLink(side, Refusal(.timeout, "the link is closed"))
  }

  /// Gives a side's link up: half-received things are dropped, the other side is told if it can be.
  mutating func loseLink(_ side: Side, _ reason: Refusal) {
    guard let connection = hosts[side.rawValue].connection else { return }
    endLink(side)
    tellClosed(from: side, connection, behind: nanoseconds)
    let isFinal = plan.isLossFinal
    if isFinal { acceptsLinks[side.rawValue] = false }
    switch side {
    case .source:
      if mutation == .sourceResumesOnTimeout && sourceCore.state == .handedOff {
        sourceVMM.commands.append((.resume, -1))
        schedule(.vmmActs(.source), within: 500_000..<1_000_000)
      }
      feedSource(.linkDown(isFinal: isFinal, reason))
    case .destination:
      let life = hosts[1].life
      feedDestination(.linkDown(isFinal: isFinal, reason))
      if isCurrent(.destination, life) {
        beginDialling()
        schedule(.dial(life: life), within: 50_000..<600_000)
      }
    }
  }

  /// Forgets everything that belongs to the link and not to the session.
  mutating func endLink(_ side: Side) {
    hosts[side.rawValue].connection = nil
    hosts[side.rawValue].monitor = nil
    hosts[side.rawValue].isLinkDoubted = false
    hosts[side.rawValue].isBulkUp = false
    switch side {
    case .source: endMap()
    case .destination:
      if mutation == .halfRunInstalled, let (start, versions) = halfRun {
        staged.append(.pages(start: start, versions: versions))
        scheduleInstall()
      }
      halfRun = nil
      isMapDue = false
    }
  }

  /// The kernel tells the other host, behind what was sent before, if anything gets there at all.
  mutating func tellClosed(from side: Side, _ connection: Int, behind floor: UInt64) {
    guard let arrival = arrivalTime(from: side, on: connection) else { return }
    agenda.add(.notices(side.other, connection: connection), at: max(arrival, floor + 1))
  }

  mutating func disconnect(_ side: Side) {
    guard let connection = hosts[side.rawValue].connection else { return }
    agenda.add(.notices(side, connection: connection), at: nanoseconds)
  }

  /// A process ends: what it has sent arrives, then the peer finds the link closed.
  mutating func closeLink(of side: Side) {
    guard let connection = hosts[side.rawValue].connection else { return }
    let floors = hosts[side.rawValue].arrivalFloors
    endLink(side)
    tellClosed(from: side, connection, behind: max(floors[0], floors[1]))
  }
}
