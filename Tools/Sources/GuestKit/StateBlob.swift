internal import Codec
internal import Glibc
internal import Pages

/// Why a saved vCPU state cannot be loaded.
public enum StateBlobError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Shorter than its own lengths say, or longer.
  case truncated
  /// It does not start as our blobs do.
  case notABlob
  /// Written by another version of this program.
  case unknownVersion(UInt16)
  /// The checksum does not fit the bytes.
  case checksum
  /// It belongs to a guest of another shape or kind; says which property differs.
  case otherGuest(String)
  /// A section that a vCPU needs is missing, doubled, of a wrong size, or refused by KVM.
  case section(String)

  /// One sentence.
  public var description: String {
    switch self {
    case .truncated: "the vCPU state is cut off"
    case .notABlob: "this is not a vCPU state of microvm"
    case .unknownVersion(let version): "vCPU state of version \(version); this program reads 1"
    case .checksum: "the vCPU state is damaged: its checksum differs"
    case .otherGuest(let what): "the vCPU state is of another guest: \(what)"
    case .section(let what): "the vCPU state is unusable: \(what)"
    }
  }
}

/// The state of all vCPUs in bytes: a header that names the guest, sections, CRC-32C.
///
/// ```
/// magic u32 · version u16 · kind u16 · vcpus u32 · page size u32 · memory bytes u64 · seed u64
/// { tag u16 · vcpu u16 · length u32 · bytes } …  · crc32c u32
/// ```
struct StateBlob: Equatable {
  /// Which engine wrote it: the sections of one mean nothing to the other.
  enum Kind: UInt16 {
    case kvm = 1
    case process = 2
  }

  struct Section: Equatable {
    var tag: UInt16
    var vcpu: UInt16
    var bytes: [UInt8]
  }

  static let magic: UInt32 = 0x5453_564d
  static let version: UInt16 = 1
  /// Four vCPUs with the largest XSAVE areas (AMX: 11 KiB) stay far below.
  static let maximumByteCount = 1 << 20
  private static let headerByteCount = 32
  private static let sectionHeaderByteCount = 8

  var kind: Kind
  var vcpuCount: Int
  var pageSize: UInt32
  var memoryByteCount: UInt64
  var seed: UInt64
  var sections: [Section] = []

  /// The sections of one vCPU by tag.
  func section(_ tag: UInt16, vcpu: Int) throws(StateBlobError) -> [UInt8] {
    let found = sections.filter { $0.tag == tag && Int($0.vcpu) == vcpu }
    guard found.count == 1 else {
      throw .section("vCPU \(vcpu) has \(found.count) sections with tag \(tag), not one")
    }
    return found[0].bytes
  }

  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(littleEndian: Self.magic)
    bytes.append(littleEndian: Self.version)
    bytes.append(littleEndian: kind.rawValue)
    bytes.append(littleEndian: UInt32(vcpuCount))
    bytes.append(littleEndian: pageSize)
    bytes.append(littleEndian: memoryByteCount)
    bytes.append(littleEndian: seed)
    for section in sections {
      bytes.append(littleEndian: section.tag)
      bytes.append(littleEndian: section.vcpu)
      bytes.append(littleEndian: UInt32(section.bytes.count))
      bytes += section.bytes
    }
    bytes.append(littleEndian: CRC32C.checksum(of: bytes.rawBytes))
    return bytes
  }

  init(
    kind: Kind, vcpuCount: Int, pageSize: UInt32, memoryByteCount: UInt64, seed: UInt64
  ) {
    self.kind = kind
    self.vcpuCount = vcpuCount
    self.pageSize = pageSize
    self.memoryByteCount = memoryByteCount
    self.seed = seed
  }

  init(decoding bytes: [UInt8]) throws(StateBlobError) {
    guard bytes.count >= Self.headerByteCount + 4, bytes.count <= Self.maximumByteCount else {
      throw .truncated
    }
    guard bytes.littleEndian(at: 0, as: UInt32.self) == Self.magic else { throw .notABlob }
    let version = bytes.littleEndian(at: 4, as: UInt16.self)
    guard version == Self.version else { throw .unknownVersion(version) }
    let end = bytes.count - 4
    let checksum = bytes.littleEndian(at: end, as: UInt32.self)
    let computed = CRC32C.checksum(of: bytes.rawBytes.extracting(first: end))
    guard computed == checksum else { throw .checksum }
    guard let kind = Kind(rawValue: bytes.littleEndian(at: 6, as: UInt16.self)) else {
      throw .notABlob
    }
    self.init(
      kind: kind, vcpuCount: Int(bytes.littleEndian(at: 8, as: UInt32.self)),
      pageSize: bytes.littleEndian(at: 12, as: UInt32.self),
      memoryByteCount: bytes.littleEndian(at: 16, as: UInt64.self),
      seed: bytes.littleEndian(at: 24, as: UInt64.self))
    var position = Self.headerByteCount
    while position < end {
      guard end - position >= Self.sectionHeaderByteCount else { throw .truncated }
      let length = Int(bytes.littleEndian(at: position + 4, as: UInt32.self))
      let start = position + Self.sectionHeaderByteCount
      guard length <= end - start else { throw .truncated }
      sections.append(
        Section(
          tag: bytes.littleEndian(at: position, as: UInt16.self),
          vcpu: bytes.littleEndian(at: position + 2, as: UInt16.self),
          bytes: Array(bytes[start..<start + length])))
      position = start + length
    }
  }
}

extension [UInt8] {
  mutating func append(littleEndian value: some FixedWidthInteger) {
    for shift in stride(from: 0, to: value.bitWidth, by: 8) {
      append(UInt8(truncatingIfNeeded: value >> shift))
    }
  }

  /// The integer at `position`; the bytes must be there.
  func littleEndian<Value: FixedWidthInteger>(at position: Int, as: Value.Type) -> Value {
    var value: Value = 0
    for index in (0..<Value.bitWidth / 8).reversed() {
      value = value << 8 | Value(truncatingIfNeeded: self[position + index])
    }
    return value
  }
}
