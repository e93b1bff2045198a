internal import Pages
internal import System

/// Two network namespaces of our own, joined by a pair of virtual interfaces; removed when it goes.
/// For links that fail as networks do: without a word to anybody. Needs root, iproute2, nftables.
public final class NamespacePair {
  private let sourceName: String
  private let destinationName: String
  private let sourceInterface: String

  /// Where page-server listens, inside its namespace.
  public let sourceAddress = "10.213.79.1:47310"

  /// Whether this machine has what it takes.
  public static let isAvailable: Bool =
    FileSystem.isReadWritable("/proc/sys/net/ipv4/ip_forward")
    && [["ip", "netns", "list"], ["nft", "--version"], ["nsenter", "--version"]].allSatisfy {
      (try? CommandRun($0).isSuccess) ?? false
    }

  /// Makes them.
  public init() throws {
    let tag = try RandomBytes.make(3).map { String($0, radix: 16) }.joined()
    sourceName = "pcfs\(tag)"
    destinationName = "pcfd\(tag)"
    sourceInterface = "pcfv\(tag)"
    let peer = "pcfw\(tag)"
    try Self.run(["ip", "netns", "add", sourceName])
    try Self.run(["ip", "netns", "add", destinationName])
    try Self.run([
      "ip", "link", "add", sourceInterface, "netns", sourceName, "type", "veth", "peer", "name",
      peer, "netns", destinationName,
    ])
    for (name, interface, address) in [
      (sourceName, sourceInterface, "10.213.79.1/30"), (destinationName, peer, "10.213.79.2/30"),
    ] {
      try Self.run(["ip", "-n", name, "address", "add", address, "dev", interface])
      try Self.run(["ip", "-n", name, "link", "set", interface, "up"])
    }
  }

  deinit {
    // The interfaces go with their namespaces.
    for name in [sourceName, destinationName] { try? Self.run(["ip", "netns", "delete", name]) }
  }

  /// What comes before a command to have it in the source's namespace: its network alone differs.
  public var sourcePrefix: [String] { ["nsenter", "--net=/run/netns/\(sourceName)"] }
  /// The same for the destination's.
  public var destinationPrefix: [String] { ["nsenter", "--net=/run/netns/\(destinationName)"] }

  /// Pulls the cable, or plugs it in again.
  public func setLink(isUp: Bool) throws {
    try Self.run(["ip", "-n", sourceName, "link", "set", sourceInterface, isUp ? "up" : "down"])
  }

  /// From now on the source's host loses what it gets, what it sends, or both.
  public func drop(incoming: Bool, outgoing: Bool) throws {
    var rules = "add table inet postcopy; flush table inet postcopy"
    for (hook, isLost) in [("input", incoming), ("output", outgoing)] where isLost {
      rules +=
        "; add chain inet postcopy \(hook) { type filter hook \(hook) priority 0; policy drop; }"
    }
    try Self.run(sourcePrefix + ["nft", rules])
  }

  /// Loses nothing any more.
  public func heal() throws {
    try Self.run(sourcePrefix + ["nft", "add table inet postcopy; delete table inet postcopy"])
  }

  private static func run(_ command: [String]) throws {
    let result = try CommandRun(command)
    guard result.isSuccess else { throw result }
  }
}

/// A command that was run to its end; thrown when that was a bad one.
struct CommandRun: Error, CustomStringConvertible {
  let command: [String]
  let ending: ChildProcess.Ending?

  /// Above what a network namespace takes to be removed on a busy machine.
  private static let limitNanoseconds: UInt64 = 30_000_000_000

  init(_ command: [String]) throws(SystemError) {
    self.command = command
    let nowhere = try OwnedDescriptor.open("/dev/null", flags: 1)
    let process = try ChildProcess(command, output: nowhere, error: nowhere)
    ending = process.waitForEnd(
      until: MonotonicClock.now().advanced(byNanoseconds: Self.limitNanoseconds))
  }

  var isSuccess: Bool { ending == .exited(code: 0) }

  var description: String {
    "\(command.joined(separator: " ")): \(ending.map { "\($0)" } ?? "did not end")"
  }
}
