internal import FoundationEssentials
internal import Pages
internal import Session
package import System
internal import UFFD
package import Wire

/// What a restarted process needs to find a VMM's memory again: which process it is, where its
/// regions are, and where it keeps its duplicate of the userfaultfd. A JSON file in the session's
/// run directory: it means nothing after a reboot, and neither does the VMM.
package struct SavedAttachment: Codable, Hashable {
  /// One region, in Firecracker's words.
  struct SavedRegion: Codable, Hashable {
    var base_host_virt_addr: UInt64
    var size: UInt64
    var offset: UInt64
    var page_size: UInt64
  }

  static let currentVersion = 1
  private static let maximumByteCount = 2 * AttachDocument.maximumByteCount

  var version = currentVersion
  var pid: Int32
  var startTicks: UInt64
  var userfaultNumber: Int32
  /// True when seeds go into the memory itself; nil when not.
  var seedsInPlace: Bool?
  var regions: [SavedRegion]

  /// What is to be saved of memory whose VMM keeps a duplicate under that number.
  init(_ memory: borrowing AttachedMemory, userfaultNumber: Int32) {
    self.init(
      memory.document, process: memory.process.identity, userfaultNumber: userfaultNumber)
  }

  /// What is to be saved of memory that was described so.
  package init(_ document: AttachDocument, process: ProcessIdentity, userfaultNumber: Int32) {
    pid = process.pid
    startTicks = process.startTicks
    self.userfaultNumber = userfaultNumber
    regions = zip(document.layout.regions, document.hostBases).map { region, base in
      SavedRegion(
        base_host_virt_addr: base.rawValue, size: region.byteCount.rawValue,
        offset: region.imageOffset.rawValue, page_size: UInt64(region.pageSize.byteCount))
    }
  }

  /// Writes the file, readable for this user alone. It is whole or not there.
  func write(_ path: String) throws(SystemError) {
    try FileSystem.replaceFile(path, with: fileBytes, permissions: 0o600)
  }

  /// The file's content.
  package var fileBytes: [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = .sortedKeys
    do { return Array(try encoder.encode(self)) } catch {
      invariantBroken("numbers can be written as JSON")
    }
  }

  /// Reads what `write` wrote.
  init(path: String) throws(Refusal) {
    let bytes: [UInt8]
    do throws(SystemError) {
      bytes = try FileSystem.contents(ofSmallFile: path)
    } catch { throw Refusal(.session, "where the VM's memory is cannot be read: \(error)") }
    guard let found = Self(parsing: bytes) else {
      throw Refusal(.session, "\(path) does not tell where the VM's memory is")
    }
    self = found
  }

  /// Reads the file's content; nil when it is none of this version.
  package init?(parsing bytes: [UInt8]) {
    guard bytes.count <= Self.maximumByteCount,
      let found = try? JSONDecoder().decode(Self.self, from: Data(bytes)),
      found.version == Self.currentVersion
    else { return nil }
    self = found
  }

  /// The process, as its identity was when it attached.
  var process: ProcessIdentity { ProcessIdentity(pid: pid, startTicks: startTicks) }

  /// The memory as the VMM described it.
  package func document() throws(Refusal) -> AttachDocument {
    do {
      return try AttachDocument(
        parsing: Array(try JSONEncoder().encode(regions)),
        maximumByteCount: Self.maximumByteCount)
    } catch {
      throw Refusal(.session, "the saved description of the VM's memory is wrong: \(error)")
    }
  }
}
