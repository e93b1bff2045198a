internal import CLinux
internal import Glibc
internal import Pages
internal import System
internal import UFFD

/// What a VMM does at the destination: empty private memory under a userfaultfd that is handed
/// away by Firecracker's protocol, and one thread that touches it.
@safe
final class GuestMemory {
  private let mapping: MemoryMapping
  private let userfault: UserfaultDescriptor
  private let byteCount: Int
  private var connection: OwnedDescriptor?

  init(byteCount: Int) throws {
    mapping = try MemoryMapping(anonymousByteCount: byteCount)
    self.byteCount = byteCount
    // A huge page would make 511 neighbours present without a fault. Best effort: the kernel makes
    // none in memory that is registered for missing pages.
    _ = unsafe madvise(mapping.base, byteCount, MADV_NOHUGEPAGE)
    userfault = try UserfaultDescriptor(requiring: .removeEvents)
    _ = try userfault.handle.register(range, modes: .missing)
  }

  private var range: HostRange {
    unsafe HostRange(
      start: HostAddress(UnsafeRawPointer(mapping.base)), byteCount: ByteCount(byteCount))
  }

  /// Hands the userfaultfd to whoever listens at `path`. The connection stays open as long as the
  /// memory, as a Firecracker's does; our own descriptor too, so a dead handler freezes us.
  func attach(to path: String) throws(BenchmarkError) {
    let number = socket(
      AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard number >= 0 else { throw .call("socket") }
    let connection = OwnedDescriptor(adopting: number)
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    // unsafe: the address and its length were filled in together, and live through the call.
    let connected = unsafe withUnsafePointer(to: &address) {
      unsafe clinux_connect(number, UnsafeRawPointer($0), UInt32(length))
    }
    guard connected == 0 else { throw .call("connect to \(path)") }
    let start = range.start.rawValue
    let body = Array(
      """
      [{"base_host_virt_addr":\(start),"size":\(byteCount),"offset":0,"page_size":4096,\
      "page_size_kib":4096}]
      """.utf8)
    let descriptor = userfault.handle.rawValue
    // unsafe: the body is as long as it says, and one descriptor is sent.
    let sent = unsafe body.withUnsafeBytes {
      unsafe clinux_send_with_descriptors(number, $0.baseAddress!, $0.count, [descriptor], 1)
    }
    guard sent == body.count else { throw .call("send to \(path)") }
    self.connection = consume connection
  }

  /// The first words of the pages, in `order`, each read once; how long each took that was missing.
  ///
  /// The first `warmUpCount` times are left out: they hold the handler's start.
  func touch(
    order: borrowing PageOrder, seed: UInt64, warmUpCount: Int
  ) throws(BenchmarkError) -> [UInt64] {
    let wordsPerPage = FrozenImage.pageByteCount / 8
    let words = unsafe mapping.bytes.assumingMemoryBound(to: UInt64.self)
    var nanoseconds: [UInt64] = []
    nanoseconds.reserveCapacity(order.count)
    var isPresent: UInt8 = 0
    for position in 0..<order.count {
      let page = order.page(at: position)
      let index = page * wordsPerPage
      // unsafe: the page lies inside the mapping, and one page has one byte of answer.
      let asked = unsafe mincore(
        mapping.base + page * FrozenImage.pageByteCount, FrozenImage.pageByteCount, &isPresent)
      guard asked == 0 else { throw .call("mincore") }
      let start = MonotonicClock.now()
      let word = unsafe words[index]
      let end = MonotonicClock.now()
      guard word == FrozenImage.word(index, seed: seed) else {
        throw BenchmarkError("page \(page) shows a wrong word: \(word)")
      }
      if isPresent & 1 == 0 { nanoseconds.append(UInt64(end.nanoseconds(since: start))) }
    }
    return Array(nanoseconds.dropFirst(warmUpCount))
  }

  /// Compares every byte with the image. Only once everything is there: what is missing waits.
  func verify(seed: UInt64) throws(BenchmarkError) {
    let words = unsafe mapping.bytes.assumingMemoryBound(to: UInt64.self)
    for index in 0..<words.count where unsafe words[index] != FrozenImage.word(index, seed: seed) {
      throw BenchmarkError("word \(index) of page \(index / 512) differs from the source's image")
    }
  }
}

/// Every page once, in an order that follows from a seed (Fisher and Yates).
struct PageOrder: ~Copyable {
  private var pages: [UInt32]
  var count: Int { pages.count }

  init(pageCount: Int, seed: UInt64) {
    pages = (0..<UInt32(pageCount)).map { $0 }
    for last in stride(from: pageCount - 1, to: 0, by: -1) {
      let chosen = FrozenImage.word(last, seed: seed) % UInt64(last + 1)
      pages.swapAt(last, Int(chosen))
    }
  }

  func page(at position: Int) -> Int { Int(pages[position]) }
}
