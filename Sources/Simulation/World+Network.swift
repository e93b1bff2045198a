internal import Migration
internal import Wire

/// Links: they are dialled, lose and disturb what they carry, and break with or without a word.
extension World {
  mutating func send(_ packet: Packet, from side: Side) {
    send(packet, from: side, isUrgent: packet.isUrgent)
  }

  mutating func send(_ packet: Packet, from side: Side, isUrgent: Bool) {
    guard let connection = hosts[side.rawValue].connection, !isBlackHoled[side.rawValue] else {
      return
    }
    if isTroubled(perMille: plan.dropPerMille) {
      // A stream that has lost something is found dead a little later.
      note("lost: \(packet)")
      schedule(.linkBreaks, within: 100_000..<1_500_000)
      return
    }
    let channel = isUrgent ? 0 : 1
    var arrival = nanoseconds + random.nanoseconds(in: 40_000..<150_000)
    if isTroubled(perMille: plan.reorderPerMille) {
      arrival += random.nanoseconds(in: 0..<1_000_000)
    } else {
      arrival = max(arrival, arrivalFloors[side.rawValue][channel] + 1)
      arrivalFloors[side.rawValue][channel] = arrival
    }
    agenda.add(.arrives(packet, at: side.other, connection: connection), at: arrival)
    if case .deviceState = packet { return }  // Its stream is not repeatable.
    if isTroubled(perMille: plan.duplicatePerMille) {
      agenda.add(
        .arrives(packet, at: side.other, connection: connection),
        at: arrival + random.nanoseconds(in: 1..<800_000))
    }
  }

  mutating func arrive(_ packet: Packet, at side: Side) {
    switch (packet, side) {
    case (.control(let message), .source): feedSource(.received(message))
    case (.control(let message), .destination): feedDestination(.received(message))
    case (.request(let page), .source):
      if isServing { sendPages(page..<page + 1, isUrgent: true) }
    case (.settled(let isSettled), .source):
      isPushHeld = false
      pushQueue = isSettled.indices.filter { !isSettled[$0] }
      schedulePush()
    case (.deviceState, .destination): feedDestination(.deviceStateReceived)
    case (.pages, .destination), (.poisoned, .destination), (.zeroRun, .destination):
      staged.append(packet)
      scheduleInstall()
    case (.pages, .source), (.poisoned, .source), (.zeroRun, .source), (.deviceState, .source),
      (.request, .destination), (.settled, .destination):
      violate("P3", "a packet went the wrong way")
    }
  }

  mutating func dial(life: Int) {
    guard isCurrent(.destination, life), hosts[1].connection == nil, acceptsLinks[1] else {
      return
    }
    guard hosts[0].isAlive, isListening, hosts[0].connection == nil, acceptsLinks[0] else {
      return schedule(.dial(life: life), within: 500_000..<1_500_000)
    }
    let connection = nextConnection
    nextConnection += 1
    isBlackHoled = [false, false]
    let welcomeArrival = nanoseconds + random.nanoseconds(in: 50_000..<200_000)
    arrivalFloors = [[welcomeArrival, welcomeArrival], [nanoseconds, nanoseconds]]
    hosts[0].connection = connection
    isPushHeld = isPushing
    let welcome = Welcome(
      session: sourceCore.session, epoch: sourceCore.epoch, mode: sourceCore.mode,
      bulkConnectionCount: 1, isHandedOff: sourceCore.isHandedOff, regions: [])
    agenda.add(
      .welcomed(connection: connection, life: life, welcome), at: welcomeArrival)
    feedSource(.linkUp(destinationCore.progress))
  }

  mutating func welcomed(connection: Int, life: Int, _ welcome: Welcome) {
    guard isCurrent(.destination, life), hosts[0].connection == connection else {
      schedule(.notices(.source, connection: connection), within: 100_000..<500_000)
      if isCurrent(.destination, life) {
        schedule(.dial(life: life), within: 500_000..<1_500_000)
      }
      return
    }
    hosts[1].connection = connection
    feedDestination(.linkUp(welcome))
    guard isCurrent(.destination, life), hosts[1].connection == connection else { return }
    sendOutstanding()
  }

  /// Both sides find out at their own time; until then nothing, one direction or all gets through.
  mutating func breakLink() {
    guard let connection = hosts[0].connection ?? hosts[1].connection else { return }
    switch random.number(in: 0..<4) {
    case 0: isBlackHoled = [true, true]
    case 1: isBlackHoled[0] = true
    case 2: isBlackHoled[1] = true
    default: break
    }
    for side in Side.allCases {
      schedule(.notices(side, connection: connection), within: 10_000..<2_500_000)
    }
  }

  mutating func notice(_ side: Side, connection: Int) {
    guard hosts[side.rawValue].connection == connection else { return }
    hosts[side.rawValue].connection = nil
    // It closes its end, which the other finds out by a reset or by its own heartbeats.
    schedule(.notices(side.other, connection: connection), within: 50_000..<2_000_000)
    guard hosts[side.rawValue].isAlive else { return }
    let isFinal = plan.isLossFinal
    if isFinal { acceptsLinks[side.rawValue] = false }
    let reason = Refusal(.timeout, "the link is lost")
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
        schedule(.dial(life: life), within: 200_000..<1_000_000)
      }
    }
  }

  mutating func disconnect(_ side: Side) {
    guard let connection = hosts[side.rawValue].connection else { return }
    agenda.add(.notices(side, connection: connection), at: nanoseconds)
    schedule(.notices(side.other, connection: connection), within: 50_000..<200_000)
  }

  /// A process ends: what it has sent arrives, then the peer finds the link closed.
  mutating func closeLink(of side: Side) {
    guard let connection = hosts[side.rawValue].connection else { return }
    hosts[side.rawValue].connection = nil
    let flushed = max(arrivalFloors[side.rawValue][0], arrivalFloors[side.rawValue][1], nanoseconds)
    agenda.add(
      .notices(side.other, connection: connection),
      at: flushed + random.nanoseconds(in: 1_000..<500_000))
  }
}
