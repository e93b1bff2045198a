internal import Glibc
internal import Pages
internal import System

/// Why a disk cannot be used.
struct DiskError: Error, CustomStringConvertible {
  let description: String
}

/// A disk of the VMM: threads of its own read blocks of a file into a buffer in guest memory, past
/// the page cache, as long as the guest runs.
///
/// A reader parks at the gate like a vCPU, once its read is complete, recorded and noted in the
/// dirty log: a guest that is paused has no block I/O under way.
final class GuestDisk: Sendable {
  /// So many reads are under way at a time.
  static let readerCount = 4
  /// The device's section of a saved state: a block number for each page of the buffer.
  static let sectionTag: UInt16 = 200

  private let file: OwnedDescriptor
  private let path: String
  private let blockCount: UInt64
  private let memory: GuestMemory
  private let layout: GuestLayout
  private let turns = Lock([UInt64](repeating: 0, count: readerCount))
  private let threads = ThreadGroup()

  /// Opens the file. Refused where direct I/O is none, or not possible.
  init(path: String, memory: GuestMemory, layout: GuestLayout) throws(DiskError) {
    guard layout.bufferPageCount >= Self.readerCount else {
      throw DiskError(description: "a disk needs a buffer of at least \(Self.readerCount) pages")
    }
    self.path = path
    self.memory = memory
    self.layout = layout
    let size: Int
    do throws(SystemError) {
      // It takes O_DIRECT from Linux 6.6 on, and copies all the same.
      guard try !FileSystem.isOnTmpfs(path) else {
        throw SystemError("open", "\(path) for direct I/O", .invalidArgument)
      }
      file = try .open(path, flags: O_RDONLY | O_DIRECT)
      size = lseek(file.rawValue, 0, SEEK_END)
      guard size >= 0 else { throw SystemError("lseek", path) }
    } catch {
      let isUnfit = error.errno == .invalidArgument
      throw DiskError(
        description: isUnfit
          ? "\(path) is not on a file system with direct I/O: put the disk elsewhere" : "\(error)")
    }
    blockCount = UInt64(size / DiskBlock.byteCount)
    guard blockCount >= DiskBlock.minimumCount else {
      throw DiskError(
        description: "the disk \(path) has fewer than \(DiskBlock.minimumCount) blocks of 4 KiB: "
          + "make one with microvm disk")
    }
  }

  /// Makes the readers, which park at once behind the vCPUs. Call it once.
  func startThreads(_ gate: VcpuGate, dirtyLog: DirtyLog?) throws(SystemError) {
    let first = gate.vcpuCount
    try threads.start(count: Self.readerCount, name: "disk") { [self] reader in
      gate.live(vcpu: first + reader, beforeRun: {}, run: { read(reader, dirtyLog) })
    }
  }

  /// Waits for readers that were told to leave.
  func joinThreads() { threads.join() }

  /// One read, from its submission to the note that it has changed memory.
  private func read(_ reader: Int, _ dirtyLog: DirtyLog?) -> VcpuStop {
    let turn = turns.withLock { turns in
      defer { turns[reader] += 1 }
      return turns[reader]
    }
    // Pages are dealt to the readers in turn. Rounded up: the first readers may have one more.
    let pageCount = (layout.bufferPageCount - reader + Self.readerCount - 1) / Self.readerCount
    let page = reader + Int(turn % UInt64(pageCount)) * Self.readerCount
    let record = layout.offset(ofRecordOfBufferPage: page)
    let offset = layout.offset(ofBufferPage: page)
    // unsafe: the buffer lies in the memory, a page of it in one region.
    let target = unsafe memory.pointer(at: offset)
    let last = memory.word(at: record)
    guard unsafe DiskBlock.content(last).matches(target) else {
      return failed(page, unsafe DiskBlock.difference(target, from: last))
    }
    let block = nextBlock(turn: turn, page: page, butNot: last)
    var count: Int
    repeat {
      count = unsafe pread(
        file.rawValue, target, DiskBlock.byteCount, (Int(block) - 1) * DiskBlock.byteCount)
    } while count < 0 && Errno.current == .interrupted
    guard count == DiskBlock.byteCount else {
      return failed(page, "\(SystemError("pread", "block \(block) of \(path): \(count) bytes"))")
    }
    memory.setWord(at: record, to: block)
    // Behind the change: a fetch in between tells it the next time.
    dirtyLog?.noteOwnChange(offset: offset, byteCount: DiskBlock.byteCount)
    dirtyLog?.noteOwnChange(offset: layout.diskRecordOffset, byteCount: 4096)
    // Nothing has stopped it: the gate says whether it goes on.
    return .kicked
  }

  /// In no regular order, and never the block that the page holds: a lost read would not be seen.
  private func nextBlock(turn: UInt64, page: Int, butNot last: UInt64) -> UInt64 {
    let draw = PageContent(id: turn, version: 1, seed: UInt64(page)).mix % blockCount
    return draw + 1 == last ? (draw + 1) % blockCount + 1 : draw + 1
  }

  private func failed(_ page: Int, _ what: String) -> VcpuStop {
    let offset = layout.offset(ofBufferPage: page)
    return .failed(
      Mismatch(
        vcpu: -1, imagePage: offset / 4096, expectedVersion: 1, wasRemoved: false,
        foundWord0: memory.word(at: offset), foundWord1: memory.word(at: offset + 8),
        what: "buffer page \(page): \(what)"))
  }
}

// The device's part of a saved state. It belongs to the buffer, whether there is a disk or not.
extension TestMachine {
  func saveDisk(into blob: inout StateBlob) {
    guard layout.bufferPageCount > 0 else { return }
    blob.sections.append(
      .init(tag: GuestDisk.sectionTag, vcpu: 0, bytes: diskRecord.flatMap(Self.bytes)))
  }

  /// The memory must hold the record of the device whose state this is.
  func checkDisk(of blob: StateBlob) throws(StateBlobError) {
    let sections = blob.sections.filter { $0.tag == GuestDisk.sectionTag }
    guard sections.count == (layout.bufferPageCount > 0 ? 1 : 0),
      sections.allSatisfy({ $0.bytes.count == layout.bufferPageCount * 8 })
    else { throw .otherGuest("its disk has another buffer than \(layout.bufferPageCount) pages") }
    guard sections.allSatisfy({ $0.bytes == diskRecord.flatMap(Self.bytes) }) else {
      throw .otherGuest("its disk has read other blocks than its memory says")
    }
  }

  private var diskRecord: [UInt64] {
    (0..<layout.bufferPageCount).map {
      memory.word(at: layout.offset(ofRecordOfBufferPage: $0))
    }
  }

  private static func bytes(_ word: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(littleEndian: word)
    return bytes
  }
}
