public import Pages
public import System

/// Why a hand-off on the attach socket cannot be used. Each case is one sentence for an operator.
public enum AttachError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A system call failed on our side.
  case system(SystemError)
  /// The body is longer than `AttachDocument.maximumByteCount`.
  case bodyTooLong
  /// The peer closed before the array did.
  case bodyCutShort(byteCount: Int)
  /// Nothing more came in time.
  case bodyTimedOut(byteCount: Int)
  /// The body does not start with "[", or goes on behind the array's end.
  case notAnArray
  /// JSON that is not what Firecracker sends; `reason` names the element and the key.
  case malformed(reason: String)
  /// The kernel dropped descriptors on the way.
  case descriptorsDropped
  /// More came than a userfaultfd and a memory file.
  case tooManyDescriptors(count: Int)
  /// The first descriptor is something else.
  case notUserfault
  /// The userfaultfd cannot be used, for example because its owner has not shaken hands.
  case unusableUserfault(Errno)
  /// Body without a descriptor, `AttachListener.maximumRetryCount` times in a row.
  case descriptorNeverCame
  /// The regions are no image.
  case layout(LayoutError)
  /// The region's host address is not a whole number of its pages.
  case unalignedHostAddress(RegionIndex)
  /// The region reaches beyond the address space.
  case hostRangeOutOfBounds(RegionIndex)
  /// Two regions claim the same host addresses.
  case hostOverlap(RegionIndex, RegionIndex)
  /// The VMM has nothing mapped at that address of the region.
  case unmapped(RegionIndex, address: UInt64)
  /// A region is partly private and partly shared memory.
  case mixedMemory(RegionIndex)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .system(let error): "attach: \(error)"
    case .bodyTooLong:
      "attach: the description of the memory is longer than "
        + "\(AttachDocument.maximumByteCount) bytes"
    case .bodyCutShort(let count):
      "attach: the VMM closed the socket after \(count) bytes, in the middle of its description"
    case .bodyTimedOut(let count):
      "attach: after \(count) bytes the VMM sent nothing more for "
        + "\(AttachListener.bodyTimeoutSeconds) s"
    case .notAnArray: "attach: what came is not one JSON array of memory regions"
    case .malformed(let reason): "attach: \(reason)"
    case .descriptorsDropped:
      "attach: the kernel dropped descriptors of the hand-off; raise the limit of open files"
    case .tooManyDescriptors(let count):
      "attach: \(count) descriptors came; a userfaultfd and at most a memory file were expected"
    case .notUserfault: "attach: the first descriptor that came is not a userfaultfd"
    case .unusableUserfault(let errno):
      "attach: the userfaultfd cannot be used: \(errno); its owner must do UFFDIO_API first"
    case .descriptorNeverCame:
      "attach: the VMM described its memory \(AttachListener.maximumRetryCount) times "
        + "without sending the userfaultfd"
    case .layout(let error): "attach: \(error)"
    case .unalignedHostAddress(let region):
      "attach: region \(region.rawValue): base_host_virt_addr is not a whole number of its pages"
    case .hostRangeOutOfBounds(let region):
      "attach: region \(region.rawValue) reaches beyond the VMM's address space"
    case .hostOverlap(let first, let second):
      "attach: regions \(first.rawValue) and \(second.rawValue) overlap in the VMM's addresses"
    case .unmapped(let region, let address):
      "attach: region \(region.rawValue): the VMM has nothing mapped at 0x"
        + String(address, radix: 16)
    case .mixedMemory(let region):
      "attach: region \(region.rawValue) is partly private and partly shared memory"
    }
  }
}
