internal import Pages
public import System

/// A descriptor that more than one of our processes holds, so that it outlives each of them.
public final class KeptDescriptor: Sendable {
  /// What it is: `KeptName`, or a name of the worker's own, of 1 to 64 bytes without blanks.
  public let name: String
  /// The descriptor. Duplicate it; it is closed with the last reference to this object.
  public let descriptor: OwnedDescriptor

  /// Takes the descriptor over.
  public init(name: String, _ descriptor: consuming OwnedDescriptor) {
    self.name = name
    self.descriptor = descriptor
  }
}

/// The names that both processes know.
public enum KeptName {
  /// The door to a VM's missing pages: never closed by its last holder while the VMM lives.
  public static let userfault = "userfaultfd"
  /// The VM's memory, from VMMs that hand it over.
  public static let memory = "memory"
  /// A pidfd of the VMM.
  public static let vmm = "vmm"
}

/// What the two processes say to each other over the keeper's channel, one message a packet. The
/// version goes along: the keeper may be a newer program that has adopted an older worker.
package enum KeeperMessage: Hashable, Sendable {
  /// Keep the descriptor that comes with this packet. Both ways: the keeper gives back the same
  /// way what an earlier worker gave it.
  case keep(name: String)
  /// The keeper has given back all that it has.
  case handedOver
  /// Nothing needs to be kept any more: every page is here, or nothing was begun.
  case release
  /// The worker ends with that exit code now.
  case finished(exitCode: Int32)

  private static let version: UInt8 = 1
  static let maximumNameByteCount = 64

  /// The packet.
  package var bytes: [UInt8] {
    var writer = JournalWriter()
    writer.append(Self.version)
    switch self {
    case .keep(let name):
      writer.append(UInt8(1))
      writer.append(text: name)
    case .handedOver: writer.append(UInt8(2))
    case .release: writer.append(UInt8(3))
    case .finished(let exitCode):
      writer.append(UInt8(4))
      writer.append(exitCode)
    }
    return writer.bytes
  }

  /// Reads a packet.
  package init(_ bytes: [UInt8]) throws(JournalFormatError) {
    var reader = JournalReader(bytes)
    let version = try reader.next(UInt8.self)
    guard version == Self.version else {
      throw JournalFormatError("keeper's protocol version \(version)")
    }
    switch try reader.next(UInt8.self) {
    case 1:
      let name = try reader.nextText()
      guard Self.isFit(name) else { throw JournalFormatError("a descriptor's name is not fit") }
      self = .keep(name: name)
    case 2: self = .handedOver
    case 3: self = .release
    case 4: self = .finished(exitCode: try reader.next())
    case let kind: throw JournalFormatError("unknown keeper's message \(kind)")
    }
    try reader.finish()
  }

  /// Fit for this protocol and for a service manager's store.
  static func isFit(_ name: String) -> Bool {
    (1...maximumNameByteCount).contains(name.utf8.count)
      && name.utf8.allSatisfy { (0x21...0x7E).contains($0) && $0 != UInt8(ascii: ":") }
  }
}

/// One end of the channel between a worker and its keeper.
final class KeeperChannel: Sendable {
  /// What one packet brought.
  enum Received: Sendable {
    case kept(KeptDescriptor)
    case told(KeeperMessage)
    /// The other process has closed its end: it is gone.
    case ended
    /// Nothing came in time.
    case nothing
  }

  private let stream: DescriptorStream

  init(_ stream: consuming DescriptorStream) { self.stream = stream }

  /// To wait on.
  var rawValue: Int32 { stream.rawValue }

  var hasEnded: Bool { stream.hasEnded() }

  func send(_ message: KeeperMessage) throws(SystemError) { try stream.send(message.bytes) }

  func send(_ kept: KeptDescriptor) throws(SystemError) {
    try stream.send(
      KeeperMessage.keep(name: kept.name).bytes, descriptors: [kept.descriptor.rawValue])
  }

  /// EBADMSG for a packet that is none of ours: what follows would be no better.
  func receive(until deadline: Instant) throws(SystemError) -> Received {
    var bytes = [UInt8](repeating: 0, count: 512)
    var descriptors = DescriptorList()
    switch try stream.receive(into: &bytes, descriptors: &descriptors, until: deadline) {
    case .endOfStream: return .ended
    case .stopped, .timedOut: return .nothing
    case .bytes(let count): bytes.removeSubrange(count...)
    }
    let message: KeeperMessage
    do throws(JournalFormatError) {
      message = try KeeperMessage(bytes)
    } catch {
      throw SystemError("recvmsg", error.reason, .badMessage)
    }
    guard case .keep(let name) = message else { return .told(message) }
    guard descriptors.count == 1, let descriptor = descriptors.takeFirst() else {
      throw SystemError(
        "recvmsg", "\(descriptors.count) descriptors for \(name)", .badMessage)
    }
    return .kept(KeptDescriptor(name: name, descriptor))
  }
}
