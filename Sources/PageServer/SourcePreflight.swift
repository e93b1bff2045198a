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
  private var lock: VMLock?
  private var journal: SourceJournal?

  init(_ configuration: SourceConfiguration) throws(Refusal) {
    let name = configuration.vmName
    do throws(MemorySourceError) {
      backing = try configuration.memory.open()
    } catch {
      throw Refusal(.memory, "\(error)")
    }
    image = Self.image(of: backing)
    do throws(VMMError) {
      binding = try Self.binding(
        name, backing.identity, vmmProcess: try configuration.frontEnd.status().pid)
    } catch {
      throw Refusal(.vmm, "\(error)")
    }
    do throws(StateError) {
      try configuration.directory.prepare(vm: name)
      lock = try VMLock.take(vm: name, side: .source, in: configuration.directory)
    } catch {
      throw Refusal(.journal, "\(error)")
    }
    let journal: SourceJournal
    do throws(JournalError) {
      journal = try SourceJournal.open(vm: name, in: configuration.directory)
    } catch {
      throw Refusal(.journal, "\(error)")
    }
    let decision = SendDecision.decide(current: binding, histories: journal.histories)
    guard case .allowed(let epoch, let wasInterrupted) = decision else {
      throw decision.refusal(vmName: name.text) ?? Refusal(.session, "the VM is not to be sent")
    }
    self.epoch = epoch
    self.wasInterrupted = wasInterrupted
    self.journal = journal
    do throws(ConnectionError) {
      listener = try Listener(configuration.endpoint)
    } catch {
      throw Refusal(.unfit, "\(error); name another address or port with --listen")
    }
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

  /// A file tells its length alone; a process's ranges are regions that somebody named.
  private static func image(of backing: any MemoryBacking) -> SourceImage {
    let layout = backing.naturalLayout
    guard layout.regions.count == 1, let whole = layout.regions.first else {
      return .declared(layout)
    }
    return .whole(byteCount: whole.byteCount, pageSize: whole.pageSize)
  }

  private static func binding(
    _ name: VMName, _ identity: MemoryIdentity, vmmProcess: Int32?
  ) throws(Refusal) -> VMBinding {
    do throws(SystemError) {
      let boot = try BootID.current()
      let vmm = try vmmProcess.map { pid throws(SystemError) in try ProcessIdentity.of(pid: pid) }
      switch identity {
      case .file(let device, let inode):
        let memory = Session.MemoryIdentity(
          device: device, inode: inode, isVolatile: isVolatile)
        return VMBinding(vmName: name, boot: boot, vmm: vmm, memory: memory)
      case .process(let process, _):
        return VMBinding(vmName: name, boot: boot, vmm: vmm ?? process, memory: nil)
      }
    } catch {
      throw Refusal(.vmm, "the VM's process cannot be identified: \(error)")
    }
  }
}
