internal import System
internal import UFFD

/// What one reading of messages leaves to be done. Its room is allocated once.
struct FaultBatch: ~Copyable {
  /// Pages to ask the source for.
  private(set) var requests: [Int] = []
  /// Pages to fill or wake here.
  private(set) var fills: [Int] = []
  /// Faults outside every region.
  private(set) var outside: [HostAddress] = []
  /// Changes of the address space that the session must know about.
  private(set) var changes: [UserfaultEvent] = []
  /// Userfaultfds of forked children. Kept open for ever.
  var children = DescriptorList()
  /// What the image has come to by the messages.
  var milestone: ImageMilestone?
  /// Where the last fault was, for the next lookup.
  var regionHint = 0

  init() {
    requests.reserveCapacity(UserfaultMessageBuffer.defaultCapacity)
    fills.reserveCapacity(UserfaultMessageBuffer.defaultCapacity)
    outside.reserveCapacity(UserfaultMessageBuffer.defaultCapacity)
    changes.reserveCapacity(UserfaultMessageBuffer.defaultCapacity)
  }

  mutating func removeAll() {
    requests.removeAll(keepingCapacity: true)
    fills.removeAll(keepingCapacity: true)
    outside.removeAll(keepingCapacity: true)
    changes.removeAll(keepingCapacity: true)
    milestone = nil
  }

  mutating func append(request page: Int) { requests.append(page) }
  mutating func append(fill page: Int) { fills.append(page) }
  mutating func append(outside address: HostAddress) { outside.append(address) }
  mutating func append(change: UserfaultEvent) { changes.append(change) }
}
