import Codec
import FaultHandler
import Migration
import Pages
import Session
import System
import Wire

/// Seeds of what processes leave and say to each other on one host.
enum FileSeeds {
  static let control: [FuzzSeed] = {
    let requests = SessionVerb.allCases.flatMap { SessionRequest($0).line }
    let answers =
      SessionAnswer.done(status).line + SessionAnswer.done().line
      + SessionAnswer.failed("\"no\" \\ \u{7}\n").line
    let odd = "{\"verb\":\"sleep\",\"version\":1}\n{\"version\":2,\"verb\":\"park\"}\n\n[1e3]\n"
    let messages: [KeeperMessage] = [
      .keep(name: KeptName.userfault), .handedOver, .release, .finished(exitCode: -1),
    ]
    return [
      FuzzSeed(name: "seed-requests", bytes: [6] + requests),
      FuzzSeed(name: "seed-answers", bytes: [99] + answers),
      FuzzSeed(name: "seed-odd", bytes: [0] + Array(odd.utf8)),
      FuzzSeed(name: "seed-long", bytes: [255] + [UInt8](repeating: 0x20, count: 2000) + [0x0A]),
    ]
      + messages.enumerated().map { position, message in
        FuzzSeed(name: "seed-keeper-\(position + 1)", bytes: [0] + message.bytes)
      }
  }()

  private static let status: SessionStatus = {
    var status = SessionStatus(vmName: vmName, side: .destination, state: "draining")
    status.isLinked = true
    status.totalPageCount = 1_000_000
    status.settledPageCount = .max
    return status
  }()

  private static let vmName: VMName = {
    do throws(StateError) { return try VMName(Given.vmName) } catch {
      invariantBroken("the name of the fuzz targets is one")
    }
  }()

  static let saved: [FuzzSeed] = {
    var session = SavedSession(
      vmName: vmName, side: .source, boot: BootID(text: "0f0e0d0c-0b0a-0908-0706-050403020100"),
      arguments: ["--vm", Given.vmName, "--memory", "file:/dev/shm/\u{FC}"], workingDirectory: "/")
    session.parent = SavedProcess(JournalFile.ownProcess)
    let regions =
      "[{\"base_host_virt_addr\":139637980921856,\"size\":2097152,\"offset\":2097152,"
      + "\"page_size\":2097152},{\"base_host_virt_addr\":4096,\"size\":8192,\"offset\":0}]"
    let document: AttachDocument
    do throws(AttachError) {
      document = try AttachDocument(parsing: Array(regions.utf8))
    } catch { invariantBroken("the regions of the fuzz targets can be attached") }
    let attachment = SavedAttachment(
      document, process: JournalFile.ownProcess, userfaultNumber: 7)
    return [
      FuzzSeed(name: "seed-session", bytes: [0] + SavedSessionFile.bytes(of: session)),
      FuzzSeed(name: "seed-attachment", bytes: [1] + attachment.fileBytes),
    ]
  }()

  // MARK: Exports

  static let export: [FuzzSeed] = {
    let right = input(setting: 32, header(), index, pages)
    var builder = ExportBuilder(
      header: header(isEncrypted: false), index: index, pages: pages, token: Given.token)
    invariant(builder.putRight(), "a small export can be put right")
    let astray = [UInt8](repeating: 0xFF, count: 8) + builder.index[8..<600]
    return [
      FuzzSeed(name: "seed-sealed", bytes: right),
      FuzzSeed(
        name: "seed-plain", bytes: input(setting: 0, front(builder.header), builder.index, pages)),
      FuzzSeed(
        name: "seed-open-to-all",
        bytes: input(setting: 8, front(builder.header), builder.index, pages)),
      FuzzSeed(
        name: "seed-index-astray", bytes: input(setting: 0, front(builder.header), astray, pages)),
      FuzzSeed(
        name: "seed-epoch-too-high",
        bytes: input(setting: 32, header(epoch: 1 << 50), index, pages)),
      FuzzSeed(
        name: "seed-damaged", bytes: input(setting: 33, place: 70_000, header(), index, pages)),
      FuzzSeed(name: "seed-cut", bytes: input(setting: 34, place: 69_664, header(), index, pages)),
      FuzzSeed(name: "seed-forged", bytes: input(setting: 36, header(), index, pages)),
      FuzzSeed(name: "seed-longer", bytes: input(setting: 48, header(), index, pages)),
      FuzzSeed(name: "seed-as-it-stands", bytes: [128, 0, 0, 0] + front(builder.header)),
    ]
  }()

  /// Without the zeros at its end.
  private static func front(_ bytes: [UInt8]) -> [UInt8] {
    Array(bytes.prefix((bytes.lastIndex { $0 != 0 } ?? -1) + 1))
  }

  private static func input(
    setting: UInt8, place: Int = 0, _ header: [UInt8], _ index: [UInt8], _ pages: [UInt8]
  ) -> [UInt8] {
    var bytes = [setting]
    for shift in [0, 8, 16] { bytes.append(UInt8(truncatingIfNeeded: place >> shift)) }
    for piece in [header, front(index), pages] {
      bytes.appendLittleEndian(UInt16(piece.count))
      bytes += piece
    }
    return bytes
  }

  /// Two pages with content; the rest of the second is zeros.
  private static let pages = (0..<4200).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 1) }

  /// Of the first region: zeros, content, poisoned, content, and twelve that are not held; of the
  /// second, whose block is the next one: zeros and not held.
  private static let index: [UInt8] = {
    var bytes = [UInt8](repeating: 0, count: 769)
    bytes[256] = 0b10_11_10_01
    bytes[768] = 0b00_01
    return bytes
  }()

  private static func header(isEncrypted: Bool = true, epoch: UInt64 = 6) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 512 + 2 * 24)
    bytes.withMutableRawBytes { span in
      span.storeLittleEndian(UInt32(isEncrypted ? 1 : 0), at: 24)
      span.storeLittleEndian(UInt32(2), at: 28)
      span.storeLittleEndian(Given.session.high, at: 32)
      span.storeLittleEndian(Given.session.low, at: 40)
      span.storeLittleEndian(epoch, at: 48)
      span.storeLittleEndian(MigrationMode.postCopy.rawValue, at: 64)
      span.storeLittleEndian(UInt8(1), at: 65)
      span.storeLittleEndian(UInt16(Given.vmName.utf8.count), at: 66)
      let regions: [(UInt64, UInt64, UInt32)] = [
        (0, 65_536, 4096), (2 << 20, 4 << 20, 2 << 20),
      ]
      for (position, region) in regions.enumerated() {
        span.storeLittleEndian(region.0, at: 512 + position * 24)
        span.storeLittleEndian(region.1, at: 512 + position * 24 + 8)
        span.storeLittleEndian(region.2, at: 512 + position * 24 + 16)
      }
    }
    bytes.replaceSubrange(128..<160, with: (0..<32).map { UInt8(0xE0 + $0) })
    bytes.replaceSubrange(176..<200, with: Array("2026-01-31T12:00:00.000Z".utf8))
    bytes.replaceSubrange(256..<256 + Given.vmName.utf8.count, with: Array(Given.vmName.utf8))
    return bytes
  }
}
