internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// What the kernel's books say about a userfaultfd (/proc/self/fdinfo): a watchdog that asks no
/// faulting thread.
public struct UserfaultStatus: Hashable, Sendable {
  /// Faults that nobody has read yet.
  public let unreadFaultCount: Int
  /// Faults that wait, read or not.
  public let waitingFaultCount: Int
  /// The features that were asked for when it was made.
  public let features: UserfaultFeatures

  /// Longer than the four lines that the kernel writes; what does not fit would be cut off.
  private static let textCapacity = 1024
  /// The kernel's mark that the handshake was done, shown among the features.
  private static let initializedFeature = UserfaultFeatures(rawValue: 1 << 31)

  /// Reads the books of a descriptor of this process. EINVAL when it is no userfaultfd, or one
  /// without its handshake.
  public init(ofDescriptor number: Int32) throws(UFFDError) {
    let operation = UFFDOperation.adopt(descriptor: number)
    guard let lines = Self.readLines(number) else {
      throw UFFDError(operation, errno: .current)
    }
    var unread: Int?
    var waiting: Int?
    var features: UserfaultFeatures?
    for line in lines {
      let words = line.split { $0 == "\t" || $0 == " " }
      guard words.count == 2 else { continue }
      switch words[0] {
      case "pending:": unread = Int(words[1])
      case "total:": waiting = Int(words[1])
      case "API:":
        // Three numbers in hexadecimal: version, features, operations.
        let numbers = words[1].split(separator: ":")
        if numbers.count == 3, let bits = UInt64(numbers[1], radix: 16) {
          features = UserfaultFeatures(rawValue: bits)
        }
      default: break
      }
    }
    guard let unread, let waiting, let features, features.contains(Self.initializedFeature) else {
      throw UFFDError(operation, errno: .invalidArgument)
    }
    self.unreadFaultCount = unread
    self.waitingFaultCount = waiting
    self.features = features.subtracting(Self.initializedFeature)
  }

  private static func readLines(_ number: Int32) -> [Substring]? {
    guard
      let file = try? OwnedDescriptor.open("/proc/self/fdinfo/\(number)", flags: O_RDONLY)
    else { return nil }
    var text: [UInt8] = []
    text.reserveCapacity(textCapacity)
    let count = unsafe withUnsafeTemporaryAllocation(
      byteCount: textCapacity, alignment: 1
    ) { memory in
      // unsafe: the kernel writes at most the memory's own count; what it wrote is then copied.
      let count = unsafe read(file.rawValue, memory.baseAddress, memory.count)
      if count > 0 { unsafe text.append(contentsOf: memory[..<count]) }
      return count
    }
    guard count >= 0 else { return nil }
    return String(decoding: text, as: UTF8.self).split(separator: "\n")
  }
}
