public import System

/// Which file a VM's memory is, whatever its name.
public struct MemoryIdentity: Hashable, Sendable {
  /// The device that holds the file.
  public let device: UInt64
  /// Its number there.
  public let inode: UInt64
  /// Whether the file is gone after a reboot: tmpfs, hugetlbfs, memfd.
  public let isVolatile: Bool

  /// The file with that device and inode.
  public init(device: UInt64, inode: UInt64, isVolatile: Bool) {
    self.device = device
    self.inode = inode
    self.isVolatile = isVolatile
  }
}

/// The very VM that a session moves: its name, and which process and memory on which boot it is.
/// Part of the first record of a session in the journals of both sides.
public struct VMBinding: Hashable, Sendable, JournalEncodable {
  /// The whole name; the directory's may be a short form.
  public var vmName: String
  /// The boot of this host.
  public var boot: BootID
  /// The VMM's process; nil for a snapshot, or when it is not known.
  public var vmm: ProcessIdentity?
  /// The file that holds the memory; nil for private memory, or when it is not known.
  public var memory: MemoryIdentity?

  /// The VM with all these marks.
  public init(vmName: VMName, boot: BootID, vmm: ProcessIdentity?, memory: MemoryIdentity?) {
    self.vmName = vmName.text
    self.boot = boot
    self.vmm = vmm
    self.memory = memory
  }

  /// Whether two bindings are of one VM: the same vCPUs over the same memory.
  public enum Comparison: Hashable, Sendable {
    /// They are.
    case same
    /// They are not.
    case different
    /// No mark is known of both.
    case unknown
  }

  /// Compares by what is left of a VM: its process and its memory file. The same memory makes it
  /// the same VM even when another process holds it now.
  public func compare(_ other: VMBinding) -> Comparison {
    let isSameFile = memory != nil && memory == other.memory
    // A file on disk outlives the boot; processes, memfds and tmpfs do not.
    if isSameFile, memory?.isVolatile == false { return .same }
    if boot != other.boot { return .different }
    if isSameFile { return .same }
    if let vmm, let otherVMM = other.vmm { return vmm == otherVMM ? .same : .different }
    if memory != nil, other.memory != nil { return .different }
    return .unknown
  }

  /// Writes every field. With the longest name it leaves room for the record before it.
  public func encode(to writer: inout JournalWriter) {
    writer.append(vmm == nil ? UInt8(0) : 1)
    writer.append(vmm?.pid ?? 0)
    writer.append(vmm?.startTicks ?? 0)
    writer.append(memory.map { $0.isVolatile ? UInt8(2) : 1 } ?? 0)
    writer.append(memory?.device ?? 0)
    writer.append(memory?.inode ?? 0)
    writer.append(text: boot.text)
    writer.append(text: vmName)
  }

  /// Reads what `encode` wrote.
  public init(from reader: inout JournalReader) throws(JournalFormatError) {
    let vmmKind = try reader.next(UInt8.self)
    let process = ProcessIdentity(pid: try reader.next(), startTicks: try reader.next())
    let memoryKind = try reader.next(UInt8.self)
    let file = MemoryIdentity(
      device: try reader.next(), inode: try reader.next(), isVolatile: memoryKind == 2)
    guard vmmKind <= 1, memoryKind <= 2 else { throw JournalFormatError("unknown kind of mark") }
    vmm = vmmKind == 1 ? process : nil
    memory = memoryKind > 0 ? file : nil
    boot = BootID(text: try reader.nextText())
    vmName = try reader.nextText()
  }
}
