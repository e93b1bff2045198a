internal import Migration
internal import Wire

/// Packets: they are delayed, lost, repeated and overtaken, and swallowed by dead links.
extension World {
  mutating func send(_ packet: Packet, from side: Side) {
    send(packet, from: side, isUrgent: packet.isUrgent)
  }

  mutating func send(_ packet: Packet, from side: Side, isUrgent: Bool) {
    guard let connection = hosts[side.rawValue].connection else { return }
    let message = HandOverMessage(packet)
    let fault = message.flatMap { takeScripted($0) }
    if fault == .senderDiesBefore { return crash(side) }
    transmit(packet, from: side, on: connection, isUrgent: isUrgent, fault)
    if fault == .senderDiesAfter { crash(side) }
  }

  private mutating func transmit(
    _ packet: Packet, from side: Side, on connection: Int, isUrgent: Bool,
    _ fault: HandOverFault.Kind?
  ) {
    let isLost = fault == .lost || fault == .lostSilently || isTroubled(.drop)
    if isLost {
      // A stream that has lost something is found dead a little later.
      note("lost: \(packet)")
      if fault == .lostSilently {
        for sender in Side.allCases { network.swallow(from: sender, on: connection) }
      } else {
        schedule(.trouble(.linkBreaks(connection: connection)), within: 100_000..<1_500_000)
      }
      return
    }
    guard var arrival = arrivalTime(from: side, on: connection) else { return }
    let channel = isUrgent ? 0 : 1
    let isReordered = isTroubled(.reorder) && !packet.isOrdered
    if fault == .delayed {
      arrival += Self.scriptedDelayNanoseconds
    } else if isReordered {
      arrival += random.nanoseconds(in: 0..<1_000_000)
    } else {
      arrival = max(arrival, hosts[side.rawValue].arrivalFloors[channel] + 1)
      hosts[side.rawValue].arrivalFloors[channel] = arrival
    }
    arrival = max(arrival, hosts[side.rawValue].firstArrival + 1)
    if fault == .receiverDiesBefore {
      agenda.add(.trouble(.crash(side.other)), at: arrival - 1)
    }
    agenda.add(.arrives(packet, at: side.other, connection: connection), at: arrival)
    if fault == .receiverDiesAfter {
      agenda.add(.trouble(.crash(side.other)), at: arrival + 1)
    }
    if packet.isOrdered { return }
    if fault == .duplicated || isTroubled(.duplicate) {
      agenda.add(
        .arrives(packet, at: side.other, connection: connection),
        at: arrival + random.nanoseconds(in: 1..<800_000))
    }
  }

  /// When something that is sent now arrives; nil when it never does.
  mutating func arrivalTime(from side: Side, on connection: Int) -> UInt64? {
    let usual = nanoseconds + random.nanoseconds(in: 40_000..<150_000)
    if network.isSwallowed(from: side, on: connection) { return nil }
    return usual + network.delay(from: side, now: nanoseconds)
  }

  mutating func arrive(_ packet: Packet, at side: Side, on connection: Int) {
    let isOld = hosts[side.rawValue].connection != connection
    if isOld {
      guard mutation == .supersededHandled, hosts[side.rawValue].connection != nil else { return }
      violate("order", "a frame is handled whose link another one has taken the place of")
    }
    if !isOld { reached(side) }
    heard(side)
    switch (packet, side) {
    case (.control(.ping(let sequence)), _):
      send(.control(.pong(sequence: sequence)), from: side)
    case (.control(.pong(let sequence)), _):
      let now = monitorNow
      hosts[side.rawValue].monitor?.pong(sequence, now: now)
    case (.control(let message), .source): feedSource(.received(message))
    case (.control(let message), .destination): feedDestination(.received(message))
    case (.request(let page), .source):
      if isServing { sendPages(page..<page + 1, isUrgent: true) }
    case (.residentMap(let start, let isResident), .source): takeMap(start, isResident)
    case (.deviceState, .destination): feedDestination(.deviceStateReceived)
    case (.runBegins(let start, let versions), .destination): halfRun = (start, versions)
    case (.pages, .destination), (.poisoned, .destination), (.zeroRun, .destination),
      (.pushFinished, .destination):
      halfRun = nil
      staged.append(packet)
      scheduleInstall()
    case (.pages, .source), (.runBegins, .source), (.poisoned, .source), (.zeroRun, .source),
      (.deviceState, .source), (.pushFinished, .source), (.request, .destination),
      (.residentMap, .destination):
      violate("order", "a packet went the wrong way")
    }
  }

  /// What breaks a link: a reset that both sides find soon, or silence in one or both directions,
  /// which only heartbeats find.
  mutating func breakLink(_ wanted: Int?) {
    let connection: Int
    if let wanted {
      connection = wanted
    } else {
      guard let current = hosts[0].connection ?? hosts[1].connection else { return }
      connection = current
    }
    let kind = random.number(in: 0..<4)
    if kind == 0 || kind == 1 { network.swallow(from: .source, on: connection) }
    if kind == 0 || kind == 2 { network.swallow(from: .destination, on: connection) }
    guard kind == 3 else { return }
    for side in Side.allCases {
      schedule(.notices(side, connection: connection), within: 10_000..<500_000)
    }
  }

  mutating func partition() {
    let kind = random.number(in: 0..<3)
    let end = nanoseconds + random.nanoseconds(in: 300_000..<8_000_000)
    if kind != 1 { network.cut(from: .source, until: end) }
    if kind != 2 { network.cut(from: .destination, until: end) }
  }
}
