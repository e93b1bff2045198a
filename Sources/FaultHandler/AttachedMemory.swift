public import Migration
internal import Pages
public import System
public import UFFD

/// Whether the VMM itself keeps the userfaultfd open. If nobody does when our process dies, the
/// kernel shows the guest zeros for every missing page.
public enum DuplicateHolding: Hashable, Sendable {
  /// It does, under that number: our death freezes the guest, and it can be taken from there again.
  case held(descriptorNumber: Int32)
  /// It does not: somebody else must keep a duplicate as long as pages are missing.
  case notHeld
  /// We may not look (needs the right to ptrace the VMM).
  case unknown(SystemError)
}

/// The socket on which a VMM attached; memory that is taken up again has none.
private final class AttachSocket: Sendable {
  let stream: DescriptorStream

  init(_ stream: consuming DescriptorStream) { self.stream = stream }
}

/// A VMM's memory, as it was handed over and checked.
public struct AttachedMemory: ~Copyable, Sendable {
  /// The door to its missing pages. Never the last duplicate: see `holding`.
  public let userfault: UserfaultDescriptor
  /// The memory itself, from VMMs that send it too.
  public let memoryFile: OwnedDescriptor?
  /// Regions and where they are.
  public let document: AttachDocument
  /// For each region what kind of memory it is, which decides what a REMOVE means.
  public let memoryKinds: [MemoryKind]
  /// The VMM.
  public let process: ProcessHandle
  /// Whether the VMM keeps a duplicate.
  public let holding: DuplicateHolding
  /// The socket: VMMs of the later generations keep it open as long as they live.
  private let socket: AttachSocket?

  init(
    body: [UInt8], userfault: consuming OwnedDescriptor, memoryFile: consuming OwnedDescriptor?,
    stream: consuming DescriptorStream
  ) throws(AttachError) {
    guard DescriptorIdentity.isUserfault(userfault.rawValue) else { throw .notUserfault }
    let document = try AttachDocument(parsing: body)
    let (pid, space) = try Self.translating { () throws(SystemError) in
      let pid = try stream.peerProcessID()
      return (pid, try ProcessAddressSpace(pid: pid))
    }
    let process = try Self.translating { () throws(SystemError) in
      try ProcessHandle.open(pid: pid)
    }
    let holding = Self.holding(of: userfault, by: pid)
    let kinds = try Self.memoryKinds(document, in: space)
    self.userfault = try Self.adopt(userfault)
    self.memoryFile = memoryFile
    self.document = document
    self.memoryKinds = kinds
    self.process = process
    self.holding = holding
    socket = AttachSocket(stream)
  }

  /// The memory of a VMM that an earlier process of ours had attached.
  init(
    recovering document: AttachDocument, userfault: consuming OwnedDescriptor,
    process: consuming ProcessHandle
  ) throws(AttachError) {
    guard DescriptorIdentity.isUserfault(userfault.rawValue) else { throw .notUserfault }
    let pid = process.identity.pid
    let space = try Self.translating { () throws(SystemError) in
      try ProcessAddressSpace(pid: pid)
    }
    let holding = Self.holding(of: userfault, by: pid)
    let kinds = try Self.memoryKinds(document, in: space)
    self.userfault = try Self.adopt(userfault)
    memoryFile = nil
    memoryKinds = kinds
    self.document = document
    self.process = process
    self.holding = holding
    socket = nil
  }

  private static func translating<Result: ~Copyable>(
    _ body: () throws(SystemError) -> Result
  ) throws(AttachError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
  }

  private static func adopt(
    _ userfault: consuming OwnedDescriptor
  ) throws(AttachError) -> UserfaultDescriptor {
    do throws(UFFDError) {
      return try UserfaultDescriptor(adopting: userfault)
    } catch {
      throw .unusableUserfault(error.errno)
    }
  }

  /// Whether the VMM closed the attach socket. Firecracker up to 1.11 does at once; from 1.12 on it
  /// means that the VMM exited. `process` tells its end for certain.
  public var isSocketClosed: Bool { socket?.stream.hasEnded() ?? true }

  private static func holding(
    of userfault: borrowing OwnedDescriptor, by pid: Int32
  ) -> DuplicateHolding {
    do throws(SystemError) {
      let number = try DescriptorIdentity.numberOfUserfault(userfault, heldBy: pid)
      return number.map { .held(descriptorNumber: $0) } ?? .notHeld
    } catch {
      return .unknown(error)
    }
  }

  private static func memoryKinds(
    _ document: AttachDocument, in space: ProcessAddressSpace
  ) throws(AttachError) -> [MemoryKind] {
    var kinds: [MemoryKind] = []
    for region in document.layout.regions {
      let range = document.hostRange(of: region)
      switch space.coverage(range.start.rawValue..<range.end.rawValue) {
      case .allPrivate: kinds.append(.privateAnonymous)
      case .allShared: kinds.append(.shared)
      case .mixed: throw .mixedMemory(region.index)
      case .unmapped(let address): throw .unmapped(region.index, address: address)
      }
    }
    return kinds
  }
}
