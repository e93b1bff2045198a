public import Migration
public import Wire

/// What a journal, and a session that lives, tell an operator about one side of one VM.
public struct SessionOverview: Hashable, Sendable {
  /// The VM's name.
  public var vmName: String
  /// The side.
  public var side: JournalSide
  /// The last session.
  public var session: SessionID
  /// What its journal stands at, in words.
  public var standing: String
  /// Whether a recovery has something to do.
  public var isUnfinished: Bool
  /// What its process says; nil when none lives.
  public var status: SessionStatus?

  /// All sides of all VMs that have a journal here, by name; what cannot be read is in `problems`.
  public static func all(
    in directory: StateDirectory
  ) throws(StateError) -> (overviews: [SessionOverview], problems: [String]) {
    var overviews: [SessionOverview] = []
    var problems: [String] = []
    for path in try directory.journalPaths(side: .source) {
      do throws(JournalError) {
        let histories: [SessionHistory<SourceRecord>] = try SourceJournal.read(path: path)
        guard let last = histories.last else { continue }
        let marks = histories.leftLookPauses(of: last.binding, in: directory)
        overviews.append(SessionOverview(last, isLeftPaused: !marks.isEmpty, in: directory))
      } catch { problems.append("\(error)") }
    }
    for path in try directory.journalPaths(side: .destination) {
      do throws(JournalError) {
        let histories: [SessionHistory<DestinationRecord>] = try DestinationJournal.read(path: path)
        guard let last = histories.last else { continue }
        overviews.append(SessionOverview(last, in: directory))
      } catch { problems.append("\(error)") }
    }
    overviews.sort { ($0.vmName, $0.side.rawValue) < ($1.vmName, $1.side.rawValue) }
    return (overviews, problems.sorted())
  }

  private init(
    _ history: SessionHistory<SourceRecord>, isLeftPaused: Bool, in directory: StateDirectory
  ) {
    self.init(
      vmName: history.binding.vmName, side: .source, session: history.session,
      standing: history.records.last?.standing ?? "empty",
      // One that was given up in the middle of a look may have left the VM paused.
      isUnfinished: history.endsWithoutAWord || isLeftPaused, in: directory)
  }

  private init(_ history: SessionHistory<DestinationRecord>, in directory: StateDirectory) {
    self.init(
      vmName: history.binding.vmName, side: .destination, session: history.session,
      standing: history.records.last?.standing ?? "empty",
      isUnfinished: history.records.last?.isUnfinished ?? false, in: directory)
  }

  private init(
    vmName: String, side: JournalSide, session: SessionID, standing: String, isUnfinished: Bool,
    in directory: StateDirectory
  ) {
    self.vmName = vmName
    self.side = side
    self.session = session
    self.standing = standing
    self.isUnfinished = isUnfinished
    guard let name = try? VMName(vmName),
      let client = try? ControlSocketClient(
        path: directory.controlSocketPath(ofVM: name, side: side))
    else { return }
    status = (try? client.ask(.status))?.status
  }

  /// One line for a person.
  public var line: String {
    let now = status.map { status in
      let pages =
        status.totalPageCount > 0
        ? ", \(status.settledPageCount) of \(status.totalPageCount) pages"
          + (status.nanosecondsLeft.map { ", about \($0 / 1_000_000_000) s left" } ?? "")
        : ""
      return "a process has it: \(status.state)\(pages)\(status.isLinked ? "" : ", no link")"
        + (status.round.map { "; \($0.text)" } ?? "")
    }
    return "VM \(vmName) (\(side.name)): "
      + (now ?? "\(standing)\(isUnfinished ? "; no process has it" : "")")
      + " [session \(session.text)]"
  }

  /// What `line` tells, as one object of JSON.
  public var json: String {
    let object = Object(
      version: SessionRequest.currentVersion, vm: vmName, side: side.name, session: session.text,
      standing: standing, isUnfinished: isUnfinished, status: status)
    return String(decoding: ControlLine.bytes(of: object).dropLast(), as: UTF8.self)
  }

  private struct Object: Encodable {
    let version: Int
    let vm: String
    let side: String
    let session: String
    let standing: String
    let isUnfinished: Bool
    let status: SessionStatus?
  }
}

extension SourceRecord {
  /// What the source stands at with this as the last record.
  public var standing: String {
    switch self {
    case .opened: "begun, the VM is this host's"
    case .handedOff: "handed over, the VM may run at the destination"
    case .ranAcknowledged: "the VM runs at the destination, its memory is still needed here"
    case .resumed: "taken back, the VM is this host's again"
    case .fenced: "fenced by an operator, the VM is this host's again"
    case .completed: "completed, the VM has moved away"
    case .aborted: "given up, the VM is this host's"
    }
  }
}

extension DestinationRecord {
  /// What the destination stands at with this as the last record.
  public var standing: String {
    switch self {
    case .opened: "begun, the VM has not run here"
    case .prepared: "prepared, the VM waits for the source's word"
    case .goAccepted: "accepted, the VM may run here"
    case .runRuledOut: "the VM never ran here and will not"
    case .ran: "the VM runs here and lacks memory"
    case .complete: "completed, the VM is here whole"
    case .aborted: "given up, the VM never ran here"
    }
  }

  /// Whether something is left to do after it.
  public var isUnfinished: Bool {
    switch self {
    case .opened, .prepared, .goAccepted, .runRuledOut, .ran: true
    case .complete, .aborted: false
    }
  }
}
