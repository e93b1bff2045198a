internal import Glibc
internal import Migration
internal import Pages
internal import Session
internal import System
internal import Uring
internal import VMM
internal import Wire

/// Everything that is checked, locked and opened before the VM is touched.
struct SourcePreflight: ~Copyable {
  let backing: any MemoryBacking
  let image: SourceImage
  let binding: VMBinding
  let listener: Listener
  let epoch: Epoch
  let wasInterrupted: Bool
  /// Of pauses for a look that are not undone, as far as is known.
  let pauseMarks: [PauseMark]
  /// The session that an export goes on with; nil for a VM that is here.
  let exported: ExportedSession?
  /// Of the session that is taken up; none for a new one.
  let records: [SourceRecord]
  /// What slows the guest down; nil when nothing is to.
  let throttle: ChosenThrottle?
  private var lock: VMLock?
  private var journal: SourceJournal?

  /// `told` hears what came of bounds that dead processes of ours had left, whatever follows.
  init(
    _ configuration: SourceConfiguration, told: (LeftThrottleNote) -> Void
  ) throws(Refusal) {
    let name = configuration.vmName
    let lock = try Self.takeLock(of: name, in: configuration.directory)
    let left = LeftThrottle.restore(ofVM: name, in: configuration.directory)
    left.forEach(told)
    try Self.requireDirtyLog(configuration)
    let backing = try Self.open(configuration.memory, configuration.token)
    let vmm = try Self.vmmStatus(configuration.frontEnd)
    let around =
      vmm.pid.map { LeftThrottle.restore(aroundVMM: $0, in: configuration.directory) } ?? []
    for note in around where !left.contains(note) { told(note) }
    let binding = try Self.binding(name, backing, vmmProcess: vmm.pid)
    let throttle = try configuration.chooseThrottle(vmm, left: around)
    var journal = try Self.openJournal(of: name, in: configuration.directory)
    let exported = try (backing as? ExportBacking).map { (backing) throws(Refusal) in
      try ExportedSession.decide(backing, vmName: name, histories: journal.histories)
    }
    let marks = journal.histories.leftLookPauses(of: binding, in: configuration.directory)
    let (epoch, wasInterrupted) = try Self.decide(name, binding, journal.histories, exported)
    let listener = try Self.listen(at: configuration.endpoint, configuration.security)
    // The last step: what this host promises from here on is durable before anybody is served.
    try exported?.record(in: &journal, binding)
    self.backing = backing
    self.image = SourceImage.of(backing)
    self.binding = binding
    self.listener = listener
    self.epoch = epoch
    // A session that was given up has its word in the journal before the look is over.
    self.wasInterrupted = wasInterrupted || !marks.isEmpty
    pauseMarks = marks
    self.exported = exported
    records = exported?.records ?? []
    self.throttle = throttle
    self.lock = consume lock
    self.journal = consume journal
  }

  /// For the session that an earlier process of ours began: its VM, and no other.
  init(
    recovering configuration: SourceConfiguration, told: (LeftThrottleNote) -> Void
  ) throws(Refusal) {
    let name = configuration.vmName
    let lock = try Self.takeLock(of: name, in: configuration.directory)
    LeftThrottle.restore(ofVM: name, in: configuration.directory).forEach(told)
    let journal = try Self.openJournal(of: name, in: configuration.directory)
    guard let history = journal.histories.last else {
      throw Refusal(.session, "VM \"\(name.text)\" has no session to go on with")
    }
    let backing = try Self.open(configuration.memory, configuration.token)
    // Its VMM may be gone: it was to be made unable to run.
    let isAlive = history.binding.vmm?.isAlive ?? true
    let pid = isAlive ? try Self.vmmStatus(configuration.frontEnd).pid : nil
    let found = try Self.binding(name, backing, vmmProcess: pid)
    guard found.compare(history.binding) != .different else {
      throw Refusal(
        .session,
        "the memory and process that are named are not those of VM \"\(name.text)\" in session "
          + "\(history.session.text); name the ones that it was sent from")
    }
    listener = try Self.listen(at: configuration.endpoint, configuration.security)
    self.backing = backing
    image = SourceImage.of(backing)
    binding = history.binding
    epoch = history.records[0].epoch
    wasInterrupted = false
    let marks = journal.histories.lookPauses(of: history.binding, in: configuration.directory)
    if isAlive {
      pauseMarks = marks
    } else {
      // It took its pauses with it.
      pauseMarks = []
      for mark in marks { try? mark.clear() }
    }
    exported = nil
    // Given up, but not at its end: the VM is to be resumed first.
    records =
      pauseMarks.isEmpty ? history.records : history.records.filter { !$0.isAborted }
    // No rounds come any more.
    throttle = nil
    self.lock = consume lock
    self.journal = consume journal
  }

  static func decide(
    _ name: VMName, _ current: VMBinding, _ histories: [SessionHistory<SourceRecord>],
    _ exported: ExportedSession?
  ) throws(Refusal) -> (Epoch, wasInterrupted: Bool) {
    if let exported { return (exported.header.epoch, false) }
    let decision = SendDecision.decide(current: current, histories: histories)
    guard case .allowed(let epoch, let wasInterrupted) = decision else {
      throw decision.refusal(vmName: name.text) ?? Refusal(.session, "the VM is not to be sent")
    }
    return (epoch, wasInterrupted)
  }

  static func requireDirtyLog(_ configuration: SourceConfiguration) throws(Refusal) {
    guard configuration.mode.hasSeedRounds else { return }
    switch configuration.memory {
    case .file, .process: break
    case .snapshot, .export:
      throw Refusal(
        .unfit,
        "mode \(configuration.mode.name) is for a VM that runs, and this one does not: use --mode "
          + "post-copy or --mode quick")
    }
    guard configuration.tracking == .vmm,
      configuration.frontEnd.dirtyLog == nil
    else { return }
    throw Refusal(
      .unfit,
      "mode \(configuration.mode.name) with --dirty-tracking vmm needs a VMM that tells which "
        + "pages its VM writes, and this one does not: use --dirty-tracking auto, or --mode "
        + "post-copy")
  }

  static func open(
    _ memory: MemorySource, _ token: SessionToken
  ) throws(Refusal) -> any MemoryBacking {
    let backing: any MemoryBacking
    do throws(MemorySourceError) {
      backing = try memory.open(token: token)
    } catch { throw Refusal(.memory, "\(error)") }
    guard let exported = backing as? ExportBacking else { return backing }
    // A file that came a long way is read once from end to end: a definite answer before anybody
    // is served, and not in the middle of it.
    do throws(ExportError) {
      try exported.file.verify()
    } catch { throw Refusal(.memory, "\(error)") }
    return backing
  }

  static func vmmStatus(_ frontEnd: any VMMFrontEnd) throws(Refusal) -> VMMStatus {
    do throws(VMMError) {
      frontEnd.prepare()
      return try frontEnd.status()
    } catch { throw Refusal(.vmm, "\(error)") }
  }

  /// What the VM may have seen of this host's processors: nothing is known of where one ran that
  /// does not run here.
  static func processorFeatures(of memory: MemorySource, vmmProcess: Int32?) -> String {
    switch memory {
    case .file, .process: vmmProcess == nil ? "" : ProcessorFeatures.ofThisHost().text
    case .snapshot, .export: ""
    }
  }

  static func takeLock(
    of name: VMName, in directory: StateDirectory
  ) throws(Refusal) -> VMLock {
    do throws(StateError) {
      try directory.prepare(vm: name)
      return try VMLock.take(vm: name, side: .source, in: directory)
    } catch { throw Refusal(.journal, "\(error)") }
  }

  static func openJournal(
    of name: VMName, in directory: StateDirectory
  ) throws(Refusal) -> SourceJournal {
    do throws(JournalError) {
      return try SourceJournal.open(vm: name, in: directory)
    } catch { throw Refusal(.journal, "\(error)") }
  }

  static func listen(
    at endpoint: Endpoint, _ security: LinkSecurity
  ) throws(Refusal) -> Listener {
    do throws(ConnectionError) {
      return try Listener(endpoint, tls: security.context)
    } catch { throw Refusal(.unfit, "\(error); name another address or port with --listen") }
  }

  /// The lock, once.
  mutating func takeLock() -> VMLock {
    guard let lock = lock.take() else { invariantBroken("a preflight gives its lock away once") }
    return lock
  }

  /// The journal, once.
  mutating func takeJournal() -> SourceJournal {
    guard let journal = journal.take() else {
      invariantBroken("a preflight gives its journal away once")
    }
    return journal
  }

  static func binding(
    _ name: VMName, _ backing: any MemoryBacking, vmmProcess: Int32?
  ) throws(Refusal) -> VMBinding {
    do throws(SystemError) {
      let boot = try BootID.current()
      // What has the memory of a VM without a VMM is this process. The mark tells it from every
      // VM of the same name that has one.
      let holder = backing is ExportBacking ? getpid() : nil
      let vmm = try (vmmProcess ?? holder).map { pid throws(SystemError) in
        try ProcessIdentity.of(pid: pid)
      }
      switch backing.identity {
      case .file(let device, let inode):
        let memory = Session.MemoryIdentity(
          device: device, inode: inode, isVolatile: try isVolatile(backing.source))
        return VMBinding(vmName: name, boot: boot, vmm: vmm, memory: memory)
      case .process(let process, _):
        return VMBinding(vmName: name, boot: boot, vmm: vmm ?? process, memory: nil)
      }
    } catch {
      throw Refusal(.vmm, "the VM's process cannot be identified: \(error)")
    }
  }

  /// Whether the memory is gone after a reboot. Only tmpfs is known to be; a file that is taken to
  /// last longer than it does refuses more, never less.
  private static func isVolatile(_ source: MemorySource) throws(SystemError) -> Bool {
    switch source {
    case .file(let path), .snapshot(let path): try FileSystem.isOnTmpfs(path)
    case .process: true
    case .export(let path): try FileSystem.isOnTmpfs(path)
    }
  }
}
