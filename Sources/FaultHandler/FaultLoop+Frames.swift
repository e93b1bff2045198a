internal import Pages
internal import System
internal import UFFD
internal import Uring
internal import Wire

extension FaultLoop {
  /// Opens what has come under TLS, and handles the frames in it; nothing without TLS.
  mutating func openFrames() throws(RingError) {
    var mayHaveMore = true
    while mayHaveMore, isLinkUp, !isDeaf, let connection, connection.isSealed {
      do throws(ConnectionError) {
        mayHaveMore = try inbound.open(&ring, from: connection)
      } catch {
        return giveUp(.linkLost(.urgent, position: 0, error))
      }
      try handleFrames()
    }
  }

  /// Handles every whole frame that has come on the urgent connection.
  mutating func handleFrames() throws(RingError) {
    do throws(ProtocolViolation) {
      while isLinkUp, !isDeaf, let header = try inbound.nextFrame(ring) {
        try handle(header, payload: inbound.payload(of: header))
        inbound.drop(header)
      }
      inbound.makeRoom(&ring)
    } catch {
      if case .refused = error {
        giveUp(.protocolViolation(.urgent, position: 0, error))
      } else {
        stopListening(.protocolViolation(.urgent, position: 0, error))
      }
    }
  }

  private mutating func handle(
    _ header: FrameHeader, payload: Range<Int>
  ) throws(ProtocolViolation) {
    guard plane.installer.mayTake(header.type) else {
      throw .frame(.misplaced(header.type, from: .source, on: .urgent))
    }
    switch header.type {
    case .pages: install(header.run, payload)
    case .zeroPages: zero(header.run)
    case .poisonedPages: poison(header.run)
    case .refuse: throw .refusal(in: ring.bytes(payload))
    default:
      // The gate lets nothing else through on this connection but control messages.
      guard header.type.isControlMessage else {
        throw .frame(.misplaced(header.type, from: .source, on: .urgent))
      }
      let message: ControlMessage
      do throws(WireError) {
        message = try ControlMessage(decoding: ring.bytes(payload), of: header.type)
      } catch {
        throw .frame(error)
      }
      switch message {
      case .ping(let sequence): answerPing(sequence)
      case .pong(let sequence): heardPong(sequence)
      default:
        guard plane.events.say(message, on: linkNumber) else { throw .tooManyControlMessages }
      }
    }
  }

  private mutating func install(_ run: PageRun, _ payload: Range<Int>) {
    let pages = plane.installer.layout.flatRange(of: run)
    let shift = plane.installer.map.entry(of: run.region).region.pageSize.shift
    var remaining = pages
    var backoff = Backoff()
    repeat {
      // The pages in front are done; their bytes lie in front too.
      let offset = (remaining.lowerBound - pages.lowerBound) << shift
      do throws(UFFDError) {
        let progress = try plane.installer.install(
          remaining, from: ring.bytes(payload.lowerBound + offset..<payload.upperBound), .demand)
        guard goOn(progress, &remaining, &backoff) else { return }
      } catch {
        plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
        return
      }
    } while true
  }

  private mutating func zero(_ run: PageRun) {
    var remaining = plane.installer.layout.flatRange(of: run)
    var backoff = Backoff()
    repeat {
      do throws(UFFDError) {
        let progress = try plane.installer.zeroArrived(remaining)
        guard goOn(progress, &remaining, &backoff) else { return }
      } catch {
        plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
        return
      }
    } while true
  }

  private mutating func poison(_ run: PageRun) {
    var remaining = plane.installer.layout.flatRange(of: run)
    var backoff = Backoff()
    repeat {
      do throws(UFFDError) {
        let progress = try plane.installer.poisonArrived(remaining)
        guard goOn(progress, &remaining, &backoff) else { return }
      } catch {
        plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
        return
      }
    } while true
  }
}
