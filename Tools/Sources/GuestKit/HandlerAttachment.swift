internal import CLinux
internal import Glibc
internal import Pages
public import System
public import UFFD

/// What a VMM of some generation sends to the fault handler.
public enum AttachDialect: String, CaseIterable, Sendable {
  /// Firecracker 1.4 to 1.6: three fields, and the socket closes at once.
  case first = "1.4"
  /// Firecracker 1.7 to 1.11: and `page_size_kib`, which is in bytes.
  case pageSizeKib = "1.7"
  /// From Firecracker 1.12: and `page_size`; the socket stays open as long as the VMM lives.
  case pageSize = "1.12"
  /// Some forks: as the last, with the memory file as a second descriptor.
  case twoDescriptors = "two-descriptors"
}

/// Why the memory could not be handed to a fault handler.
public enum AttachmentError: Error, Sendable, CustomStringConvertible {
  /// The socket, or a descriptor.
  case system(SystemError)
  /// The userfaultfd.
  case userfault(UFFDError)
  /// The dialect needs a memory file, and the memory is private.
  case noMemoryFile

  /// One sentence.
  public var description: String {
    switch self {
    case .system(let error): "\(error)"
    case .userfault(let error): "\(error)"
    case .noMemoryFile: "two-descriptors needs shared memory: --backing memfd or file:PATH"
    }
  }
}

/// The hand-off of a guest's missing pages to a handler in another process.
///
/// It holds a duplicate of the userfaultfd for its whole life: when the handler dies, the guest
/// freezes at its next missing page instead of reading zeros.
public final class HandlerAttachment: Sendable {
  private let userfault: UserfaultDescriptor
  private let socket: Lock<OwnedSocket?>

  private final class OwnedSocket: Sendable {
    let descriptor: OwnedDescriptor
    init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
  }

  /// Registers all of the memory and sends it to whoever listens at `path`. On an error nothing
  /// is registered any more.
  public init(
    _ memory: GuestMemory, path: String, dialect: AttachDialect
  ) throws(AttachmentError) {
    var wanted: UserfaultFeatures = [.removeEvents]
    if memory.pageSize == .huge { wanted.insert(.missingHugetlb) }
    if memory.backing.isShared { wanted.insert(.missingSharedMemory) }
    let connection: OwnedDescriptor
    do throws(UFFDError) {
      userfault = try UserfaultDescriptor(requiring: wanted)
    } catch {
      throw .userfault(error)
    }
    do throws(SystemError) {
      connection = try Self.connect(path)
    } catch {
      throw .system(error)
    }
    for mapped in memory.regions {
      let range = HostRange(
        start: HostAddress(rawValue: mapped.hostAddress), byteCount: mapped.region.byteCount)
      do throws(UFFDError) {
        _ = try userfault.handle.register(range, modes: .missing)
      } catch {
        throw .userfault(error)
      }
    }
    var descriptors: [Int32]
    do throws(UFFDError) {
      let copy = try userfault.duplicate()
      descriptors = [copy.release()]
    } catch {
      throw .userfault(error)
    }
    defer { _ = close(descriptors[0]) }
    if dialect == .twoDescriptors {
      guard let file = memory.fileDescriptor else { throw .noMemoryFile }
      descriptors.append(file)
    }
    do throws(SystemError) {
      try Self.send(Self.message(for: memory, dialect: dialect), descriptors, over: connection)
    } catch {
      throw .system(error)
    }
    let staysOpen = dialect == .pageSize || dialect == .twoDescriptors
    socket = Lock(staysOpen ? OwnedSocket(connection) : nil)
  }

  /// Whether the handler still has its end of the socket open. False for dialects that close it.
  public var isHandlerConnected: Bool {
    socket.withLock { socket in
      guard let descriptor = socket?.descriptor.rawValue else { return false }
      var byte: UInt8 = 0
      let flags = Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)
      // unsafe: room for the one byte that is asked for.
      let count = unsafe recv(descriptor, &byte, 1, flags)
      return count > 0 || (count < 0 && Errno.current == .tryAgain)
    }
  }

  /// The compact JSON array: no length in front of it, nothing behind it.
  static func message(for memory: GuestMemory, dialect: AttachDialect) -> String {
    let elements = memory.regions.map { mapped in
      let region = mapped.region
      var fields = [
        "\"base_host_virt_addr\":\(mapped.hostAddress)",
        "\"size\":\(region.byteCount.rawValue)",
        "\"offset\":\(region.imageOffset.rawValue)",
      ]
      let pageSize = region.pageSize.byteCount
      switch dialect {
      case .first: break
      case .pageSizeKib: fields.append("\"page_size_kib\":\(pageSize)")
      case .pageSize, .twoDescriptors:
        fields.append("\"page_size\":\(pageSize)")
        fields.append("\"page_size_kib\":\(pageSize)")
      }
      return "{\(fields.joined(separator: ","))}"
    }
    return "[\(elements.joined(separator: ","))]"
  }

  private static func connect(_ path: String) throws(SystemError) -> OwnedDescriptor {
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let number = Glibc.socket(AF_UNIX, type, 0)
    guard number >= 0 else { throw SystemError("socket", path) }
    let connection = OwnedDescriptor(adopting: number)
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    guard length > 0 else { throw SystemError("connect", path) }
    // unsafe: the address lives through the call, and its length is what was filled in.
    let result = unsafe withUnsafePointer(to: &address) {
      unsafe clinux_connect(number, UnsafeRawPointer($0), UInt32(length))
    }
    guard result == 0 else { throw SystemError("connect", path) }
    return connection
  }

  private static func send(
    _ message: String, _ descriptors: [Int32], over connection: borrowing OwnedDescriptor
  ) throws(SystemError) {
    let bytes = Array(message.utf8)
    // unsafe: both arrays live through the call, which gets their lengths.
    let count = unsafe clinux_send_with_descriptors(
      connection.rawValue, bytes, bytes.count, descriptors, Int32(descriptors.count))
    // A UNIX socket takes a message of a few regions whole, or not at all.
    guard count == bytes.count else { throw SystemError("sendmsg", "\(count) of \(bytes.count)") }
  }
}
