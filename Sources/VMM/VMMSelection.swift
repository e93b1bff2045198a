/// Why the text of `--vmm` names no front end.
public enum VMMSelectionError: Error, Hashable, Sendable, CustomStringConvertible {
  /// It is planned and not in this version.
  case laterVersion(name: String)
  /// The front end needs an address that is missing.
  case missingAddress(name: String)
  /// `none` takes no address.
  case unexpectedAddress(name: String)
  /// No front end has that name.
  case unknown(String)

  /// One sentence with what is allowed.
  public var description: String {
    let allowed = "this version has \"none\" and \"microvm:SOCKET\""
    return switch self {
    case .laterVersion(let name): "--vmm \(name): comes with a later version; \(allowed)"
    case .missingAddress(let name):
      "--vmm \(name): needs an address, as in \"microvm:/run/vm.sock\""
    case .unexpectedAddress(let name): "--vmm \(name): takes no address"
    case .unknown(let text): "--vmm \(text): no such front end; \(allowed)"
    }
  }
}

/// Which VMM runs the VM and where its control socket is: the value of `--vmm`.
public enum VMMSelection: Hashable, Sendable, CustomStringConvertible {
  /// No process runs it: a snapshot.
  case none
  /// The test VMM, at its control socket.
  case microvm(socketPath: String)

  /// Names that the command line has and this version has not.
  static let laterNames = ["qemu", "firecracker", "exec"]

  /// Reads `none` or `microvm:SOCKET`.
  public static func parse(_ text: String) throws(VMMSelectionError) -> VMMSelection {
    let colon = text.firstIndex(of: ":")
    let name = String(text[..<(colon ?? text.endIndex)])
    let address = colon.map { String(text[text.index(after: $0)...]) }
    switch name {
    case "none":
      guard address == nil else { throw .unexpectedAddress(name: name) }
      return .none
    case "microvm":
      guard let address, !address.isEmpty else { throw .missingAddress(name: name) }
      return .microvm(socketPath: address)
    case let name where laterNames.contains(name): throw .laterVersion(name: name)
    default: throw .unknown(text)
    }
  }

  /// The front end for the VM of that name. Connects with the first call.
  public func makeFrontEnd(vmName: String) -> any VMMFrontEnd {
    switch self {
    case .none: NoVMM(vmName: vmName)
    case .microvm(let path): MicroVM(vmName: vmName, socketPath: path)
    }
  }

  /// The text that `parse` takes.
  public var description: String {
    switch self {
    case .none: "none"
    case .microvm(let path): "microvm:\(path)"
    }
  }
}
