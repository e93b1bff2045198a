import CLinux
import CUFFDTestSupport
import Codec
import Glibc
import Migration
import Pages
import System
import Testing
import UFFD
import Uring

@testable import FaultHandler

/// What this machine lets the tests do.
enum Machine {
  static let hasUserfault: Bool = {
    (try? UserfaultDescriptor(requiring: [.removeEvents])) != nil
  }()

  static let canLimitMemory: Bool = {
    guard hasUserfault else { return false }
    let number = unsafe uffdtest_limited_tmpfs_file("4096")
    guard number >= 0 else { return false }
    close(number)
    return true
  }()

  static let hasRing: Bool = {
    do throws(RingError) {
      let ring = try Ring(entryCount: 4, memoryByteCount: 4096)
      return ring.unsubmittedCount == 0
    } catch {
      return false
    }
  }()

  /// Whether four huge pages can be had; raises the reservation where that is allowed.
  static let hasHugePages: Bool = {
    guard hasUserfault else { return false }
    if freeHugePages() < 8 { raiseHugePages(by: 8) }
    return freeHugePages() >= 8
  }()

  private static let setting = "/proc/sys/vm/nr_hugepages"

  /// Those that are not set aside for a mapping either.
  private static func freeHugePages() -> Int {
    let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
    let count = { FileSystem.text(ofSmallFile: directory + $0).flatMap { Int($0) } ?? 0 }
    return count("free_hugepages") - count("resv_hugepages")
  }

  private static func raiseHugePages(by count: Int) {
    guard let now = FileSystem.text(ofSmallFile: setting).flatMap({ Int($0) }),
      let file = try? OwnedDescriptor.open(setting, flags: O_WRONLY)
    else { return }
    _ = try? file.writeAll(Array("\(now + count)".utf8), atOffset: 0, operand: setting)
  }
}

/// A region of this process's memory that plays the guest's, registered for missing pages.
@safe
final class GuestMemory: @unchecked Sendable {
  let base: UnsafeMutableRawPointer
  let byteCount: Int
  let pageSize: PageSize
  let isShared: Bool
  /// The memory file behind shared memory.
  private let file: OwnedDescriptor?
  let fileNumber: Int32
  let userfault: UserfaultHandle

  /// - Parameter limitByteCount: the memory is shared, of a tmpfs that has no room for more.
  init(
    pageCount: Int, pageSize: PageSize = .small, isShared: Bool = false,
    userfault: UserfaultHandle, limitByteCount: Int? = nil
  ) throws {
    self.pageSize = pageSize
    self.isShared = isShared
    self.userfault = userfault
    byteCount = pageCount * pageSize.byteCount
    var flags = isShared ? MAP_SHARED : MAP_PRIVATE
    var number: Int32 = -1
    if let limitByteCount {
      flags = MAP_SHARED
      number = unsafe uffdtest_limited_tmpfs_file("\(limitByteCount)")
      try #require(number >= 0)
    } else if isShared || pageSize == .huge {
      number = unsafe clinux_memfd_create(
        "guest", UInt32(MFD_ALLOW_SEALING) | (pageSize == .huge ? UInt32(MFD_HUGETLB) : 0))
      try #require(number >= 0)
    } else {
      flags |= MAP_ANONYMOUS
    }
    file = number >= 0 ? OwnedDescriptor(adopting: number) : nil
    fileNumber = number
    if number >= 0 { try #require(ftruncate(number, byteCount) == 0) }
    let wish = unsafe UnsafeMutableRawPointer(
      bitPattern: UInt(uffdtest_remote_address(UInt64(byteCount))))
    let address = unsafe mmap(wish, byteCount, PROT_READ | PROT_WRITE, flags, number, 0)
    unsafe base = try #require(address == MAP_FAILED ? nil : address)
    _ = unsafe madvise(base, byteCount, MADV_NOHUGEPAGE)
    _ = try userfault.register(range, modes: .missing)
  }

  /// Where the memory's file holds something, in pages.
  func fileDataRuns() throws -> [Range<Int>] {
    var runs: [Range<Int>] = []
    var offset = lseek(fileNumber, 0, SEEK_DATA)
    while offset >= 0, offset < byteCount {
      let end = lseek(fileNumber, offset, SEEK_HOLE)
      runs.append(offset / pageSize.byteCount..<end / pageSize.byteCount)
      offset = lseek(fileNumber, end, SEEK_DATA)
    }
    return runs
  }

  /// Nobody may write to the file or punch it any more, but through mappings that are there.
  func seal() throws {
    let seal: Int32 = 0x0010  // F_SEAL_FUTURE_WRITE, which Glibc does not bring.
    try #require(fcntl(fileNumber, F_ADD_SEALS, seal) == 0)
  }

  /// What a test has taken out: it may be somebody else's memory by now, also another test's.
  private let holes = Lock<[Range<Int>]>([])

  deinit {
    let holes = holes.withLock { $0 }
    for page in 0..<pageCount where !holes.contains(where: { $0.contains(page) }) {
      unsafe munmap(base + page * pageSize.byteCount, pageSize.byteCount)
    }
  }

  var start: UInt64 { unsafe UInt64(UInt(bitPattern: base)) }
  var range: HostRange {
    HostRange(start: HostAddress(rawValue: start), byteCount: ByteCount(byteCount))
  }
  var pageCount: Int { byteCount / pageSize.byteCount }

  /// The first word of a page. Waits where the page is missing.
  func word(page: Int) -> UInt64 { word(page: page, offset: 0) }

  @inline(never)
  func word(page: Int, offset: Int) -> UInt64 {
    uffdtest_load(start + UInt64(page * pageSize.byteCount + offset))
  }

  @inline(never)
  func store(_ word: UInt64, page: Int) {
    uffdtest_store(start + UInt64(page * pageSize.byteCount), word)
  }

  /// Whether every word of the page is that one.
  func holds(_ expected: UInt64, page: Int) -> Bool {
    stride(from: 0, to: pageSize.byteCount, by: 8).allSatisfy {
      word(page: page, offset: $0) == expected
    }
  }

  /// Gives pages back as a balloon does.
  func remove(page: Int, count: Int = 1) {
    _ = unsafe madvise(
      base + page * pageSize.byteCount, count * pageSize.byteCount, MADV_DONTNEED)
  }

  /// Takes pages out of the address space.
  func unmap(page: Int, count: Int) {
    holes.withLock { $0.append(page..<page + count) }
    unsafe munmap(base + page * pageSize.byteCount, count * pageSize.byteCount)
  }

  /// Moves the whole region to another address, and nothing back.
  func moveAway() {
    holes.withLock { $0.append(0..<pageCount) }
    // The target is a mapping of its own first, so that nothing else is there.
    let target = unsafe mmap(nil, byteCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    _ = uffdtest_move_mapping(start, UInt64(byteCount), UInt64(UInt(bitPattern: target)))
  }

  /// The si_code of the SIGBUS that touching a page raises; 0 when it raises none.
  func busError(page: Int) -> Int32 {
    var word: UInt64 = 0
    return unsafe uffdtest_try_load(start + UInt64(page * pageSize.byteCount), &word)
  }

  /// Punches pages out of the memory file, which raises no event.
  func punch(page: Int) throws {
    let number = fileNumber
    let size = pageSize.byteCount
    let mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    try #require(fallocate(number, mode, page * size, size) == 0)
  }

  /// Makes a page of the memory file by fallocate(2), which writes nothing to it.
  func allocate(page: Int) throws {
    let size = pageSize.byteCount
    try #require(fallocate(fileNumber, FALLOC_FL_KEEP_SIZE, page * size, size) == 0)
  }

  /// Puts a page in place behind the data plane's back.
  func plant(_ word: UInt64, page: Int) throws {
    let content = PageContent.bytes(word, pageSize)
    let outcome = try userfault.copy(
      content.rawBytes,
      to: range.start.advanced(by: ByteCount(page * pageSize.byteCount)))
    #expect(outcome == .complete)
  }
}

/// Page contents: one word, repeated.
enum PageContent {
  /// The word that a page has at the source; never 0.
  static func word(_ page: Int, region: Int = 0) -> UInt64 {
    (UInt64(page) + 1) &* 0x9E37_79B9_7F4A_7C15 ^ UInt64(region) << 56 | 1
  }

  static func bytes(_ word: UInt64, _ size: PageSize) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: size.byteCount)
    for offset in stride(from: 0, to: size.byteCount, by: 8) {
      for index in 0..<8 { bytes[offset + index] = UInt8(truncatingIfNeeded: word >> (8 * index)) }
    }
    return bytes
  }
}

/// A thread of the guest: runs a body that may wait for pages, and hands out what it found.
final class GuestThread<Found: Sendable> {
  private let found: Lock<Found?>
  private var thread: WorkerThread?

  init(_ body: @escaping @Sendable () -> Found) throws {
    let found = Lock<Found?>(nil)
    self.found = found
    thread = try WorkerThread(name: "guest") {
      let result = body()
      found.withLock { $0 = result }
    }
  }

  /// Waits for its end.
  func value() throws -> Found {
    thread.take()?.join()
    return try #require(found.withLock { $0 })
  }

  deinit { thread.take()?.join() }
}
