import CLinux
import Glibc
import Migration
import Pages
import System
import Testing
import UFFD

@testable import FaultHandler

/// The JSON of Firecracker's generations, and what is wrong with others.
@Suite struct AttachDocumentTests {
  static let base: UInt64 = 0x7F00_0000_0000

  static func element(
    _ position: UInt64, base: UInt64? = nil, size: UInt64 = 8192, offset: UInt64? = nil,
    more: String = ""
  ) -> String {
    "{\"base_host_virt_addr\":\(base ?? Self.base + position * (1 << 30)),\"size\":\(size),"
      + "\"offset\":\(offset ?? position * size)\(more)}"
  }

  private func parse(_ elements: String...) throws(AttachError) -> AttachDocument {
    try AttachDocument(parsing: Array("[\(elements.joined(separator: ","))]".utf8))
  }

  @Test(arguments: [
    "", ",\"page_size_kib\":4096", ",\"page_size\":4096",
    ",\"page_size\":4096,\"page_size_kib\":4096", ",\"is_hotplug\":[{\"a\":\"]\"}],\"x\":null",
    ",\"page_size\":4096,\"page_size_kib\":4",
  ])
  func everyGenerationOfFieldsIsRead(_ more: String) throws {
    let document = try parse(Self.element(0, more: more), Self.element(1, more: more))
    #expect(document.layout.regions.count == 2)
    #expect(document.layout.regions.allSatisfy { $0.pageSize == .small })
    #expect(document.hostBases.map(\.rawValue) == [Self.base, Self.base + 1 << 30])
  }

  @Test(arguments: ["page_size_kib", "page_size"]) func hugePagesAreSaidInBytes(
    _ key: String
  ) throws {
    let document = try parse(
      Self.element(0, size: 4 << 20, more: ",\"\(key)\":2097152"))
    #expect(document.layout.regions[0].pageSize == .huge)
    #expect(document.layout.totalPageCount.rawValue == 2)
  }

  @Test func regionsAreOrderedByTheirPlaceInTheImage() throws {
    let document = try parse(
      Self.element(0, offset: 16384), Self.element(1, offset: 0), Self.element(2, offset: 8192))
    #expect(document.layout.regions.map(\.imageOffset.rawValue) == [0, 8192, 16384])
    #expect(document.hostBases[0].rawValue == Self.base + 1 << 30)
  }

  @Test func moreThanSevenRegionsAreTaken() throws {
    let elements = (0..<40).map { Self.element($0) }
    let document = try AttachDocument(
      parsing: Array("[\(elements.joined(separator: ","))]".utf8))
    #expect(document.layout.regions.count == 40)
  }

  @Test func whatCannotBeMigratedIsRefused() throws {
    let first = RegionIndex(0)
    let second = RegionIndex(1)
    let notJSON = "the body is not JSON, or a number in it is negative or too large"
    let cases: [(String, AttachError)] = [
      ("[]", .layout(.noRegions)),
      ("[\(Self.element(0, size: 0))]", .layout(.emptyRegion(first))),
      ("[\(Self.element(0, size: 5000))]", .layout(.unaligned(first))),
      ("[\(Self.element(0, offset: 512))]", .layout(.unaligned(first))),
      ("[\(Self.element(0, base: Self.base + 512))]", .unalignedHostAddress(first)),
      (
        "["
          + Self.element(0, base: Self.base + 4096, size: 2 << 20, more: ",\"page_size\":2097152")
          + "]",
        .unalignedHostAddress(first)
      ),
      (
        "[\(Self.element(0, base: UInt64.max - 4095, size: 8192))]", .hostRangeOutOfBounds(first)
      ),
      (
        "[\(Self.element(0)),\(Self.element(1, base: Self.base + 4096))]",
        .hostOverlap(first, second)
      ),
      (
        "[\(Self.element(0)),\(Self.element(1, offset: 4096))]",
        .layout(.overlap(first, second))
      ),
      (
        "[\(Self.element(0, size: 1 << 30, more: ",\"page_size\":1073741824"))]",
        .layout(.unsupportedPageSize(first, byteCount: 1 << 30))
      ),
      (
        "[\(Self.element(0, more: ",\"page_size\":65536"))]",
        .layout(.unsupportedPageSize(first, byteCount: 65536))
      ),
      (
        "[\(Self.element(0, size: 1 << 60, offset: 1 << 60))]", .layout(.outOfBounds(first))
      ),
      (
        "[{\"size\":4096,\"offset\":0}]",
        .malformed(reason: "region 0 has no base_host_virt_addr")
      ),
      (
        "[{\"base_host_virt_addr\":-4096,\"size\":4096,\"offset\":0}]",
        .malformed(reason: notJSON)
      ),
      (
        "[{\"base_host_virt_addr\":\"4096\",\"size\":4096,\"offset\":0}]",
        .malformed(
          reason: "region 0, base_host_virt_addr is not a whole number of at most 64 bits")
      ),
      ("[4096]", .malformed(reason: "region 0 is not a whole number of at most 64 bits")),
      ("[{\"size\":}]", .malformed(reason: notJSON)),
    ]
    for (body, expected) in cases {
      #expect(throws: expected, "\(body)") { try AttachDocument(parsing: Array(body.utf8)) }
    }
  }

  @Test func tooManyRegionsAreRefused() throws {
    let element = "{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0}"
    let count = ImageLayout.maximumRegionCount + 1
    let body = "[" + [String](repeating: element, count: count).joined(separator: ",") + "]"
    #expect(throws: AttachError.layout(.tooManyRegions(count: count))) {
      try AttachDocument(parsing: Array(body.utf8))
    }
  }

  @Test func theEndOfTheArrayIsFoundHoweverItIsCut() throws {
    let body = Array("[{\"a\":\"]}\\\"\",\"b\":[1,{}]},{}]\n".utf8)
    for cut in 0..<body.count {
      var scanner = ArrayEndScanner()
      try scanner.take(body[..<cut])
      #expect(scanner.isComplete == (cut == body.count - 1))
      try scanner.take(body[cut...])
      #expect(scanner.isComplete)
    }
  }

  @Test(arguments: ["{}", "GET / HTTP/1.1", "[]x", "[][]", "7", "\u{1}[]"])
  func whatIsNotOneArrayIsRefused(_ body: String) {
    #expect(throws: AttachError.notAnArray) {
      var scanner = ArrayEndScanner()
      try scanner.take(Array(body.utf8)[...])
    }
  }
}

/// The socket itself, with a userfaultfd of this process.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct AttachSocketTests {
  private let directory: TemporaryDirectory
  private let listener: AttachListenerBox
  private let userfault: UserfaultBox
  private let guest: GuestMemory

  init() throws {
    directory = try TemporaryDirectory()
    listener = AttachListenerBox(try AttachListener(path: directory.file("attach.sock")))
    userfault = UserfaultBox(try UserfaultDescriptor(requiring: [.removeEvents]))
    guest = try GuestMemory(pageCount: 4, userfault: userfault.value.handle)
  }

  @Test func aLiveSocketStaysAndAStaleOneIsReplaced() throws {
    #expect(throws: AttachError.self) { _ = try AttachListenerBox(AttachListener(path: path)) }
    // The first listener can still be reached.
    _ = try HandOffClient(path: path)
    // A bound socket whose owner is gone leaves its file.
    let stale = directory.file("stale.sock")
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(stale, &address)
    let number = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    // unsafe: the address is a local variable of the length that was just filled in.
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(number, .init(__sockaddr__: $0), socklen_t(length))
      }
    }
    close(number)
    try #require(result == 0)
    _ = try AttachListenerBox(AttachListener(path: stale))
  }

  private var path: String { directory.file("attach.sock") }
  private var number: Int32 { userfault.value.handle.rawValue }
  private var body: String {
    "[{\"base_host_virt_addr\":\(guest.start),\"size\":\(guest.byteCount),\"offset\":0}]"
  }

  private func attach() throws(AttachError) -> AttachedMemory {
    guard let memory = try listener.value.attach() else { throw .descriptorNeverCame }
    return memory
  }

  private func refusal() -> AttachError? {
    do throws(AttachError) {
      _ = try listener.value.attach()
      return nil
    } catch {
      return error
    }
  }

  @Test func aHandOffInOneMessageWithAnOpenSocket() throws {
    let client = try HandOffClient(path: path)
    try client.send(body, [number])
    let memory = try attach()
    #expect(memory.document.layout.totalPageCount.rawValue == 4)
    #expect(memory.memoryKinds == [.privateAnonymous])
    #expect(memory.process.identity.pid == getpid())
    #expect(memory.holding == .held(descriptorNumber: number))
    let hasFile = memory.memoryFile != nil
    #expect(!hasFile)
    let isClosedBefore = memory.isSocketClosed
    client.close()
    let isClosedAfter = memory.isSocketClosed
    #expect(!isClosedBefore && isClosedAfter)
  }

  @Test func theSocketIsForThisUserAlone() throws {
    var status = stat()
    #expect(unsafe stat(path, &status) == 0)
    #expect(status.st_mode & 0o777 == 0o600)
  }

  @Test func anImmediateEndOfFileIsFine() throws {
    let client = try HandOffClient(path: path)
    try client.send(body, [number])
    client.close()
    let memory = try attach()
    let isClosed = memory.isSocketClosed
    #expect(isClosed)
    #expect(memory.userfault.features == [.removeEvents])
  }

  @Test func aBodyInPiecesIsPutTogether() throws {
    let client = try HandOffClient(path: path)
    let middle = body.index(body.startIndex, offsetBy: 20)
    try client.send(String(body[..<middle]), [number])
    let rest = String(body[middle...])
    let sender = try GuestThread { try? client.send(rest) }
    #expect(try attach().document.layout.regions.count == 1)
    _ = try sender.value()
  }

  @Test func aMemoryFileMayComeAlong() throws {
    let file = unsafe clinux_memfd_create("memory", 0)
    let client = try HandOffClient(path: path)
    try client.send(body, [number, file])
    close(file)
    let memory = try attach()
    let hasFile = memory.memoryFile != nil
    #expect(hasFile)
  }

  @Test func aBodyWithoutDescriptorIsForgottenAndTheNextOneTaken() throws {
    let first = try HandOffClient(path: path)
    try first.send(body)
    let second = try HandOffClient(path: path)
    try second.send(body, [number])
    #expect(try attach().document.layout.regions.count == 1)
    first.close()
  }

  @Test func withoutADescriptorForEverItGivesUp() throws {
    let client = try GuestThread { [path, body] in
      for _ in 0..<AttachListener.maximumRetryCount {
        try? HandOffClient(path: path).send(body)
      }
    }
    #expect(refusal() == .descriptorNeverCame)
    _ = try client.value()
  }

  @Test func sharedMemoryIsToldFromPrivate() throws {
    let shared = try GuestMemory(
      pageCount: 4, isShared: true, userfault: userfault.value.handle)
    let client = try HandOffClient(path: path)
    try client.send(
      "[{\"base_host_virt_addr\":\(guest.start),\"size\":16384,\"offset\":0},"
        + "{\"base_host_virt_addr\":\(shared.start),\"size\":16384,\"offset\":16384}]", [number])
    #expect(try attach().memoryKinds == [.privateAnonymous, .shared])
  }

  @Test func aVMMWithoutADuplicateIsNoticed() throws {
    let made = try UserfaultDescriptor(requiring: [.removeEvents])
    let client = try HandOffClient(path: path)
    let descriptor = try made.duplicate()
    try client.send(body, [descriptor.rawValue])
    close(made)
    close(descriptor)
    #expect(try attach().holding == .notHeld)
  }

  @Test func whatIsNoUserfaultIsRefused() throws {
    let client = try HandOffClient(path: path)
    let file = unsafe clinux_memfd_create("memory", 0)
    defer { close(file) }
    try client.send(body, [file])
    #expect(refusal() == .notUserfault)
  }

  @Test func tooManyDescriptorsAreRefused() throws {
    let client = try HandOffClient(path: path)
    try client.send(body, [number, number, number])
    #expect(refusal() == .tooManyDescriptors(count: 3))
  }

  @Test func droppedDescriptorsAreNoticed() throws {
    let client = try HandOffClient(path: path)
    try client.send(body, [Int32](repeating: number, count: 12))
    #expect(refusal() == .descriptorsDropped)
  }

  @Test func aBodyThatIsCutShortIsRefused() throws {
    let client = try HandOffClient(path: path)
    try client.send(String(body.dropLast()), [number])
    client.close()
    #expect(refusal() == .bodyCutShort(byteCount: body.utf8.count - 1))
  }

  @Test func connectingAndClosingIsRefused() throws {
    try HandOffClient(path: path).close()
    #expect(refusal() == .bodyCutShort(byteCount: 0))
  }

  @Test func aBodyWithoutBoundIsRefused() throws {
    let client = try HandOffClient(path: path)
    let sender = try GuestThread {
      try? client.send("[" + String(repeating: " ", count: 200_000), [])
      client.close()
    }
    #expect(refusal() == .bodyTooLong)
    _ = try sender.value()
  }

  @Test func unmappedMemoryIsRefused() throws {
    let client = try HandOffClient(path: path)
    try client.send("[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0}]", [number])
    #expect(refusal() == .unmapped(RegionIndex(0), address: 4096))
  }

  @Test func stoppingEndsTheWait() throws {
    let stop = try WakeEvent()
    stop.signal()
    let isAttached = try listener.value.attach(or: stop) != nil
    // With a client that says nothing, too.
    let silent = try HandOffClient(path: path)
    let isAttachedToSilence = try listener.value.attach(or: stop) != nil
    #expect(!isAttached && !isAttachedToSilence)
    silent.close()
  }

  private func close(_ owned: consuming UserfaultDescriptor) {}
  private func close(_ owned: consuming OwnedDescriptor) {}
  private func close(_ number: Int32) { _ = Glibc.close(number) }
}

/// Suites are copied; what they hold must be too.
final class AttachListenerBox: Sendable {
  let value: AttachListener
  init(_ value: consuming AttachListener) { self.value = value }
}

final class UserfaultBox: Sendable {
  let value: UserfaultDescriptor
  init(_ value: consuming UserfaultDescriptor) { self.value = value }
}
