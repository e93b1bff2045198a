import Glibc
import Pages
import Testing

@testable import System

@Suite("Processes, signals and clocks")
struct ProcessTests {
  @Test("A process is its pid and its start, whatever its command is called")
  func identity() throws {
    let fields = (3...21).map { "\($0)" }.joined(separator: " ")
    #expect(ProcessIdentity.startTicks(inStat: "7 (a) b) c) \(fields) 4711 23 24") == 4711)
    #expect(ProcessIdentity.startTicks(inStat: "7 (a)") == nil)
    #expect(ProcessIdentity.startTicks(inStat: "") == nil)
    let current = try ProcessIdentity.current()
    #expect(current.pid == getpid() && current.isAlive)
    #expect(!ProcessIdentity(pid: current.pid, startTicks: current.startTicks + 1).isAlive)
    #expect(try BootID.current() == BootID.current())
  }

  @Test("A process that does not exist is ESRCH, and init is alive")
  func handle() throws {
    let nobody = Int32.max
    let error = #expect(throws: SystemError.self) { _ = try ProcessIdentity.of(pid: nobody) }
    #expect(error?.errno == .noSuchProcess)
    let own = try ProcessHandle.open(pid: getpid())
    let hasEnded = own.hasEnded()
    #expect(!hasEnded)
  }

  @Test("Signals become events, one after the other, and a broken pipe is an error")
  func signals() async {
    await #expect(processExitsWith: .success) {
      let source = try SignalSource()
      // raise() goes to this thread: in a test process others run that block nothing.
      let none = try source.next()
      try #require(none == nil)
      raise(SIGTERM)
      raise(SIGHUP)
      var seen: [SessionSignal] = []
      while let signal = try source.next() { seen.append(signal) }
      try #require(Set(seen) == [.terminate, .hangUp])
      var pipe: [Int32] = [0, 0]
      try #require(unsafe Glibc.pipe(&pipe) == 0)
      close(pipe[0])
      var byte: UInt8 = 0
      try #require(unsafe write(pipe[1], &byte, 1) == -1)
      try #require(errno == EPIPE)
    }
  }

  @Test("The numbers of the signals are the kernel's")
  func signalNumbers() {
    #expect(SessionSignal.allCases.map(\.rawValue) == [SIGHUP, SIGINT, SIGTERM])
  }

  @Test("A host has room while no more threads want to run than it has processors")
  func processors() {
    #expect(HostProcessors.haveRoom(loadAverage: "0.20 0.18 0.12 2/80 11206", onlineCount: 2))
    #expect(!HostProcessors.haveRoom(loadAverage: "0.20 0.18 0.12 3/80 11206", onlineCount: 2))
    #expect(HostProcessors.haveRoom(loadAverage: nil, onlineCount: 2))
    #expect(HostProcessors.haveRoom(loadAverage: "what", onlineCount: 2))
    let allowed = HostProcessors.allowedCount()
    #expect(allowed >= 1 && allowed <= sysconf(Int32(_SC_NPROCESSORS_CONF)))
  }

  @Test("Times of day are UTC, over leap days and centuries")
  func timestamps() {
    let rows: [(Int64, String)] = [
      (0, "1970-01-01T00:00:00.007Z"), (951_782_399, "2000-02-28T23:59:59.007Z"),
      (951_782_400, "2000-02-29T00:00:00.007Z"), (951_868_800, "2000-03-01T00:00:00.007Z"),
      (1_709_164_800, "2024-02-29T00:00:00.007Z"), (4_107_542_399, "2100-02-28T23:59:59.007Z"),
      (4_107_542_400, "2100-03-01T00:00:00.007Z"), (1_798_761_599, "2026-12-31T23:59:59.007Z"),
    ]
    for (seconds, text) in rows {
      #expect(WallClock.timestamp(secondsSince1970: seconds, milliseconds: 7) == text)
    }
  }

  @Test("Small files are read whole, and large ones refused")
  func smallFiles() throws {
    #expect(FileSystem.text(ofSmallFile: "/proc/sys/kernel/ostype") == "Linux")
    #expect(FileSystem.text(ofSmallFile: "/proc/no-such-file") == nil)
    let error = #expect(throws: SystemError.self) {
      _ = try FileSystem.contents(ofSmallFile: "/dev/zero", maximumByteCount: 10_000)
    }
    #expect(error?.errno == .fileTooLarge)
  }
}
