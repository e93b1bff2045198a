import Glibc
import Migration
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

  @Test("of a look counts in every session of a VM that is here and whose VMM lives")
  func left() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(
      statePath: scratch.path("state"), runPath: scratch.path("run"))
    try directory.prepareLookPauses()
    let epoch = Epoch(rawValue: 4)
    func history(_ low: UInt64, _ vmm: ProcessIdentity, _ last: SourceRecord) throws
      -> SessionHistory<SourceRecord>
    {
      let session = SessionID(high: 1, low: low)
      return SessionHistory(
        binding: try Marks.binding(Marks.boot, vmm),
        records: [.opened(session: session, epoch: epoch, mode: .hybrid), last])
    }
    let living = try ProcessIdentity.of(pid: getpid())
    let first = try history(1, living, .aborted(epoch: epoch))
    let second = try history(2, living, .aborted(epoch: epoch))
    let mark = PauseMark(ofLookIn: first.session, in: directory)
    #expect([first, second].leftLookPauses(of: first.binding, in: directory).isEmpty)
    try mark.set()
    let left = [first, second].leftLookPauses(of: second.binding, in: directory)
    #expect(left.map(\.path) == [mark.path])
    // Given away, it is nobody's to resume.
    let given = try history(2, living, .handedOff(epoch: epoch))
    #expect([first, given].leftLookPauses(of: given.binding, in: directory).isEmpty)
    // Its pause has ended with it.
    let dead = try history(1, Marks.vmm, .aborted(epoch: epoch))
    #expect([dead].leftLookPauses(of: dead.binding, in: directory).isEmpty)
    #expect([dead].lookPauses(of: dead.binding, in: directory).map(\.path) == [mark.path])
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
