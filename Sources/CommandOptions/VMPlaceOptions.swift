public import ArgumentParser
public import Session

/// Which VM, and where what is known of it is kept: the options of commands beside a migration.
public struct VMPlaceOptions: ParsableArguments {
  /// The VM's name.
  @Option(help: ArgumentHelp("The VM's name, as the session was begun with.", valueName: "name"))
  public var vm: String

  /// Where the journals are.
  @OptionGroup public var place: StateDirectoryOptions

  /// For ArgumentParser.
  public init() {}

  /// The VM's name, fit for journals.
  public func vmName() throws -> VMName {
    do { return try VMName(vm) } catch { throw ValidationError("--vm: \(error)") }
  }

  /// Where the journals are.
  public func directory() throws(StateError) -> StateDirectory { try place.directory() }
}

/// Where what is known of VMs is kept.
public struct StateDirectoryOptions: ParsableArguments {
  /// The directory, unless it is the usual one.
  @Option(
    help: ArgumentHelp(
      "Directory of the journals, as the session was begun with.",
      discussion: "Default: /var/lib/postcopy for root, else under XDG_STATE_HOME.",
      valueName: "directory"))
  public var stateDir: String?

  /// For ArgumentParser.
  public init() {}

  /// Where the journals are.
  public func directory() throws(StateError) -> StateDirectory {
    try StateDirectory.ofThisProcess(override: stateDir)
  }
}
