internal import Pages
internal import System
public import VMM

/// One question to a running microvm.
public enum ControlClient {
  /// A check of many gigabytes, or a load that waits for pages, takes its time.
  private static let answerNanoseconds: UInt64 = 600_000_000_000

  /// Connects, asks, and returns the answer, which may be a failure.
  public static func call(
    _ request: ControlRequest, socket: String
  ) throws(JSONLineError) -> ControlReply {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: answerNanoseconds)
    return try JSONLineClient.connect(socket, deadline: deadline)
      .call(request, replyingWith: ControlReply.self, deadline: deadline)
  }
}

extension ProcessImage {
  /// The memory of the microvm that answered a status request so. It must be stopped.
  public convenience init(status: ControlReply) throws(ControlFailure) {
    guard status.ok, let pid = status.pid, let regions = status.regions else {
      throw ControlFailure(.failed, status.error ?? "the answer is no status")
    }
    let stopped: [TestMachine.Activity] = [.paused, .finished, .disabled, .guestError]
    guard stopped.contains(where: { $0.rawValue == status.state }) else {
      throw ControlFailure(.badState, "the guest is \(status.state ?? "unknown"): pause it first")
    }
    do throws(SystemError) {
      try self.init(
        processID: pid,
        pieces: regions.map {
          Piece(offset: $0.offset, byteCount: $0.size, hostAddress: $0.hostAddress)
        })
    } catch {
      throw ControlFailure(.failed, "\(error)")
    }
  }
}
