internal import Glibc
internal import System

/// What the sockets are told, and why.
enum SocketOptions {
  /// How long sent bytes may stay unacknowledged before the kernel gives the connection up: the net
  /// of last resort against a link that swallows everything. The kernel's own limit is 15 minutes.
  static let userTimeoutMilliseconds: Int32 = 10_000
  /// A silent connection is probed after this time, and then as often: a host that lost its power
  /// while nothing was on its way answers no probe, and nothing else would tell.
  static let keepAliveSeconds: Int32 = 2
  /// Probes without an answer until the connection counts as dead.
  static let keepAliveCount: Int32 = 4
  /// Bytes on bulk that wait unsent in the kernel: two of the largest runs. The less waits, the
  /// less lies ahead of an urgent page in the host's queues (QEMU measured 12 ms behind 15 MB),
  /// and two keep the wire busy while the next run is read.
  static let bulkUnsentByteCount: Int32 = 2 * 65_536
}

extension Connection {
  /// Sets the options for what the connection carries: told apart by its hello when it was
  /// accepted.
  public func setPurpose(_ purpose: Purpose) throws(ConnectionError) {
    try setOptions(for: purpose)
  }

  func setOptions(for purpose: Purpose) throws(ConnectionError) {
    guard case .internet = peer else { return }
    try setOption(Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    try setOption(Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, SocketOptions.userTimeoutMilliseconds)
    try setOption(SOL_SOCKET, SO_KEEPALIVE, 1)
    try setOption(Int32(IPPROTO_TCP), TCP_KEEPIDLE, SocketOptions.keepAliveSeconds)
    try setOption(Int32(IPPROTO_TCP), TCP_KEEPINTVL, SocketOptions.keepAliveSeconds)
    try setOption(Int32(IPPROTO_TCP), TCP_KEEPCNT, SocketOptions.keepAliveCount)
    if purpose == .bulk {
      try setOption(Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, SocketOptions.bulkUnsentByteCount)
    }
  }

  private func setOption(
    _ level: Int32, _ name: Int32, _ value: Int32
  ) throws(ConnectionError) {
    var value = value
    // unsafe: the option is an int, and the local variable lives during the call.
    let result = unsafe setsockopt(
      descriptor.rawValue, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
    guard result == 0 else { throw failure("setsockopt", .current) }
  }
}
