import ArgumentParser
import CommandOptions
import Migration
import PageServer
import Pages
import Reporting
import Session
import System
import VMM
import Wire

/// `page-server export`: writes the frozen memory of a VM that was handed over as a file.
struct ExportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export",
    abstract: "Write the frozen memory of a VM that was handed over as a file.",
    discussion: """
      The file can be served anywhere. For a VM whose destination runs and cannot reach this host \
      any more. Carry the file to any host that the destination can reach, its own too, and serve \
      it there:
        page-server export --vm web --memory file:/dev/shm/web --token-file web.token --to web.pcx
        page-server send --memory export:web.pcx --vmm none --vm web --token-file web.token \\
          --listen unix:/run/web-salvage.sock

      SIGINT and SIGTERM stop it and leave nothing behind.
      Exit codes: 0 written, whole and durable · 10 refused or failed, nothing was written · \
      64 wrong usage · 70 a bug of ours.
      """)

  @OptionGroup var options: ExportOptions

  @Option(
    help: ArgumentHelp(
      "Where the VM's memory is, as it was for send.", valueName: "source"))
  var memory: String

  @Option(
    help: ArgumentHelp(
      "Asks that VMM first whether the VM stands still: microvm:SOCKET; none asks nobody.",
      valueName: "front end"))
  var vmm = "none"

  @Option(help: ArgumentHelp("The file to write; must not exist.", valueName: "file"))
  var to: String

  @Option(
    help: ArgumentHelp(
      "Leave out what the destination has: its page-state file, or a copy of it.",
      discussion: "Without it, every page that is not zeros is written.", valueName: "file"))
  var missing: String?

  @Option(
    help: ArgumentHelp(
      "The destination's regions as START-END[,START-END…] in hexadecimal, in its order.",
      discussion: """
        Offsets in the image. Needed with --missing alone, and only when the destination lists its \
        regions in another order than they have in the image.
        """, valueName: "regions"))
  var regions: String?

  @Flag(help: "Do not encrypt: whoever can read the file can read the guest's memory.")
  var plain = false

  func validate() throws {
    _ = try options.vmName()
    _ = try memorySource()
    _ = try frontEnd()
    guard !to.isEmpty else { throw ValidationError("--to needs the name of a file") }
    if regions != nil, missing == nil {
      throw ValidationError("--regions says how --missing is to be read; give both")
    }
  }

  func run() throws {
    BugExit.install()
    // Before any thread: they inherit what is blocked.
    let signals = try SignalSource()
    let console = options.console()
    do {
      try write(console, signals)
    } catch let refusal as Refusal {
      console.log(.error, refusal.reason)
      throw ExitCode(Ending.refused.exitCode)
    } catch let error as ExportError {
      console.log(.error, error.description)
      throw ExitCode(Ending.refused.exitCode)
    }
  }

  private func write(_ console: Console, _ signals: borrowing SignalSource) throws {
    let name = try options.vmName()
    let token = try options.token()
    let preparation = try ExportPreparation(
      vmName: name, memory: try memorySource(), frontEnd: try frontEnd(), token: token,
      directory: try options.directory())
    let session = preparation.session
    var request = ExportRequest(
      vmName: name, session: session.session, epoch: session.epoch, mode: session.mode,
      proof: session.proof, token: token, path: to)
    request.isEncrypted = !plain
    if plain {
      console.log(
        .warning,
        "--plain: \(to) will hold guest memory in the clear; only its mode 0600 protects it")
    }
    let awaited = try missing.map {
      try ExportAwaited.openOrRefuse(
        $0, session: session.session, layout: try destinationLayout(preparation.backing))
    }
    var exporter = try Exporter(request, of: preparation.backing, awaited: awaited)
    let estimate = try exporter.estimate()
    tell(session.session, estimate, console)
    let header = try writeShowingProgress(&exporter, estimate, console, signals)
    withExtendedLifetime(preparation) {}
    console.log(.notice, "wrote \(to): \(ExportText.summary(header))")
    console.flush()
  }

  private func tell(_ session: SessionID, _ estimate: UInt64, _ console: Console) {
    console.log(
      .notice,
      "session \(session.text) is handed over; the file will have at most "
        + Amounts.bytes(estimate))
    let free = try? FileSystem.availableByteCount(FileSystem.directory(of: to))
    if let free, free < estimate {
      console.log(
        .warning,
        "only \(Amounts.bytes(free)) are free there: the export fits only if enough of the pages "
          + "turn out to be zeros")
    }
  }

  private func writeShowingProgress(
    _ exporter: inout Exporter, _ estimate: UInt64, _ console: Console,
    _ signals: borrowing SignalSource
  ) throws -> ExportHeader {
    let started = MonotonicClock.now()
    var rate = RateMeter()
    let vm = options.vm
    return try exporter.write(estimate: estimate) { progress in
      let now = MonotonicClock.now()
      let elapsed = now.nanoseconds(since: started)
      console.show(
        ProgressSample(
          vm: vm, phase: "exporting", elapsedNanoseconds: elapsed,
          donePageCount: progress.donePageCount, totalPageCount: progress.totalPageCount,
          byteCount: progress.contentByteCount,
          bytesPerSecond: rate.bytesPerSecond(
            byteCount: progress.contentByteCount, elapsedNanoseconds: elapsed)),
        now: now)
      return !Self.hasStopSignal(signals)
    }
  }

  private static func hasStopSignal(_ signals: borrowing SignalSource) -> Bool {
    // Signals that cannot be read stop nothing: the export goes on as if there were none.
    while let signal = try? signals.next() {
      switch signal {
      case .interrupt, .terminate: return true
      case .hangUp: continue
      }
    }
    return false
  }

  /// The image as the destination counts its pages.
  private func destinationLayout(_ backing: any MemoryBacking) throws -> ImageLayout {
    guard let regions else { return backing.naturalLayout }
    var described: [Region] = []
    for text in regions.split(separator: ",", omittingEmptySubsequences: false) {
      let bounds = text.split(separator: "-", omittingEmptySubsequences: false)
        .map { UInt64($0.hasPrefix("0x") ? $0.dropFirst(2) : $0, radix: 16) }
      guard bounds.count == 2, let start = bounds[0], let end = bounds[1], start < end else {
        throw ValidationError("--regions: '\(text)' is no START-END in hexadecimal")
      }
      let size = backing.naturalLayout.regions.first?.pageSize ?? .small
      described.append(
        Region(
          index: RegionIndex(described.count), imageOffset: ByteCount(rawValue: start),
          byteCount: ByteCount(rawValue: end - start), pageSize: size))
    }
    return try SourceImage.of(backing).agree(with: described)
  }

  private func memorySource() throws -> MemorySource {
    do throws(MemorySourceError) {
      return try MemorySource(parsing: memory)
    } catch { throw ValidationError("--memory: \(error)") }
  }

  private func frontEnd() throws -> any VMMFrontEnd {
    do throws(VMMSelectionError) {
      return try VMMSelection.parse(vmm).makeFrontEnd(vmName: options.vm)
    } catch { throw ValidationError("\(error)") }
  }
}

/// `page-server inspect`: says what an export is, and whether it is whole.
struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Say what an export file holds, and check all of it.",
    discussion: """
      Reads the whole file. With the token of its session every byte is authenticated, without it \
      only accidents are found.
      Exit codes: 0 whole · 10 not to be used · 64 wrong usage.
      """)

  @Argument(help: "The export.")
  var file: String

  @Option(help: ArgumentHelp("The token file of its session.", valueName: "file"))
  var tokenFile: String?

  func run() throws {
    BugExit.install()
    do {
      let token = try tokenFile.map { try ExportOptions.readToken($0) }
      let export = try ExportFile.open(file, token: token)
      StandardStream.output.write(ExportText.description(export.header))
      try export.verify()
      StandardStream.output.write(
        token == nil
          ? "whole: all checksums hold (without its token it may still be a forgery)\n"
          : "whole: every byte is what was exported with this token\n")
    } catch let refusal as Refusal {
      StandardStream.error.write("page-server: \(refusal.reason)\n")
      throw ExitCode(Ending.refused.exitCode)
    } catch let error as ExportError {
      StandardStream.error.write("page-server: \(error)\n")
      throw ExitCode(Ending.refused.exitCode)
    }
  }
}
