import Foundation
package import LinkFaultKit
package import Pages
import System
import VMM

/// A running `linkfault run` between the two sides of a migration.
package final class RelayProcess {
  package let program: Program
  private let controlPath: String

  /// Starts it and waits until it listens.
  package init(
    listen: String, connect: String, in workspace: Workspace, options: [String] = []
  ) throws {
    controlPath = workspace.file("relay-control.sock")
    program = try Program(
      "linkfault",
      [
        Binaries.path("linkfault"), "run", "--listen", listen, "--connect", connect, "--control",
        controlPath,
      ] + options)
    try waitFor("listening")
  }

  private static func event(_ line: String) -> RelayEvent? {
    try? JSONDecoder().decode(RelayEvent.self, from: Data(line.utf8))
  }

  /// Tells it what is to happen; it has, or is waited for, when this returns.
  @discardableResult
  package func order(_ order: FaultOrder) throws -> RelayReply {
    let deadline = Patience.deadline()
    let reply = try JSONLineClient.connect(controlPath, deadline: deadline)
      .call(order, replyingWith: RelayReply.self, deadline: deadline)
    guard reply.ok else { throw HarnessError(description: "\(order): \(reply.error ?? "?")") }
    return reply
  }

  /// The number that the next connection gets.
  package var nextLinkNumber: Int { get throws { (try links.last?.number ?? -1) + 1 } }

  /// Its links.
  package var links: [RelayLink] { get throws { try order(FaultOrder(.status)).links ?? [] } }

  /// Waits until it has told an event, and gives it: the first that `matches` takes.
  @discardableResult
  package func waitFor(
    _ name: String, until deadline: Instant = Patience.deadline(),
    where matches: (RelayEvent) -> Bool = { _ in true }
  ) throws -> RelayEvent {
    let line = try program.line(name, until: deadline) { line in
      Self.event(line).map { $0.event == name && matches($0) } ?? false
    }
    guard let event = Self.event(line) else {
      throw HarnessError(description: "what was read a moment ago is no event")
    }
    return event
  }

  /// Waits until a fault was injected.
  @discardableResult
  package func waitFor(fault: FaultOrder.Action) throws -> RelayEvent {
    try waitFor("fault") { $0.fault == fault.rawValue }
  }

  /// How many events it has told so far, of those that were read.
  package func count(of name: String) -> Int {
    program.lines.compactMap(Self.event).count { $0.event == name }
  }

  /// Ends it in good order, or leaves that to `deinit`.
  package func end() {
    _ = try? order(FaultOrder(.quit))
    _ = try? program.end()
  }
}
