internal import Pages
internal import Uring
internal import Wire

/// One accepted connection and the one that was dialled for it.
final class Link {
  let number: Int
  let client: Connection
  /// nil until it is dialled.
  var server: Connection?
  /// From the client.
  var toServer = Lane()
  /// From the server.
  var toClient = Lane()
  /// nil while it is not known.
  private(set) var role: ConnectionRole?
  /// Not to be dialled before so many connections were accepted.
  var heldUntilNumber = 0
  /// Its sides were closed, or are to be told no more.
  var isClientGone = false
  var isServerGone = false
  /// Both sides have been sent the end; what still comes is thrown away until then.
  var isCutUntil: Instant?
  /// Closed with a reset, which needs no more of us.
  var isOver = false

  /// Orders that wait for one of its lanes to have carried enough.
  private var watches: [Watch] = []

  private struct Watch {
    let offset: UInt64
    let isToServer: Bool
    let order: FaultOrder
  }

  /// The client's first bytes, until the role is known or cannot be.
  private var firstBytes: [UInt8]? = []

  init(number: Int, client: Connection) {
    self.number = number
    self.client = client
  }

  func matches(_ target: LinkTarget) -> Bool {
    switch target {
    case .all: true
    case .number(let number): number == self.number
    case .urgent: role == .urgent
    case .bulk: role == .bulk
    }
  }

  /// Looks for the role in what the client says first. True when it has just become known.
  func learnRole(from bytes: [UInt8]) -> Bool {
    guard firstBytes != nil else { return false }
    firstBytes? += bytes
    // The role is byte 10 of a hello's payload, which is the first frame; behind TLS there is none.
    let roleOffset = WireLimits.headerByteCount + 10
    guard let first = firstBytes, first.count > roleOffset else { return false }
    firstBytes = nil
    guard first[0] == FrameType.hello.rawValue else { return false }
    role = ConnectionRole(rawValue: first[roleOffset])
    return role != nil
  }

  var status: RelayLink {
    RelayLink(
      number: number, role: role.map { "\($0)" }, isConnected: server != nil,
      toServerByteCount: toServer.takenByteCount, toClientByteCount: toClient.takenByteCount,
      toClientPassedByteCount: toClient.passedByteCount)
  }

  /// Runs `change` on each lane that the direction covers.
  func changeLanes(_ direction: FaultDirection, _ change: (inout Lane) -> Void) {
    if direction.coversToServer { change(&toServer) }
    if direction.coversToClient { change(&toClient) }
  }

  /// Sends both sides the end of the stream, in order: a close with unread bytes would be a reset.
  func cut(until deadline: Instant) {
    toServer.discardWaiting()
    toClient.discardWaiting()
    client.endSending()
    server?.endSending()
    isCutUntil = deadline
  }

  /// Sends both sides a reset; a UNIX socket knows none, its peer sees the end.
  func reset() {
    client.abandonWithReset()
    server?.abandonWithReset()
    isOver = true
  }

  /// Closes one side and leaves the other in the dark.
  func halfOpen(telling direction: FaultDirection) {
    if direction == .toServer {
      server?.shutdown()
      isServerGone = true
      toServer.isSwallowing = true
    } else {
      client.shutdown()
      isClientGone = true
      toClient.isSwallowing = true
    }
    toServer.discardWaiting()
    toClient.discardWaiting()
  }

  /// Has `order` told once the lane has carried `afterByteCount` bytes more.
  func watch(_ order: FaultOrder) {
    let isToServer = order.direction == .toServer
    let taken = isToServer ? toServer.takenByteCount : toClient.takenByteCount
    watches.append(
      Watch(offset: taken + (order.afterByteCount ?? 0), isToServer: isToServer, order: order))
    setWatchedOffsets()
  }

  /// Forgets an order that was carried out or cancelled.
  func unwatch(_ order: FaultOrder) {
    watches.removeAll { $0.order == order }
    setWatchedOffsets()
  }

  /// An order whose bytes have all been passed on.
  var reachedOrder: FaultOrder? {
    watches.first { watch in
      let lane = watch.isToServer ? toServer : toClient
      return lane.takenByteCount >= watch.offset && lane.hasReachedWatchedOffset
    }?.order
  }

  private func setWatchedOffsets() {
    toServer.watchedOffset = watches.filter(\.isToServer).map(\.offset).min()
    toClient.watchedOffset = watches.filter { !$0.isToServer }.map(\.offset).min()
  }
}
