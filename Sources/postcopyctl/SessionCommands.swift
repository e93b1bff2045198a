import ArgumentParser
import CommandOptions
import Session
import System

/// `postcopyctl list`: what this host knows of its VMs' migrations.
struct ListCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list",
    abstract: "List the VMs that were moved from or to this host, and how that stands.")

  @OptionGroup var place: StateDirectoryOptions

  @Flag(help: "One JSON object a line.")
  var json = false

  func run() throws { try Overview.show(place, json: json) { _ in true } }
}

/// `postcopyctl status`: what sessions do now.
struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status",
    abstract: "Say what the sessions of this host, or of one VM, do now.",
    discussion: """
      Without --vm: the sessions that a process has or that are not finished. With it: that VM's \
      last session on each side, whatever became of it; exit code 1 when there is none.
      """)

  @Option(help: ArgumentHelp("One VM alone.", valueName: "name"))
  var vm: String?

  @OptionGroup var place: StateDirectoryOptions

  @Flag(help: "One JSON object a line.")
  var json = false

  func run() throws {
    let vm = vm
    let count = try Overview.show(place, json: json) { overview in
      if let vm { return overview.vmName == vm }
      return overview.isUnfinished || overview.status != nil
    }
    if let vm, count == 0 {
      StandardStream.error.write("postcopyctl: no session of VM \(vm) is known here\n")
      throw ExitCode(1)
    }
  }
}

/// `postcopyctl park` and `abort`: asks a session to stop.
struct ParkCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "park",
    abstract: "Stop a VM's session with everything kept; it can be gone on with later.",
    discussion: """
      Waits until the session has ended, and says how. Before the hand-over there is nothing to \
      keep: the migration is given up, and the VM runs on at the source.
      """)

  @OptionGroup var place: VMPlaceOptions

  func validate() throws { _ = try place.vmName() }

  func run() throws { try SessionAsking.ask(SessionRequest(.park), place) }
}

/// See `ParkCommand`.
struct AbortCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "abort",
    abstract: "Give a VM's migration up.",
    discussion: """
      Before the hand-over the VM runs on at the source. After it, the first request is refused \
      with what remains, and the second parks, as by SIGTERM. Waits until the session has ended, \
      and says how.
      """)

  @OptionGroup var place: VMPlaceOptions

  func validate() throws { _ = try place.vmName() }

  func run() throws { try SessionAsking.ask(SessionRequest(.abort), place) }
}

/// `postcopyctl switch`: ends the rounds.
struct SwitchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "switch",
    abstract: "End a VM's rounds now and switch it over, whatever is left to send.",
    discussion: """
      For modes hybrid and pre-copy, on the host that the VM runs on. What is left follows the VM, \
      as in post-copy. Answers as soon as that is ordered; a link that is lost meanwhile delays \
      the switch until it is back.
      """)

  @OptionGroup var place: VMPlaceOptions

  func validate() throws { _ = try place.vmName() }

  func run() throws { try SessionAsking.ask(SessionRequest(.switchOver), place, sides: [.source]) }
}

/// `postcopyctl bandwidth`: changes what a running session may send.
struct BandwidthCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bandwidth",
    abstract: "Limit what a VM's migration sends, or lift the limit, while it runs.",
    discussion: """
      On the host that the VM leaves; takes the place of --bandwidth. Pages that the VM waits for \
      are never held back. A worker that has to be started again takes the limit of its command \
      line.
      """)

  @OptionGroup var place: VMPlaceOptions

  @Option(
    name: .customLong("limit"),
    help: ArgumentHelp(
      "Bytes a second, all bulk connections together, or none.",
      valueName: "bytes per second|none"))
  var limitText: String

  func validate() throws {
    _ = try place.vmName()
    _ = try bytesPerSecond()
  }

  func run() throws {
    try SessionAsking.ask(
      SessionRequest(.limitBandwidth, bytesPerSecond: try bytesPerSecond()), place,
      sides: [.source])
  }

  /// nil for no limit.
  private func bytesPerSecond() throws -> UInt64? {
    if limitText == "none" { return nil }
    guard let limit = UInt64(limitText), SessionRequest.bandwidthLimits.contains(limit) else {
      throw ValidationError(
        "--limit must be \(SessionRequest.bandwidthLimits.lowerBound) to "
          + "\(SessionRequest.bandwidthLimits.upperBound) bytes per second, or none")
    }
    return limit
  }
}

/// What is printed about sessions.
private enum Overview {
  /// Prints those that are wanted; how many they are.
  @discardableResult
  static func show(
    _ place: StateDirectoryOptions, json: Bool, where isWanted: (SessionOverview) -> Bool
  ) throws -> Int {
    do throws(StateError) {
      let (overviews, problems) = try SessionOverview.all(in: try place.directory())
      let wanted = overviews.filter(isWanted)
      for overview in wanted {
        StandardStream.output.write((json ? overview.json : overview.line) + "\n")
      }
      for problem in problems { StandardStream.error.write("postcopyctl: \(problem)\n") }
      return wanted.count
    } catch {
      StandardStream.error.write("postcopyctl: \(error)\n")
      throw ExitCode(1)
    }
  }
}

/// Asks the living sessions of a VM, of both sides when this host has both and both are meant, and
/// tells what became of each.
private enum SessionAsking {
  static func ask(
    _ request: SessionRequest, _ place: VMPlaceOptions,
    sides: [JournalSide] = JournalSide.allCases
  ) throws {
    let name = try place.vmName()
    var problems: [String] = []
    var asked: [(JournalSide, ControlSocketClient)] = []
    // Both before either answers: the end of one side can be the end of the other.
    for side in sides {
      do throws(ControlSocketError) {
        let client = try ControlSocketClient(path: try path(of: name, side, place))
        try client.send(request)
        asked.append((side, client))
      } catch {
        if !error.isNobodyThere { problems.append("VM \(name) (\(side.name)): \(error)") }
      }
    }
    if asked.isEmpty, problems.isEmpty {
      let which = sides.count == 1 ? " as its \(sides[0].name)" : ""
      problems = ["no process has a session of VM \(name)\(which)"]
    }
    for (side, client) in asked {
      do throws(ControlSocketError) {
        let answer = try client.answer(to: request.verb)
        // Whatever is asked of a session that ends is answered with its end.
        if !request.verb.isStop, let outcome = answer.outcome {
          problems.append("VM \(name) (\(side.name)): not done, the session is \(outcome)")
          continue
        }
        let reason = answer.reason.map { ": \($0)" } ?? ""
        StandardStream.output.write(
          "VM \(name) (\(side.name)): \(answer.outcome ?? "done")\(reason)\n")
      } catch { problems.append("VM \(name) (\(side.name)): \(error)") }
    }
    for problem in problems { StandardStream.error.write("postcopyctl: \(problem)\n") }
    if !problems.isEmpty { throw ExitCode(1) }
  }

  private static func path(
    of name: VMName, _ side: JournalSide, _ place: VMPlaceOptions
  ) throws(ControlSocketError) -> String {
    do throws(StateError) {
      return try place.directory().controlSocketPath(ofVM: name, side: side)
    } catch { throw .refused("\(error)") }
  }
}
