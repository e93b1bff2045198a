public import Pages
public import System

/// The socket on which a VMM hands over its memory the way Firecracker does.
public struct AttachListener: ~Copyable, Sendable {
  /// A VMM sends its description at once; one that does not holds up the session.
  public static let bodyTimeoutSeconds: UInt64 = 10
  /// "Body, but no descriptor" really happens; after this many in a row something else is wrong.
  public static let maximumRetryCount = 16

  private let listener: DescriptorListener

  /// Where it listens.
  public var path: String { listener.path }

  /// Listens at `path`, for this user's processes alone.
  public init(path: String) throws(AttachError) {
    do throws(SystemError) {
      listener = try DescriptorListener(path: path)
    } catch {
      throw .system(error)
    }
  }

  /// Waits for a VMM and takes over its memory; nil when `stop` was signalled first. A description
  /// that comes without its descriptor is forgotten, and the next connection awaited.
  public borrowing func attach(
    or stop: WakeEvent? = nil, until deadline: Instant? = nil
  ) throws(AttachError) -> AttachedMemory? {
    for _ in 0..<Self.maximumRetryCount {
      guard let stream = try accept(or: stop, until: deadline) else { return nil }
      var body: [UInt8] = []
      var descriptors = DescriptorList()
      guard
        try Self.receive(
          from: stream, body: &body, descriptors: &descriptors, or: stop)
      else { return nil }
      if let userfault = descriptors.takeFirst() {
        guard descriptors.count <= 1 else {
          throw .tooManyDescriptors(count: descriptors.count + 1)
        }
        return try AttachedMemory(
          body: body, userfault: userfault, memoryFile: descriptors.takeFirst(), stream: stream)
      }
    }
    throw .descriptorNeverCame
  }

  private borrowing func accept(
    or stop: WakeEvent?, until deadline: Instant?
  ) throws(AttachError) -> DescriptorStream? {
    do throws(SystemError) {
      return try listener.accept(or: stop, until: deadline)
    } catch {
      throw .system(error)
    }
  }

  /// Collects the body until its array closes; false when `stop` was signalled.
  private static func receive(
    from stream: borrowing DescriptorStream, body: inout [UInt8],
    descriptors: inout DescriptorList, or stop: WakeEvent?
  ) throws(AttachError) -> Bool {
    var scanner = ArrayEndScanner()
    var piece = [UInt8](repeating: 0, count: AttachDocument.maximumByteCount)
    let deadline = MonotonicClock.now().advanced(
      byNanoseconds: bodyTimeoutSeconds * 1_000_000_000)
    while !scanner.isComplete {
      let received: DescriptorStream.Received
      do throws(SystemError) {
        received = try stream.receive(
          into: &piece, descriptors: &descriptors, or: stop, until: deadline)
      } catch {
        throw error.operation == "recvmsg" && error.operand == "descriptors were dropped"
          ? .descriptorsDropped : .system(error)
      }
      switch received {
      case .bytes(let count):
        guard body.count + count <= AttachDocument.maximumByteCount else { throw .bodyTooLong }
        body.append(contentsOf: piece[..<count])
        try scanner.take(piece[..<count])
      case .endOfStream: throw .bodyCutShort(byteCount: body.count)
      case .stopped: return false
      case .timedOut: throw .bodyTimedOut(byteCount: body.count)
      }
    }
    return true
  }
}
