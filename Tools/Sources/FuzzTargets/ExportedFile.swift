import Codec
import Glibc
import Migration
import PageServer
import Pages
import Session
import System
import Wire

/// Input: a byte of settings, a place (u24), then the fronts of header, index and pages, each as a
/// length (u16) and its bytes. They become a file with right checksums and seals, as somebody makes
/// it who has the token. With bit 7 of the settings everything behind them is a file as it stands.
enum ExportedFile {
  private struct Setting: OptionSet {
    let rawValue: UInt8
    /// One bit of the file is changed, at the place.
    static let isDamaged = Setting(rawValue: 1)
    /// It ends at the place.
    static let isCut = Setting(rawValue: 2)
    /// Checksums are right and seals are not.
    static let isForged = Setting(rawValue: 4)
    /// Other users may read it.
    static let isOpenToAll = Setting(rawValue: 8)
    /// One byte follows its end.
    static let isLonger = Setting(rawValue: 16)
    /// Counts and lengths are made to fit regions and states.
    static let isPutRight = Setting(rawValue: 32)
    static let isAsItStands = Setting(rawValue: 128)
  }

  static func run(_ input: [UInt8]) { _ = serves(input) }

  /// Whether the input made a file that is served.
  static func serves(_ input: [UInt8]) -> Bool {
    var reader = InputReader(input)
    let setting = Setting(rawValue: reader.byte())
    let place = reader.word() | Int(reader.byte()) << 16
    if setting.contains(.isAsItStands) {
      return open(
        reader.rest(), isOpenToAll: setting.contains(.isOpenToAll), nil, mayServe: false)
    }
    var builder = ExportBuilder(
      header: reader.bytes(min(reader.word(), ExportBuilder.headerByteCount)),
      index: reader.bytes(reader.word()), pages: reader.bytes(reader.word()), token: Given.token)
    if setting.contains(.isPutRight) { _ = builder.putRight() }
    let whole = builder.file(isSealed: !setting.contains(.isForged))
    var file = whole
    if setting.contains(.isDamaged) { file[place / 8 % file.count] ^= 1 << UInt8(place % 8) }
    if setting.contains(.isCut) { file.removeSubrange((place % file.count)...) }
    if setting.contains(.isLonger) { file.append(UInt8(truncatingIfNeeded: place)) }
    return open(
      file, isOpenToAll: setting.contains(.isOpenToAll), builder,
      mayServe: !setting.contains(.isForged) && file == whole)
  }

  /// `mayServe` is false when the file must be refused.
  private static func open(
    _ bytes: [UInt8], isOpenToAll: Bool, _ builder: ExportBuilder?, mayServe: Bool
  ) -> Bool {
    let path = ScratchFile.nextPath("export")
    write(bytes, path, permissions: isOpenToAll ? 0o644 : 0o600)
    defer { try? FileSystem.removeFile(path) }
    let served: ExportBacking
    do throws(ExportError) {
      inspect(path)
      let file = try ExportFile.open(path, token: Given.token)
      let backing = try ExportBacking(file)
      // The file may change after it was checked: what is read unchecked must do no harm.
      _ = touch(backing)
      try file.verify()
      served = backing
    } catch {
      invariant(!error.description.isEmpty, "a refusal says why")
      return false
    }
    invariant(mayServe, "a file that was changed is refused")
    invariant(
      served.file.header.isEncrypted || !isOpenToAll, "memory in the clear is for its owner alone")
    if let builder, let regions = builder.indexedRegions() {
      ExportedPages(builder, regions).compare(with: served)
    }
    invariant(touch(served), "every page of a checked file can be read")
    record(served)
    return true
  }

  private static func write(_ bytes: [UInt8], _ path: String, permissions: UInt32) {
    do throws(SystemError) {
      try? FileSystem.removeFile(path)
      let file = try OwnedDescriptor.open(
        path, flags: O_WRONLY | O_CREAT | O_EXCL, mode: permissions)
      try file.writeAll(bytes, atOffset: 0, operand: path)
    } catch { invariantBroken("a small file on /dev/shm can be made") }
  }

  /// Without the token, as by somebody who carries it.
  private static func inspect(_ path: String) {
    do throws(ExportError) {
      try ExportFile.open(path, token: nil).verify()
    } catch { invariant(!error.description.isEmpty, "a refusal says why") }
  }

  /// Reads a few pages of each region and the kinds of all; false when one is refused.
  private static func touch(_ backing: ExportBacking) -> Bool {
    var isReadable = true
    var budget = 64
    for region in backing.naturalLayout.regions {
      let start = region.imageOffset.rawValue
      let size = region.pageSize.byteCount
      let pageCount = region.pageCount.rawValue
      for page in [0, 1, 2, 3, pageCount / 2, pageCount - 1] where page < pageCount {
        guard budget > 0 else { break }
        budget -= 1
        var bytes = [UInt8](repeating: 0, count: size)
        do throws(MemoryError) {
          try bytes.withMutableRawBytes { span throws(MemoryError) in
            _ = try backing.read(into: &span, at: start + page * UInt64(size), pageByteCount: size)
          }
        } catch {
          if case .notInExport = error { continue }
          isReadable = false
        }
      }
      let end = start + region.byteCount.rawValue
      if !search(backing, start..<end) { isReadable = false }
    }
    return isReadable
  }

  private static func search(_ backing: ExportBacking, _ range: Range<UInt64>) -> Bool {
    var position = range.lowerBound
    // A block a step; more than the builder makes is never read to its end.
    for _ in 0..<1024 where position < range.upperBound {
      do throws(MemoryError) {
        let next = try backing.searchAbsent(in: position..<range.upperBound) { run in
          invariant(
            range.lowerBound <= run.lowerBound && run.upperBound <= range.upperBound,
            "what is found lies where it was looked for")
        }
        invariant(next > position && next <= range.upperBound, "a search goes on")
        position = next
      } catch { return false }
    }
    return true
  }

  /// What the file proves goes into this host's journal, which must be read again.
  private static func record(_ backing: ExportBacking) {
    let header = backing.file.header
    guard let name = try? VMName(header.vmName) else { return }
    do throws(Refusal) {
      let session = try ExportedSession.decide(backing, vmName: name, histories: [])
      let payloads = session.records.map { record in
        var writer = JournalWriter()
        record.encode(to: &writer)
        if record.isOpening { JournalFile.ownBinding.encode(to: &writer) }
        return writer.bytes
      }
      let histories = try? SourceJournal.histories(of: payloads, path: "fuzz")
      invariant(
        histories?.map(\.records) == [session.records],
        "the journal can be read after what the file proves was written")
      invariant(
        SourceCore(recovering: session.records, vm: .gone) != nil, "the core goes on from it")
    } catch { invariantBroken("a VM's own file is of it") }
  }
}

/// What the pages of a file must read as, by the pieces that it was made of.
private struct ExportedPages {
  private let builder: ExportBuilder
  private let regions: [ExportBuilder.Described]
  /// Reading each page of a large image would take seconds.
  private static let comparedByteCount = 1 << 19

  init(_ builder: ExportBuilder, _ regions: [ExportBuilder.Described]) {
    self.builder = builder
    self.regions = regions
  }

  func compare(with backing: ExportBacking) {
    var content = 0
    var counts = ExportCounts()
    for region in regions {
      let size = Int(region.pageByteCount)
      for page in 0..<region.pageCount {
        let state = builder.state(of: page, in: region)
        if page < UInt64(Self.comparedByteCount / size) || page == region.pageCount - 1 {
          compare(page, of: region, state, content, backing)
        }
        switch state {
        case 0: counts.unheld += 1
        case 1: counts.zero += 1
        case 2:
          counts.content += 1
          content += size
        default: counts.poisoned += 1
        }
      }
    }
    invariant(backing.file.header.counts == counts, "the header counts the pages")
    invariant(backing.file.header.contentByteCount == UInt64(content), "and their bytes")
  }

  private func compare(
    _ page: UInt64, of region: ExportBuilder.Described, _ state: UInt8, _ content: Int,
    _ backing: ExportBacking
  ) {
    let size = Int(region.pageByteCount)
    var bytes = [UInt8](repeating: 0xA5, count: size)
    do throws(MemoryError) {
      let found = try bytes.withMutableRawBytes { span throws(MemoryError) in
        try backing.read(
          into: &span, at: region.offset + page * region.pageByteCount, pageByteCount: size)
      }
      switch state {
      case 1:
        invariant(found == .complete && bytes.allSatisfy { $0 == 0 }, "a page of zeros is zeros")
      case 2:
        invariant(
          found == .complete && bytes.elementsEqual(builder.pages[content..<content + size]),
          "a page reads as it was written")
      case 3: invariant(found == .poisoned(atOffset: 0), "a poisoned page stays one")
      default: invariantBroken("what the file does not hold is never answered")
      }
    } catch {
      guard case .notInExport = error else {
        invariantBroken("a page of a checked file can be read")
      }
      invariant(state == 0, "what the file holds is answered")
    }
  }
}
