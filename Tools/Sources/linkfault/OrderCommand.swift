internal import ArgumentParser
internal import LinkFaultKit
internal import Pages
internal import System
internal import VMM

/// `linkfault order`: tells a running relay what to do.
struct OrderCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "order", abstract: "Tell a running relay what is to happen.",
    discussion: """
      Actions: \(FaultOrder.Action.allCases.map(\.rawValue).joined(separator: ", ")).
      Example, the bulk links are lost without a word after the next 100 kB, for three seconds:
        linkfault order /tmp/relay.sock drop --to bulk --after-bytes 100000 --for 3000
      """)

  @Argument(help: "The relay's control socket.")
  var socket: String

  @Argument(help: "What is to happen.")
  var action: String

  @Option(help: "To which links: all, urgent, bulk, or a number.")
  var to = "all"

  @Option(help: "Which way: to-server, to-client or both.")
  var direction = FaultDirection.both.rawValue

  @Option(help: "How much: milliseconds, bytes a second, bytes, connections.")
  var value: UInt64?

  @Option(help: ArgumentHelp("Only once a link has carried so much more.", valueName: "bytes"))
  var afterBytes: UInt64?

  @Option(help: ArgumentHelp("Only after that time.", valueName: "ms"))
  var after: UInt64?

  @Option(name: .customLong("for"), help: ArgumentHelp("For how long.", valueName: "ms"))
  var duration: UInt64?

  /// A relay answers at once.
  private static let replyNanoseconds: UInt64 = 5_000_000_000

  func run() throws {
    guard let action = FaultOrder.Action(rawValue: action), let target = LinkTarget(to),
      let direction = FaultDirection(rawValue: direction)
    else { throw ValidationError("no such action, links or direction") }
    let order = FaultOrder(
      action, to: target, direction, value: value, afterByteCount: afterBytes,
      afterMilliseconds: after, forMilliseconds: duration)
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.replyNanoseconds)
    let reply = try JSONLineClient.connect(socket, deadline: deadline)
      .call(order, replyingWith: RelayReply.self, deadline: deadline)
    guard reply.ok else { throw ValidationError(reply.error ?? "refused") }
    for link in reply.links ?? [] {
      print(
        "\(link.number) \(link.role ?? "-") \(link.isConnected ? "connected" : "waiting") "
          + "\(link.toServerByteCount) bytes to the server, \(link.toClientByteCount) back")
    }
  }
}
