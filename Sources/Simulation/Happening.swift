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
  /// The welcome of a connection arrives.
  case welcomed(connection: Int, life: Int, Welcome)
  /// A side finds out that its connection is gone.
  case notices(Side, connection: Int)
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
  /// A link breaks.
  case linkBreaks
  /// A process dies.
  case crash(Side)
  /// A process starts again from its journal.
  case restart(Side)
  /// The source's VMM resumes by itself.
  case selfResume
  /// The destination's VMM dies.
  case destinationVMDies
  /// The source's memory is lost.
  case memoryLost
  /// A person asks one side to stop or to park.
  case operatorActs(Side, parks: Bool)
  /// The trouble ends.
  case heal
  /// In the healthy tail: restart what has stopped short of an end.
  case supervise
}

/// What travels between the hosts.
enum Packet {
  /// Urgent connection.
  case control(ControlMessage)
  /// Urgent connection, destination to source: a vCPU waits for this page.
  case request(Int)
  /// Either connection: pages from `start` on, by version.
  case pages(start: Int, versions: [UInt32])
  /// Either connection: this page is poisoned.
  case poisoned(Int)
  /// Bulk: this run reads as zeros.
  case zeroRun(Range<Int>)
  /// Bulk: the device state, whole.
  case deviceState
  /// Bulk, destination to source: which pages need no push (here, or asked for).
  case settled([Bool])

  var isUrgent: Bool {
    switch self {
    case .control, .request: true
    case .pages, .poisoned, .zeroRun, .deviceState, .settled: false
    }
  }
}
