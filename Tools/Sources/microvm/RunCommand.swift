public import ArgumentParser
public import GuestKit
import Pages
import System

/// `microvm run`: one guest in the foreground.
struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Run a guest in the foreground until it is told to quit.")

  @Option(help: "Guest memory, a multiple of 2M, such as 512M or 6G.")
  var memory = "512M"

  @Option(help: "Virtual processors, 1 to 4.")
  var vcpus = 2

  @Option(help: "Mappings that the memory is made of.")
  var regions = 1

  @Option(help: "Pages that back the memory: 4K, or 2M (hugetlb).")
  var pageSize = "4K"

  @Option(
    help: "What the memory is made of: memfd, file:PATH (made new, deleted at the end), private.")
  var backing = "memfd"

  @Option(help: "What runs the guest: kvm, process (threads), or auto (kvm where /dev/kvm is).")
  var guest = "auto"

  @Option(help: "How the guest visits its pages: \(AccessPattern.names).")
  var pattern = "random-write"

  @Option(help: "Of 100 visits, how many write; overrides the pattern's.")
  var writePercent: Int?

  @Option(help: "Step of the strided pattern, in pages.")
  var stride: Int?

  @Option(help: "Operations a second and vCPU; 0 for as many as go.")
  var rate: Int?

  @Option(help: "Operations of each vCPU after which it stops.")
  var operations: UInt64?

  @Option(help: "Operations between two removals of a random page by each vCPU; 0 for none.")
  var removeEvery = 0

  @Option(help: "How pages are given back: dontneed, remove, punch.")
  var removeBy: RemovalMethod?

  @Option(help: "Of 100 data pages, how many hold content from the start.")
  var fillPercent = 75

  @Option(help: "Of 100 words of content, how many are noise: 0 packs to next to nothing.")
  var noise = 0

  @Option(help: "Mixed into all content and into the order of visits.")
  var seed: UInt64 = 1

  @Option(help: "Path of the control socket.")
  var control: String?

  @Flag(help: "Be a destination: touch no memory, wait for vCPU state.")
  var incoming = false

  @Option(help: "Socket of the fault handler that gets the memory of an incoming guest.")
  var attach: String?

  @Option(help: "What to send it: 1.4, 1.7, 1.12, two-descriptors.")
  var attachDialect: AttachDialect = .pageSize

  @Flag(
    help: "Unless incoming: have the kernel note what is written, for PAGEMAP_SCAN by others.")
  var trackWrites = false

  @Option(help: "File that the VMM reads with direct I/O, made by microvm disk.")
  var disk: String?

  @Option(
    help: "Pages of guest memory for what is read; the same at both ends. 64 with --disk, else 0.")
  var diskBuffer: Int?

  @Flag(help: "Do not run until told so by the control socket.")
  var paused = false

  func validate() throws {
    _ = try machineOptions()
    guard attach == nil || incoming else {
      throw ValidationError("--attach is for a destination: add --incoming")
    }
    guard control != nil || operations != nil else {
      throw ValidationError("without --control or --operations nobody could end the guest")
    }
  }

  func run() throws {
    let signals = try SignalSource()
    let machine = try TestMachine(machineOptions())
    var server: ControlServer?
    if let control {
      let made = try ControlServer(machine, path: control)
      try made.start()
      server = made
    }
    defer {
      server?.removeSocket()
      machine.memory.removeFile()
    }
    if let attach {
      try machine.attach(path: attach, dialect: attachDialect)
    }
    if !incoming, !paused { try machine.resume() }
    Terminal.printLine("microvm: ready \(Terminal.processID)")
    try waitForEnd(machine, server, signals)
  }

  /// Ends with `quit`, SIGINT or SIGTERM; without a control socket, when the guest has finished.
  private func waitForEnd(
    _ machine: TestMachine, _ server: ControlServer?, _ signals: borrowing SignalSource
  ) throws {
    var isReported = false
    while true {
      // Twice a second is often enough to tell a person; machines ask the control socket.
      let limit = MonotonicClock.now().advanced(byNanoseconds: 500_000_000)
      let ready = try Readiness.wait(
        for: [signals.descriptor.rawValue] + (server.map { [$0.quit.rawValue] } ?? []), until: limit
      )
      if server != nil, ready[1] { return }
      if ready[0], let signal = try signals.next(), signal != .hangUp { return }
      if !isReported, !machine.mismatches.isEmpty {
        isReported = true
        for mismatch in machine.mismatches { StandardError.print(mismatch.report) }
      }
      if server == nil, machine.activity == .finished || machine.activity == .guestError {
        try finish(machine)
        return
      }
    }
  }

  private func finish(_ machine: TestMachine) throws {
    guard machine.mismatches.isEmpty else { throw ExitCode.failure }
    let check = try machine.verify()
    for sentence in check.findings.sentences { StandardError.print("microvm: \(sentence)") }
    guard check.findings.count == 0 else { throw ExitCode.failure }
    Terminal.printLine(
      "microvm: \(check.operations) operations, \(check.writes) writes, "
        + "\(check.pagesChecked) pages verified")
  }

  private func machineOptions() throws -> MachineOptions {
    var options = MachineOptions()
    options.memoryByteCount = try Size.parse(memory, "--memory")
    guard let size = PageSize(rawValue: UInt32(clamping: try Size.parse(pageSize, "--page-size")))
    else { throw ValidationError("--page-size is 4K or 2M") }
    options.pageSize = size
    guard let parsedBacking = MemoryBacking(backing) else {
      throw ValidationError("--backing is memfd, file:PATH or private")
    }
    options.backing = parsedBacking
    // The memory of an incoming guest has another userfaultfd.
    options.tracksWrites = trackWrites && !incoming
    options.guest = try guestKind()
    guard var parsedPattern = AccessPattern(pattern) else {
      throw ValidationError("--pattern is one of \(AccessPattern.names)")
    }
    if let writePercent {
      guard (0...100).contains(writePercent) else {
        throw ValidationError("--write-percent is 0 to 100")
      }
      parsedPattern.writePercent = writePercent
    }
    if let stride { parsedPattern.stride = stride }
    if let rate { parsedPattern.operationsPerSecond = rate }
    parsedPattern.removeEvery = removeEvery
    parsedPattern.operationLimit = operations
    options.pattern = parsedPattern
    options.vcpuCount = vcpus
    options.regionCount = regions
    options.removal = removeBy
    options.fillPercent = fillPercent
    options.noisePercent = noise
    options.seed = seed
    options.diskPath = disk
    options.bufferPageCount = diskBuffer ?? (disk == nil ? 0 : 64)
    options.isIncoming = incoming
    return options
  }

  private func guestKind() throws -> GuestKind {
    if guest == "auto" { return TestMachine.isKVMAvailable ? .kvm : .process }
    guard let kind = GuestKind(rawValue: guest) else {
      throw ValidationError("--guest is kvm, process or auto")
    }
    return kind
  }
}

extension RemovalMethod: ExpressibleByArgument {}
extension AttachDialect: ExpressibleByArgument {}

/// Sizes as people write them.
enum Size {
  static func parse(_ text: String, _ option: String) throws -> UInt64 {
    let units: [Character: UInt64] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30]
    let unit = text.last.flatMap { units[$0] }
    guard let number = UInt64(unit == nil ? text[...] : text.dropLast()),
      case let (value, overflow) = number.multipliedReportingOverflow(by: unit ?? 1), !overflow
    else { throw ValidationError("\(option) takes a number with K, M or G behind it, not \(text)") }
    return value
  }
}
