import Glibc
import Pages
import Testing

@testable import System

@Suite("Descriptors between processes")
struct DescriptorPassingTests {
  private func deadline() -> Instant {
    MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
  }

  @Test("Packets keep their ends and their descriptors")
  func packets() throws {
    var pair = try DescriptorStreamPair.packets()
    let left = pair.takeFirst()
    let right = DescriptorStream(adopting: pair.takeSecond())
    let event = try OwnedDescriptor.event()
    try left.send([1, 2, 3], descriptors: [event.rawValue])
    try left.send([4])
    var bytes = [UInt8](repeating: 0, count: 16)
    var descriptors = DescriptorList()
    var received = try right.receive(
      into: &bytes, descriptors: &descriptors, until: deadline())
    #expect(received == .bytes(3) && bytes.prefix(3) == [1, 2, 3])
    let count = descriptors.count
    try #require(count == 1)
    let isSame = DescriptorIdentity.isSameOpenFile(descriptors[0], event.rawValue)
    #expect(isSame)
    received = try right.receive(into: &bytes, descriptors: &descriptors, until: deadline())
    #expect(received == .bytes(1) && bytes[0] == 4)
    received = try right.receive(
      into: &bytes, descriptors: &descriptors, until: Instant(nanoseconds: 0))
    #expect(received == .timedOut)
  }

  @Test("A peer that reads nothing blocks nobody; one that is gone is EPIPE")
  func full() throws {
    var pair = try DescriptorStreamPair.packets()
    let left = pair.takeFirst()
    do {
      let right = pair.takeSecond()
      let packet = [UInt8](repeating: 7, count: 8192)
      let error = #expect(throws: SystemError.self) {
        for _ in 0..<10_000 { try left.send(packet) }
      }
      #expect(error?.errno == .tryAgain)
      _ = consume right
    }
    // The first one says that what lay there was never read.
    for errno in [Errno.connectionReset, .brokenPipe] {
      let error = #expect(throws: SystemError.self) { try left.send([1]) }
      #expect(error?.errno == errno)
    }
    let hasEnded = left.hasEnded()
    #expect(hasEnded)
  }

  @Test("A pidfd that was passed on is known again; one of a reaped process is ESRCH")
  func adoptedHandle() throws {
    let own = try ProcessHandle.open(pid: getpid())
    let adopted = try ProcessHandle.adopt(try own.descriptor.duplicate())
    let identity = adopted.identity
    #expect(try identity == ProcessIdentity.current())
    let error: SystemError?
    do {
      let null = try OwnedDescriptor.open("/dev/null", flags: O_RDWR)
      let child = try ChildProcess(["true"], output: null, error: null)
      let copy = try child.handle.descriptor.duplicate()
      _ = child.waitForEnd(until: deadline())
      error = #expect(throws: SystemError.self) { _ = try ProcessHandle.adopt(copy.duplicate()) }
    }
    #expect(error?.errno == .noSuchProcess)
    let notOne = #expect(throws: SystemError.self) {
      _ = try ProcessHandle.adopt(OwnedDescriptor.event())
    }
    #expect(notOne?.errno == .invalidArgument)
  }

  @Test("A process without a userfaultfd gives none, and one that is gone is an error")
  func nothingTaken() throws {
    let null = try OwnedDescriptor.open("/dev/null", flags: O_RDWR)
    let child = try ChildProcess(["sleep", "60"], output: null, error: null)
    let taken = try TakenDescriptor.userfaultfds(of: child.handle)
    let count = taken.count
    #expect(count == 0)
    try child.send(signal: SIGKILL)
    _ = child.waitForEnd(until: deadline())
    let error = #expect(throws: SystemError.self) {
      _ = try TakenDescriptor.userfaultfds(of: child.handle)
    }
    #expect(error?.errno == .noSuchEntry)
  }

  @Test("A service manager's descriptors are for the process that it names alone")
  func passed() {
    let rows: [([String: String], [String])] = [
      ([:], []), (["LISTEN_PID": "7", "LISTEN_FDS": "2"], ["3 unknown", "4 unknown"]),
      (["LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"], ["3 a", "4 b"]),
      (["LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": ":b:c"], ["3 unknown", "4 b"]),
      (["LISTEN_PID": "8", "LISTEN_FDS": "2"], []), (["LISTEN_FDS": "2"], []),
      (["LISTEN_PID": "7", "LISTEN_FDS": "0"], []), (["LISTEN_PID": "7", "LISTEN_FDS": "x"], []),
      (["LISTEN_PID": "7", "LISTEN_FDS": "65"], []),
    ]
    for (environment, expected) in rows {
      let passed = ServiceDescriptors.passed(processID: 7) { environment[$0] }
      #expect(passed.map { "\($0.number) \($0.name)" } == expected)
    }
  }

  @Test("A name that would be another message is not sent to a service manager")
  func storeNames() throws {
    let event = try OwnedDescriptor.event()
    for name in ["", "a b", "a:b", "a\nFDSTORE=1", String(repeating: "n", count: 256)] {
      let error = #expect(throws: SystemError.self) {
        try ServiceDescriptors.store(event.rawValue, name: name, at: "@nobody-listens-here")
      }
      #expect(error?.errno == .invalidArgument)
    }
    let error = #expect(throws: SystemError.self) {
      try ServiceDescriptors.store(event.rawValue, name: "a", at: "@nobody-listens-here")
    }
    #expect(error?.errno == .connectionRefused)
  }

  @Test("A file is replaced whole, with its mode, and nothing is left beside it")
  func replacing() throws {
    let directory = "/dev/shm/postcopy-replace-\(getpid())"
    try FileSystem.createDirectories(directory, permissions: 0o700)
    let path = directory + "/file"
    defer {
      _ = unsafe unlink(path)
      _ = unsafe rmdir(directory)
    }
    for text in ["first, and longer", "second"] {
      // What a killed writer left behind.
      _ = try OwnedDescriptor.open(path + ".new", flags: O_WRONLY | O_CREAT)
      try FileSystem.replaceFile(path, with: Array(text.utf8), permissions: 0o600)
      #expect(FileSystem.text(ofSmallFile: path) == text)
    }
    #expect(try FileStatus.of(path: path).permissions == 0o600)
    #expect(try FileSystem.entryNames(ofDirectory: directory) == ["file"])
    #expect(try FileSystem.absolutePath("/a/../b") == "/a/../b")
    #expect(try FileSystem.absolutePath("x") == FileSystem.resolvedPath(".") + "/x")
  }
}
