internal import FoundationEssentials
public import Pages
public import UFFD

/// The memory that a VMM describes when it attaches: Firecracker's JSON, checked and put in order.
public struct AttachDocument: Hashable, Sendable {
  /// Bounds the body: 1024 regions with every key of every generation stay below it.
  public static let maximumByteCount = 65_536

  /// The image, its regions in the order of their offsets. Both hosts put them in this order, so
  /// that a region's index means the same on both.
  public let layout: ImageLayout
  /// Where each region starts in the VMM's address space.
  public let hostBases: [HostAddress]

  /// One element as it is sent. Unknown keys are ignored: each generation added some.
  private struct Element: Decodable {
    let base_host_virt_addr: UInt64
    let size: UInt64
    let offset: UInt64
    /// From 1.7; its value is in *bytes* whatever its name says.
    let page_size_kib: UInt64?
    /// From 1.12.
    let page_size: UInt64?

    var pageByteCount: UInt64 { page_size ?? page_size_kib ?? 4096 }
  }

  /// Reads and checks a complete body.
  public init(parsing body: [UInt8]) throws(AttachError) {
    try self.init(parsing: body, maximumByteCount: Self.maximumByteCount)
  }

  /// Of a text of our own the bound is another: it has keys that the VMM may have left out.
  init(parsing body: [UInt8], maximumByteCount: Int) throws(AttachError) {
    guard body.count <= maximumByteCount else { throw .bodyTooLong }
    let elements = try Self.decode(body).sorted { $0.offset < $1.offset }
    guard elements.count <= ImageLayout.maximumRegionCount else {
      throw .layout(.tooManyRegions(count: elements.count))
    }
    var regions: [Region] = []
    for (position, element) in elements.enumerated() {
      let index = RegionIndex(position)
      guard let rawPageSize = UInt32(exactly: element.pageByteCount),
        let pageSize = PageSize(rawValue: rawPageSize)
      else {
        throw .layout(.unsupportedPageSize(index, byteCount: element.pageByteCount))
      }
      regions.append(
        Region(
          index: index, imageOffset: ByteCount(rawValue: element.offset),
          byteCount: ByteCount(rawValue: element.size), pageSize: pageSize))
    }
    do throws(LayoutError) {
      layout = try ImageLayout(regions)
    } catch {
      throw .layout(error)
    }
    hostBases = elements.map { HostAddress(rawValue: $0.base_host_virt_addr) }
    try checkHostRanges()
  }

  /// The host range of a region.
  public func hostRange(of region: Region) -> HostRange {
    HostRange(start: hostBases[Int(region.index.rawValue)], byteCount: region.byteCount)
  }

  private func checkHostRanges() throws(AttachError) {
    for (region, base) in zip(layout.regions, hostBases) {
      guard base.rawValue % UInt64(region.pageSize.byteCount) == 0 else {
        throw .unalignedHostAddress(region.index)
      }
      let (_, overflows) = base.rawValue.addingReportingOverflow(region.byteCount.rawValue)
      guard !overflows else { throw .hostRangeOutOfBounds(region.index) }
    }
    let byAddress = layout.regions.sorted { left, right in
      hostBases[Int(left.index.rawValue)] < hostBases[Int(right.index.rawValue)]
    }
    for (before, after) in zip(byAddress, byAddress.dropFirst())
    where hostRange(of: before).overlaps(hostRange(of: after)) {
      throw .hostOverlap(min(before.index, after.index), max(before.index, after.index))
    }
  }

  private static func decode(_ body: [UInt8]) throws(AttachError) -> [Element] {
    do {
      return try JSONDecoder().decode([Element].self, from: Data(body))
    } catch let error as DecodingError {
      throw .malformed(reason: sentence(error))
    } catch {
      throw .malformed(reason: "the body cannot be decoded")
    }
  }

  private static func sentence(_ error: DecodingError) -> String {
    func place(_ path: [any CodingKey]) -> String {
      path.map { $0.intValue.map { "region \($0)" } ?? $0.stringValue }.joined(separator: ", ")
    }
    switch error {
    case .keyNotFound(let key, let context):
      return "\(place(context.codingPath)) has no \(key.stringValue)"
    case .typeMismatch(_, let context), .valueNotFound(_, let context):
      return context.codingPath.isEmpty
        ? "the body is not an array of regions"
        : "\(place(context.codingPath)) is not a whole number of at most 64 bits"
    case .dataCorrupted(let context):
      return context.codingPath.isEmpty
        ? "the body is not JSON, or a number in it is negative or too large"
        : "\(place(context.codingPath)) is not a whole number of at most 64 bits"
    @unknown default: return "the body cannot be decoded"
    }
  }
}

/// Finds the end of a JSON array that comes in pieces: nothing on the wire marks it but the array's
/// own closing bracket, and the socket may stay open behind it.
package struct ArrayEndScanner {
  private var depth = 0
  private var isInString = false
  private var isEscaped = false
  /// Whether the array has closed.
  package private(set) var isComplete = false

  /// Before the first byte.
  package init() {}

  /// Takes the next bytes. Throws `notAnArray` when the first is not "[", or when anything but
  /// white space follows the end.
  package mutating func take(_ bytes: ArraySlice<UInt8>) throws(AttachError) {
    for byte in bytes {
      if isInString {
        if isEscaped {
          isEscaped = false
        } else if byte == UInt8(ascii: "\\") {
          isEscaped = true
        } else if byte == UInt8(ascii: "\"") {
          isInString = false
        }
        continue
      }
      switch byte {
      case UInt8(ascii: " "), UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: "\t"): continue
      // Some C senders count their string's final zero.
      case 0 where isComplete: continue
      default: break
      }
      guard !isComplete, depth > 0 || byte == UInt8(ascii: "[") else { throw .notAnArray }
      switch byte {
      case UInt8(ascii: "["), UInt8(ascii: "{"): depth += 1
      case UInt8(ascii: "]"), UInt8(ascii: "}"):
        depth -= 1
        isComplete = depth == 0
      case UInt8(ascii: "\""): isInString = true
      default: break
      }
    }
  }
}
