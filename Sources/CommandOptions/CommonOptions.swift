public import ArgumentParser

/// The options that `page-server send` and `postcopyd receive` share.
public struct CommonOptions: ParsableArguments {
  /// The VM's name.
  @Option(
    help: ArgumentHelp(
      "The VM's name, the same on both hosts.",
      discussion: "It names the VM in every message and binds the journal.", valueName: "name"))
  public var vm: String

  /// The file with the session's secret.
  @Option(
    help: ArgumentHelp(
      "File with the session's 32 random bytes, the same on both hosts.",
      discussion: "Make one with: postcopyctl token FILE", valueName: "file"))
  public var tokenFile: String

  /// Whether TCP without TLS was asked for.
  @Flag(
    help: """
      Allow a TCP connection without encryption: anyone on the network can read the guest's \
      memory. Not needed for unix: addresses.
      """)
  public var insecure = false

  /// Where journals are kept.
  @Option(
    help: ArgumentHelp(
      "Directory of the journals that make the hand-over safe.",
      discussion: "Default: /var/lib/postcopy for root, else under XDG_STATE_HOME.",
      valueName: "directory"))
  public var stateDir: String?

  /// Machine-readable output.
  @Flag(help: "Print events and the report as JSON, one object a line, on standard output.")
  public var json = false

  /// More detail.
  @Flag(name: .shortAndLong, help: "Say more of what happens.")
  public var verbose = false

  /// Only errors.
  @Flag(name: .shortAndLong, help: "Say nothing but errors; no progress line, no report.")
  public var quiet = false

  /// For ArgumentParser.
  public init() {}

  /// Refuses what contradicts itself.
  public func validate() throws {
    if vm.isEmpty || vm.utf8.count > 255 || vm.contains("/") || vm.hasPrefix(".") {
      throw ValidationError(
        "--vm must be a name of 1 to 255 bytes without '/' that does not begin with '.'")
    }
    if verbose && quiet { throw ValidationError("--verbose and --quiet exclude each other") }
  }
}
