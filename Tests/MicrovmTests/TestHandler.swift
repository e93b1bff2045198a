import Glibc
import GuestKit
import Pages
import System
import Testing
import UFFD

@testable import GuestKit

/// The smallest right fault handler: one thread that reads all messages before it fills anything.
final class TestHandler: Sendable {
  struct State {
    var isHolding = false
    var mustStop = false
    var waiting: [HostAddress] = []
    var faultCount = 0
    var removedPages = 0
    var failure: String?
  }

  private let state = Monitor(State())
  private let wakeUp: WakeEvent
  private let threads = ThreadGroup()
  private let pieces: [ControlRegion]
  private let source: any ImageReading
  private let isShared: Bool
  private let pageSize: PageSize

  /// Serves the missing pages of `status`'s process from the frozen image.
  init(
    _ userfault: consuming OwnedDescriptor, of status: ControlReply, from source: any ImageReading
  ) throws {
    guard let regions = status.regions,
      let size = status.pageSize.flatMap({ PageSize(rawValue: $0) })
    else { throw ControlFailure(.failed, "the status has no regions") }
    pieces = regions
    self.source = source
    isShared = status.memoryPath != nil
    pageSize = size
    wakeUp = try WakeEvent()
    let descriptor = Lock<OwnedDescriptorBox?>(OwnedDescriptorBox(userfault))
    try threads.start(count: 1, name: "handler") { [self] _ in
      guard let box = descriptor.withLock({ $0.take() }), let userfault = box.take() else { return }
      do { try serve(userfault) } catch {
        let text = "\(error)"
        state.withLock { $0.failure = text }
      }
    }
  }

  var failure: String? { state.withLock(\.failure) }
  var faultCount: Int { state.withLock(\.faultCount) }
  var removedPages: Int { state.withLock(\.removedPages) }

  /// Waits until a fault was read that is not answered, because this handler holds.
  func waitForHeldFault() throws {
    let isThere = state.wait(until: limit()) { $0.waiting.isEmpty ? nil : true }
    try #require(isThere == true, "a fault arrives")
  }

  /// Reads faults from now on and answers none.
  func hold() { state.withLock { $0.isHolding = true } }

  /// Answers what was held, and everything from now on.
  func release() {
    state.withLock { $0.isHolding = false }
    wakeUp.signal()
  }

  /// Ends the thread, which closes this process's descriptor.
  func stop() {
    state.withLock { $0.mustStop = true }
    wakeUp.signal()
    threads.join()
  }

  private enum PageState { case missing, present, removed }

  private func serve(_ descriptor: consuming OwnedDescriptor) throws {
    let userfault = try UserfaultDescriptor(adopting: descriptor)
    let handle = userfault.handle
    var buffer = UserfaultMessageBuffer()
    let total = pieces.reduce(0) { $0 + $1.size }
    var pages = [PageState](repeating: .missing, count: Int(total) / pageSize.byteCount)
    while !state.withLock(\.mustStop) {
      _ = try Readiness.wait(for: [userfault.handle.rawValue, wakeUp.rawValue], until: limit())
      _ = wakeUp.drain()
      // All messages first: a removal behind a fault must be known before anything is filled.
      while try handle.read(into: &buffer) > 0 {
        for position in 0..<buffer.count { try note(buffer[position], &pages) }
      }
      let isHolding = state.withLock(\.isHolding)
      if isHolding { continue }
      let waiting = state.withLock { state in
        defer { state.waiting = [] }
        return state.waiting
      }
      for address in waiting where try !answer(address, handle, &pages) {
        // An event is unread: it makes the descriptor readable, and the fault is tried again.
        state.withLock { $0.waiting.append(address) }
        wakeUp.signal()
      }
    }
  }

  private func note(_ event: UserfaultEvent, _ pages: inout [PageState]) throws {
    switch event {
    case .fault(let fault):
      state.withLock { state in
        state.faultCount += 1
        state.waiting.append(fault.address)
      }
    case .remove(let range):
      var address = range.start
      while address < range.end {
        let index = try pageIndex(of: address)
        state.withLock { $0.removedPages += 1 }
        // On shared memory a page that was never installed stays the source's page.
        if !isShared || pages[index] != .missing { pages[index] = .removed }
        address = address.advanced(by: ByteCount(pageSize.byteCount))
      }
    case let other: throw ControlFailure(.failed, "unexpected event \(other)")
    }
  }

  private func answer(
    _ address: HostAddress, _ handle: UserfaultHandle, _ pages: inout [PageState]
  ) throws -> Bool {
    let index = try pageIndex(of: address)
    var words = [UInt64](repeating: 0, count: pageSize.byteCount / 8)
    if pages[index] == .missing {
      try source.read(at: UInt64(index * pageSize.byteCount), into: &words)
    }
    let page = HostRange(pageOf: pageSize, holding: address)
    // unsafe: words are plain integers, whose bytes may be seen as bytes.
    switch unsafe try handle.copy(words.span.bytes, to: page.start) {
    case .complete:
      pages[index] = pages[index] == .removed ? .removed : .present
      return true
    case .exists:
      try handle.wake(page)
      return true
    case .retry: return false
    case .gone: return true
    case let other: throw ControlFailure(.failed, "copy to page \(index): \(other)")
    }
  }

  private func pageIndex(of address: HostAddress) throws -> Int {
    let piece = pieces.first {
      address.rawValue >= $0.hostAddress && address.rawValue - $0.hostAddress < $0.size
    }
    guard let piece else { throw ControlFailure(.failed, "a fault outside every region") }
    return Int(address.rawValue - piece.hostAddress + piece.offset) / pageSize.byteCount
  }
}

/// Carries a descriptor into a thread.
final class OwnedDescriptorBox: @unchecked Sendable {
  private var descriptor: OwnedDescriptor?
  init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = consume descriptor }
  func take() -> OwnedDescriptor? { descriptor.take() }
}
