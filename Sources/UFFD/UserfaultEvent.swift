internal import CLinux
internal import Pages

/// Why a thread waits.
@frozen
public struct FaultFlags: OptionSet, Hashable, Sendable {
  /// The kernel's bits.
  public let rawValue: UInt64

  /// The flags of those bits.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// The access was a write.
  public static let write = Self(rawValue: uffd_pagefault_flag_write)
  /// The page is there but write-protected.
  public static let writeProtected = Self(rawValue: uffd_pagefault_flag_wp)
  /// The page is in the page cache but not mapped.
  public static let minor = Self(rawValue: uffd_pagefault_flag_minor)
}

/// A thread that waits for a page.
@frozen
public struct PageFault: Hashable, Sendable {
  /// The address of the page; of the byte itself with `UserfaultFeatures.exactAddresses`. On huge
  /// pages the kernel rounds down to the huge page.
  public let address: HostAddress
  /// Why it waits.
  public let flags: FaultFlags
  /// The thread, with `UserfaultFeatures.threadIDs`, else 0. With KVM's asynchronous page faults it
  /// is a kernel worker and no vCPU.
  public let threadID: UInt32

  /// A fault at `address`.
  @inlinable
  public init(address: HostAddress, flags: FaultFlags, threadID: UInt32) {
    self.address = address
    self.flags = flags
    self.threadID = threadID
  }
}

/// What a userfaultfd tells. Everything but a fault comes only with its feature, and its thread
/// goes on as soon as the message is read.
@frozen
public enum UserfaultEvent: Hashable, Sendable {
  /// A thread waits for a page. The same fault may come many times.
  case fault(PageFault)
  /// The process forked. `UserfaultMessageBuffer.takeForkedDescriptor(at:)` gives the child's
  /// userfaultfd.
  case fork
  /// A range went from one place to another.
  case remap(source: HostRange, target: HostAddress)
  /// Pages of the range were given back; on shared memory their content may still be there.
  case remove(HostRange)
  /// The range is no longer mapped.
  case unmap(HostRange)
  /// A kind that this code does not know, from a newer kernel.
  case unknown(kind: UInt8)
}

extension UserfaultEvent {
  init(_ message: uffd_abi_message) {
    switch message.event {
    case uffd_event_pagefault:
      self = .fault(
        PageFault(
          address: HostAddress(rawValue: message.argument1),
          flags: FaultFlags(rawValue: message.argument0),
          threadID: UInt32(truncatingIfNeeded: message.argument2)))
    case uffd_event_fork:
      self = .fork
    case uffd_event_remap:
      self = .remap(
        source: HostRange(
          start: HostAddress(rawValue: message.argument0),
          byteCount: ByteCount(rawValue: message.argument2)),
        target: HostAddress(rawValue: message.argument1))
    case uffd_event_remove:
      self = .remove(Self.range(message))
    case uffd_event_unmap:
      self = .unmap(Self.range(message))
    default:
      self = .unknown(kind: message.event)
    }
  }

  private static func range(_ message: uffd_abi_message) -> HostRange {
    HostRange(
      start: HostAddress(rawValue: message.argument0),
      end: HostAddress(rawValue: message.argument1))
  }
}
