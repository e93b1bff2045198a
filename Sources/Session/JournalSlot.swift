internal import Codec

/// Which side of a migration a journal belongs to.
public enum JournalSide: UInt8, CaseIterable, Hashable, Sendable {
  /// The host that gives the VM away.
  case source = 1
  /// The host that takes it.
  case destination = 2

  /// The word in file names and messages.
  public var name: String { self == .source ? "source" : "destination" }
}

/// One record on disk: a slot of 512 bytes, one disk sector, which a disk writes wholly or not at
/// all, in a place that held zeros. A record whose write never finished therefore has no checksum:
/// all zeros, or, on storage that tears sectors, a beginning followed by zeros. It is *torn*, and
/// only the last record can be. Everything else that does not check is *damage*, never a tear:
/// a damaged HANDED_OFF that was taken for a torn one would let a VM run twice.
///
/// ```
/// 0 magic "PCJL" · 4 version u16 · 6 side u8 · 7 zero · 8 sequence u64 · 16 payload bytes u16
/// 18 zeros · 24 payload … zeros · 508 CRC-32C of bytes 0..<508          (all little-endian)
/// ```
package enum JournalSlot {
  /// The smallest sector of every disk in use.
  static let byteCount = 512
  static let payloadOffset = 24
  static let checksumOffset = 508
  /// The largest payload of a record.
  static let maximumPayloadByteCount = checksumOffset - payloadOffset
  static let magic: UInt32 = 0x4C4A_4350
  static let version: UInt16 = 1

  /// What stands in a slot.
  enum Content: Equatable {
    /// Zeros: never written.
    case empty
    /// Without its end: a write that did not finish.
    case torn
    /// A record that checks.
    case record(payload: [UInt8])
    /// Neither: the reason.
    case damaged(String)
    /// Checks, but was written by another version of this program.
    case otherVersion(UInt16)
  }

  /// The slot for the record with that sequence number.
  package static func encode(
    payload: [UInt8], sequence: UInt64, side: JournalSide
  ) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(byteCount)
    bytes.appendLittleEndian(magic)
    bytes.appendLittleEndian(version)
    bytes.append(side.rawValue)
    bytes.append(0)
    bytes.appendLittleEndian(sequence)
    bytes.appendLittleEndian(UInt16(payload.count))
    bytes.append(contentsOf: repeatElement(0, count: payloadOffset - bytes.count))
    bytes.append(contentsOf: payload)
    bytes.append(contentsOf: repeatElement(0, count: checksumOffset - bytes.count))
    bytes.appendLittleEndian(CRC32C.checksum(of: bytes.rawBytes))
    return bytes
  }

  /// Reads a slot of exactly `byteCount` bytes at the place of that sequence number.
  static func decode(_ slot: [UInt8], sequence: UInt64, side: JournalSide) -> Content {
    if slot.allSatisfy({ $0 == 0 }) { return .empty }
    let bytes = slot.rawBytes
    let checksum = CRC32C.checksum(of: bytes.extracting(0..<checksumOffset))
    let stored = bytes.loadLittleEndian(at: checksumOffset, as: UInt32.self)
    guard stored == checksum else {
      if stored == 0 { return .torn }
      return .damaged("the checksum does not match")
    }
    guard bytes.loadLittleEndian(at: 0, as: UInt32.self) == magic else {
      return .damaged("it is not a journal record")
    }
    let found = bytes.loadLittleEndian(at: 4, as: UInt16.self)
    guard found == version else { return .otherVersion(found) }
    guard slot[6] == side.rawValue else { return .damaged("it belongs to the other side") }
    let number = bytes.loadLittleEndian(at: 8, as: UInt64.self)
    guard number == sequence else {
      return .damaged("it has sequence number \(number) in place of \(sequence)")
    }
    let count = Int(bytes.loadLittleEndian(at: 16, as: UInt16.self))
    guard count <= maximumPayloadByteCount else { return .damaged("its length is out of range") }
    return .record(payload: Array(slot[payloadOffset..<payloadOffset + count]))
  }
}
