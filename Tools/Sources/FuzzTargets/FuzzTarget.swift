/// What reads bytes that somebody else wrote, each behind one function from any bytes to nothing:
/// a property that does not hold stops the process, as a trap in the code under test does.
///
/// libFuzzer calls `run` with inputs of its own making; the unit tests with those of the corpus.
public enum FuzzTarget: String, CaseIterable, Sendable {
  /// A stream of frames through the gates of both sides, and every payload decoder behind them.
  case frames
  /// Hellos into the source's admission, welcomes and refusals into the destination.
  case handshake
  /// A VMM's description of its memory on the attach socket.
  case attach
  /// A journal file, up to the cores that go on from it.
  case journal
  /// A page-state file, and the ledger over it.
  case pageStates = "page-states"
  /// Both cores between a hostile peer and an honest host.
  case cores
  /// What comes over a control socket, in both directions, and over a keeper's channel.
  case control
  /// The files that a restarted process begins with: the saved session, the saved attachment.
  case saved
  /// A file with the source's frozen memory.
  case export

  /// Takes one input. Keeps nothing from one call to the next.
  public func run(_ input: [UInt8]) {
    switch self {
    case .frames: FrameStream.run(input)
    case .handshake: Introductions.run(input)
    case .attach: AttachBody.run(input)
    case .journal: JournalFile.run(input)
    case .pageStates: PageStates.run(input)
    case .cores: HostilePeer.run(input)
    case .control: ControlLines.run(input)
    case .saved: SavedFiles.run(input)
    case .export: ExportedFile.run(input)
    }
  }

  /// Whether the input makes an export file that a page server serves.
  public static func exportServes(_ input: [UInt8]) -> Bool { ExportedFile.serves(input) }

  /// Longer inputs find nothing that shorter ones do not, and cost time.
  public var maximumInputByteCount: Int {
    switch self {
    case .frames, .attach, .export: 8192
    case .handshake, .journal, .control, .saved: 4096
    case .pageStates, .cores: 1024
    }
  }
}
