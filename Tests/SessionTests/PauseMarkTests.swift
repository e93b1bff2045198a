import System
import Testing
import Wire

@testable import Session

@Suite("The mark of a paused guest")
struct PauseMarkTests {
  @Test("is seen by whoever comes later, and goes with the session")
  func life() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(
      statePath: scratch.path("state"), runPath: scratch.path("run"))
    let session = SessionID(high: 1, low: 2)
    try directory.prepare(session: session)
    let mark = PauseMark(of: session, in: directory)
    #expect(!mark.isSet)
    try mark.set()
    try mark.set()
    #expect(PauseMark(of: session, in: directory).isSet)
    #expect(!PauseMark(of: SessionID(high: 1, low: 3), in: directory).isSet)
    #expect(try FileStatus.of(path: mark.path).permissions == 0o600)
    try mark.clear()
    try mark.clear()
    #expect(!mark.isSet)
    try mark.set()
    try directory.remove(session: session)
    #expect(!FileSystem.exists(directory.path(of: session)))
  }

  @Test("of a look stands beside that of a lost link, and has a place of its own")
  func look() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(
      statePath: scratch.path("state"), runPath: scratch.path("run"))
    let session = SessionID(high: 1, low: 2)
    let mark = PauseMark(ofLookIn: session, in: directory)
    #expect(throws: SystemError.self) { try mark.set() }
    try directory.prepareLookPauses()
    try mark.set()
    #expect(mark.isSet && !PauseMark(of: session, in: directory).isSet)
    #expect(!PauseMark(ofLookIn: SessionID(high: 1, low: 3), in: directory).isSet)
    try mark.clear()
    #expect(!mark.isSet)
  }

  @Test("is not set where nobody could find it")
  func noPlace() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(
      statePath: scratch.path("state"), runPath: scratch.path("run"))
    let mark = PauseMark(of: SessionID(high: 1, low: 2), in: directory)
    #expect(!mark.isSet)
    #expect(throws: SystemError.self) { try mark.set() }
  }
}
