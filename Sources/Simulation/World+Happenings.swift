internal import Migration

/// One happening after the other, each at whom it concerns.
extension World {
  mutating func happen(_ happening: Happening) {
    if isPutOff(happening) { return }
    if isTracing { noteHappening(happening) }
    switch happening {
    case .sourceHears(let event, let life):
      if isCurrent(.source, life) { feedSource(event) }
    case .seedRunEnds(let event, let run, let life):
      if isCurrent(.source, life), run == seedRun { feedSource(event) }
    case .destinationHears(let event, let life):
      if isCurrent(.destination, life) { feedDestination(event) }
    case .timer(let side, let index, let generation, let life):
      timerRanOut(side, index: index, generation: generation, life: life)
    case .journalWritten(let side, let index, let life):
      if isCurrent(side, life) { journalWritten(side, index: index) }
    case .vmmActs(.source): sourceVMMActs()
    case .vmmActs(.destination): destinationVMMActs()
    case .arrives(let packet, let side, let connection):
      if hosts[side.rawValue].isAlive { arrive(packet, at: side, on: connection) }
    case .dial(let life): dial(life: life)
    case .helloArrives(let hello): helloArrives(hello)
    case .welcomed(let connection, let life, let welcome):
      welcomed(connection: connection, life: life, welcome)
    case .dialRefused(let connection, let life, let refusal):
      dialRefused(connection, life: life, refusal)
    case .dialFails(let connection, let life): dialFails(connection, life: life)
    case .bulkJoins(let connection, let life): bulkJoins(connection, life: life)
    case .mapGoesOn(let start, let connection, let life):
      sendMap(from: start, connection, life: life)
    case .notices(let side, let connection): notice(side, connection: connection)
    case .heartbeat(let side, let connection): heartbeat(side, connection: connection)
    case .deviceStateLeaves(let life): deviceStateLeaves(life: life)
    case .push(let life): push(life: life)
    case .handlerReads(let life): handlerReads(life: life)
    case .installs(let life): install(life: life)
    case .sourceGuestActs: sourceGuestActs()
    case .vcpuActs(let vcpu): vcpuActs(vcpu)
    case .faultQueues(let vcpu, let page): queueFault(vcpu, page: page)
    case .zap(let vcpu): zap(vcpu)
    case .discardsEnd(let life): discardsEnd(life: life)
    case .trouble(let trouble): happen(trouble)
    }
  }

  private mutating func happen(_ trouble: Trouble) {
    switch trouble {
    case .linkBreaks(let connection): breakLink(connection)
    case .partition: partition()
    case .stall(let side): stall(side)
    case .crash(let side): crash(side)
    case .restart(let side): restart(side)
    case .selfResume: selfResume()
    case .destinationVMDies: destinationVMDies()
    case .destinationHostDies: destinationHostDies()
    case .falseOath: swearFalsely()
    case .fenceEnds: fenceEnds()
    case .memoryLost: loseSourceMemory()
    case .operatorActs(let side, let parks): operatorActs(side, parks: parks)
    case .heal: heal()
    case .supervise: supervise()
    }
  }

  /// A process that is stopped does what has come meanwhile when it goes on, in its order.
  private mutating func isPutOff(_ happening: Happening) -> Bool {
    guard let side = happening.process, hosts[side.rawValue].stalledUntil > nanoseconds else {
      return false
    }
    if case .arrives(_, _, let connection) = happening,
      hosts[side.rawValue].connection == connection
    {
      reached(side)
    }
    agenda.add(happening, at: hosts[side.rawValue].stalledUntil)
    return true
  }

  /// Traces what is worth reading; the steps of the engines would hide it.
  private mutating func noteHappening(_ happening: Happening) {
    if case .arrives(let packet, _, _) = happening, packet.isHeartbeat { return }
    switch happening {
    case .vcpuActs, .sourceGuestActs, .faultQueues, .push, .installs, .handlerReads, .sourceHears,
      .seedRunEnds, .destinationHears, .trouble(.supervise), .heartbeat:
      break
    case .timer, .journalWritten, .vmmActs, .arrives, .dial, .helloArrives, .welcomed,
      .dialRefused, .dialFails, .bulkJoins, .mapGoesOn, .deviceStateLeaves, .notices, .zap,
      .discardsEnd, .trouble:
      note("\(happening)")
    }
  }
}

extension Happening {
  /// The process in which it happens; nil for what happens to hosts, VMs and the network.
  var process: Side? {
    switch self {
    case .sourceHears, .seedRunEnds, .helloArrives, .push, .deviceStateLeaves: .source
    case .destinationHears, .dial, .welcomed, .dialRefused, .dialFails, .bulkJoins, .mapGoesOn,
      .handlerReads, .installs, .discardsEnd:
      .destination
    case .timer(let side, _, _, _), .journalWritten(let side, _, _), .notices(let side, _),
      .heartbeat(let side, _), .trouble(.operatorActs(let side, _)), .arrives(_, let side, _):
      side
    case .vmmActs, .sourceGuestActs, .vcpuActs, .faultQueues, .zap, .trouble: nil
    }
  }
}
