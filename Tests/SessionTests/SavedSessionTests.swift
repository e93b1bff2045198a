import Glibc
import Migration
import System
import Testing
import Wire

@testable import Session

@Suite("Saved sessions")
struct SavedSessionTests {
  let scratch: ScratchDirectory
  let directory: StateDirectory
  let name: VMName

  init() throws {
    scratch = try ScratchDirectory()
    directory = StateDirectory(statePath: scratch.path("state"), runPath: scratch.path("run"))
    name = try VMName("web1")
    try directory.prepare(vm: name)
  }

  private var path: String { directory.savedSessionPath(ofVM: name, side: .destination) }

  private func read(
    _ vm: String = "web1", boot: BootID? = nil
  ) throws -> SavedSession {
    try SavedSessionFile.read(
      path, vmName: try VMName(vm), side: .destination, boot: boot ?? BootID.current())
  }

  private func context() throws -> WorkerContext {
    let context = WorkerContext(arguments: ["--vm", "web1", "--from", "unix:/s"])
    let desk = try SessionDesk(
      SessionStatus(vmName: name, side: .destination, state: "dialing"))
    try context.begin(in: directory, vmName: name, side: .destination, control: desk)
    return context
  }

  @Test("What a worker saved comes back whole, and is for this user alone")
  func whole() throws {
    let context = try context()
    #expect(try FileStatus.of(path: path).permissions == 0o600)
    let saved = try read()
    #expect(saved.arguments == ["--vm", "web1", "--from", "unix:/s"])
    #expect(saved.workingDirectory == (try FileSystem.resolvedPath(".")))
    #expect(saved.parent?.pid == getppid())
    // Parked: it stays. Over: it goes.
    context.end(exitCode: 12, isOver: false)
    #expect(try read() == saved)
    try self.context().end(exitCode: 0, isOver: true)
    #expect(throws: SavedSessionError.none(path: path)) { _ = try read() }
  }

  @Test("Another VM's, another boot's, somebody else's and damaged ones are refused by name")
  func refused() throws {
    try context().end(exitCode: 12, isOver: false)
    #expect(throws: SavedSessionError.foreign(path: path, vmName: "web1")) {
      _ = try read("web2")
    }
    #expect(throws: SavedSessionError.otherBoot(path: path)) { _ = try read(boot: Marks.boot) }
    #expect(throws: SavedSessionError.notUnderstood(path: path)) {
      _ = try SavedSessionFile.read(path, vmName: name, side: .source, boot: nil)
    }
    try #require(unsafe chmod(path, 0o620) == 0)
    #expect(throws: SavedSessionError.notPrivate(path: path)) { _ = try read() }
    try #require(unsafe chmod(path, 0o600) == 0)
    let whole = try FileSystem.contents(ofSmallFile: path)
    let version2 = String(decoding: whole, as: UTF8.self)
      .replacing("\"version\":1", with: "\"version\":2")
    for bytes in [[], Array(whole.dropLast(3)), Array(version2.utf8)] {
      try FileSystem.replaceFile(path, with: bytes, permissions: 0o600)
      #expect(throws: SavedSessionError.notUnderstood(path: path)) { _ = try read() }
    }
  }

  @Test("Two state directories with a VM of one name have two control sockets; one has one")
  func controlSocketNames() throws {
    let other = StateDirectory(
      statePath: scratch.path("other"), runPath: scratch.path("run"))
    let path = directory.controlSocketPath(ofVM: name, side: .source)
    #expect(other.controlSocketPath(ofVM: name, side: .source) != path)
    #expect(directory.controlSocketPath(ofVM: name, side: .destination) != path)
    #expect(directory.controlSocketPath(ofVM: try VMName("web2"), side: .source) != path)
    let roundabout = StateDirectory(
      statePath: scratch.path("state/vms/.."), runPath: scratch.path("run"))
    #expect(roundabout.controlSocketPath(ofVM: name, side: .source) == path)
  }

  @Test("The overview tells each side's last session, with a living one's own words")
  func overview() throws {
    let binding = try Marks.binding(Marks.boot)
    let base = Epoch(rawValue: 4)
    do {
      var source = try SourceJournal.open(vm: name, in: directory)
      try source.append(
        .opened(session: Marks.session, epoch: base, mode: .quick), binding: binding)
      try source.append(.handedOff(epoch: base.advanced(by: 1)), binding: binding)
      var destination = try DestinationJournal.open(vm: name, in: directory)
      try destination.append(
        .opened(session: Marks.session, epoch: base, mode: .quick), binding: binding)
      try destination.append(.complete(epoch: base), binding: binding)
    }
    let context = try context()
    let (overviews, problems) = try SessionOverview.all(in: directory)
    #expect(problems == [])
    #expect(overviews.map(\.side) == [.source, .destination])
    #expect(overviews.map(\.isUnfinished) == [true, false])
    #expect(overviews.map { $0.status?.state } == [nil, "dialing"])
    #expect(overviews[0].line.contains("handed over") && overviews[1].line.contains("dialing"))
    context.end(exitCode: 0, isOver: true)
    let empty = StateDirectory(statePath: scratch.path("none"), runPath: scratch.path("run"))
    #expect(try SessionOverview.all(in: empty).overviews == [])
  }
}

@Suite("Fencing a source")
struct SourceFenceTests {
  let scratch: ScratchDirectory
  let directory: StateDirectory
  let name: VMName
  static let base = Epoch(rawValue: 6)

  init() throws {
    scratch = try ScratchDirectory()
    directory = StateDirectory(statePath: scratch.path("state"), runPath: scratch.path("run"))
    name = try VMName("web1")
  }

  private func write(_ records: [SourceRecord]) throws {
    try directory.prepare(vm: name)
    var journal = try SourceJournal.open(vm: name, in: directory)
    let opened = SourceRecord.opened(session: Marks.session, epoch: Self.base, mode: .postCopy)
    for record in [opened] + records { try journal.append(record, binding: Marks.binding()) }
  }

  @Test("A VM that was handed over and never heard of is the source's again, in the next epoch")
  func handedOff() throws {
    try write([.handedOff(epoch: Self.base.advanced(by: 1))])
    let fenced = try SourceFence.raise(vm: name, in: directory)
    #expect(fenced.session == Marks.session && fenced.epoch == Self.base.advanced(by: 2))
    let records = try SourceJournal.open(vm: name, in: directory).histories[0].records
    #expect(records.last == .fenced(epoch: Self.base.advanced(by: 2)))
    #expect(SourceStanding(records) == .kept)
    // The recovery lets the VM run, as after RESUMED.
    let core = SourceCore(recovering: records, vm: .stopped)
    #expect(core?.state == .resuming)
    #expect(throws: SourceFenceError.kept(vmName: "web1", Marks.session)) {
      _ = try SourceFence.raise(vm: name, in: directory)
    }
  }

  @Test("No other standing is fenced, and nothing is written then")
  func refused() throws {
    #expect(throws: SourceFenceError.noSession(vmName: "web1")) {
      _ = try SourceFence.raise(vm: name, in: directory)
    }
    #expect((try? FileStatus.of(path: directory.statePath)) == nil)
    let next = Self.base.advanced(by: 1)
    let rows: [([SourceRecord], SourceFenceError)] = [
      ([], .kept(vmName: "web1", Marks.session)),
      ([.aborted(epoch: Self.base)], .kept(vmName: "web1", Marks.session)),
      (
        [.handedOff(epoch: next), .resumed(epoch: next.advanced(by: 1))],
        .kept(vmName: "web1", Marks.session)
      ),
      (
        [.handedOff(epoch: next), .ranAcknowledged(epoch: next)],
        .ran(vmName: "web1", Marks.session)
      ),
      (
        [.handedOff(epoch: next), .completed(epoch: next)],
        .completed(vmName: "web1", Marks.session)
      ),
    ]
    for (records, reason) in rows {
      try write(records)
      #expect(throws: reason) { _ = try SourceFence.raise(vm: name, in: directory) }
      let last = try SourceJournal.open(vm: name, in: directory).histories.last?.records
      #expect(last?.dropFirst() == records[...])
    }
  }

  @Test("A session that lives is not fenced")
  func living() throws {
    try write([.handedOff(epoch: Self.base.advanced(by: 1))])
    let lock = try VMLock.take(vm: name, side: .source, in: directory)
    let error = #expect(throws: SourceFenceError.self) {
      _ = try SourceFence.raise(vm: name, in: directory)
    }
    guard case .state(.busy) = error else {
      throw TestProcessError(description: "\(String(describing: error))")
    }
    _ = consume lock
  }
}
