internal import Migration
internal import Pages
internal import Wire

/// One of the two hosts.
public enum Side: Int, CaseIterable, Sendable {
  /// Where the VM comes from.
  case source = 0
  /// Where it goes.
  case destination = 1

  var other: Side { self == .source ? .destination : .source }
}

/// Everything that the simulator can schedule.
enum Happening {
  /// The source's core is to hear this, if that process still lives.
  case sourceHears(SourceEvent, life: Int)
  /// A run of rounds ends, if no other one has begun since.
  case seedRunEnds(SourceEvent, run: Int, life: Int)
  /// The destination's core is to hear this, if that process still lives.
  case destinationHears(DestinationEvent, life: Int)
  /// A timer runs out, if nobody has armed it anew since.
  case timer(Side, index: Int, generation: Int, life: Int)
  /// An fsync ends.
  case journalWritten(Side, index: Int, life: Int)
  /// A VMM carries out its next command.
  case vmmActs(Side)
  /// A packet arrives.
  case arrives(Packet, at: Side, connection: Int)
  /// The destination dials.
  case dial(life: Int)
  /// The hello of a new connection arrives at the source.
  case helloArrives(SimulatedHello)
  /// The welcome of a connection arrives.
  case welcomed(connection: Int, life: Int, Welcome)
  /// The source refuses the connection.
  case dialRefused(connection: Int, life: Int, Refusal)
  /// Nobody has answered on the connection: refused by the host, or waited for too long.
  case dialFails(connection: Int, life: Int)
  /// The bulk connection of a link that was made again is up.
  case bulkJoins(connection: Int, life: Int)
  /// The destination sends the next frame of its resident map.
  case mapGoesOn(start: Int, connection: Int, life: Int)
  /// A side finds out that its connection is gone.
  case notices(Side, connection: Int)
  /// A side's link monitor looks at the clock.
  case heartbeat(Side, connection: Int)
  /// The source's edge sends the device state that the VMM has handed out.
  case deviceStateLeaves(life: Int)
  /// The source sends its next push.
  case push(life: Int)
  /// The destination's fault handler reads the userfaultfd.
  case handlerReads(life: Int)
  /// The destination installs what has arrived.
  case installs(life: Int)
  /// The guest does something at the source.
  case sourceGuestActs
  /// A vCPU (or the loading VMM) does something at the destination.
  case vcpuActs(Int)
  /// A fault reaches the userfaultfd's queue.
  case faultQueues(vcpu: Int, page: Int)
  /// The kernel drops the pages of a removal whose event was read.
  case zap(vcpu: Int)
  /// The pages that were seeded stale are really dropped.
  case discardsEnd(life: Int)
  /// Trouble, or its end.
  case trouble(Trouble)
}

/// What the simulator does to the hosts, the network, the VMs and the operators.
enum Trouble {
  /// A link breaks: that one, or whichever is up.
  case linkBreaks(connection: Int?)
  /// The network between the hosts carries nothing for a while, in one or both directions.
  case partition
  /// A process is stopped for a while and then goes on.
  case stall(Side)
  /// A process dies.
  case crash(Side)
  /// A process starts again from its journal.
  case restart(Side)
  /// The source's VMM resumes by itself.
  case selfResume
  /// The destination's VMM dies.
  case destinationVMDies
  /// The destination's host is gone for good, with everything on it.
  case destinationHostDies
  /// An operator swears that the destination is dead although it is not.
  case falseOath
  /// FENCED is on the source's disk.
  case fenceEnds
  /// The source's memory is lost.
  case memoryLost
  /// A person asks one side to stop or to park.
  case operatorActs(Side, parks: Bool)
  /// The trouble ends: liveness mode.
  case heal
  /// In liveness mode: restart what has stopped short of an end.
  case supervise
}

/// What the destination says when it dials.
struct SimulatedHello {
  let connection: Int
  /// The destination's life.
  let life: Int
  /// What its journal proved when it began to dial: an answer to an fsync may have come since.
  let progress: DestinationProgress
  /// It names the session: it has been welcomed before, so a resident map will follow.
  let knowsSession: Bool
}

/// What travels between the hosts.
enum Packet {
  /// Urgent connection.
  case control(ControlMessage)
  /// Urgent connection, destination to source: a vCPU waits for this page.
  case request(Int)
  /// Either connection: pages from `start` on, by version.
  case pages(start: Int, versions: [UInt32])
  /// Bulk: the first bytes of such a run; the rest of its buffer holds something else.
  case runBegins(start: Int, versions: [UInt32])
  /// Either connection: this page is poisoned.
  case poisoned(Int)
  /// Bulk: this run reads as zeros.
  case zeroRun(Range<Int>)
  /// Bulk: the device state, whole.
  case deviceState
  /// Bulk: everything was pushed.
  case pushFinished
  /// Bulk, destination to source: which pages from `start` on are here, zero, removed or poisoned.
  case residentMap(start: Int, isResident: [Bool])

  var isUrgent: Bool {
    switch self {
    case .control, .request: true
    case .pages, .runBegins, .poisoned, .zeroRun, .deviceState, .residentMap, .pushFinished: false
    }
  }

  var isHeartbeat: Bool {
    switch self {
    case .control(.ping), .control(.pong): true
    case .control, .request, .pages, .runBegins, .poisoned, .zeroRun, .deviceState, .residentMap,
      .pushFinished:
      false
    }
  }

  /// Part of a stream that TCP keeps together: it cannot come twice or out of order.
  var isOrdered: Bool {
    switch self {
    case .deviceState, .residentMap, .runBegins, .pushFinished: true
    case .control, .request, .pages, .poisoned, .zeroRun: false
    }
  }
}
