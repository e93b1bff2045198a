internal import CLinux
internal import Glibc
internal import Pages

/// Another process's memory, read through /proc/PID/mem and /proc/PID/pagemap. Both files stay
/// bound to the address space that the process had when they were opened: after its end, or an
/// exec, reads answer 0 bytes, whoever has the pid by then.
public struct ProcessMemory: ~Copyable, Sendable {
  /// Which process.
  public let identity: ProcessIdentity
  private let memory: OwnedDescriptor
  private let pageMap: OwnedDescriptor

  /// Needs the right to ptrace the process: EACCES or EPERM otherwise. ESRCH when it is gone.
  public static func open(pid: Int32) throws(SystemError) -> ProcessMemory {
    let identity = try ProcessIdentity.of(pid: pid)
    let memory = try OwnedDescriptor.open("/proc/\(pid)/mem", flags: O_RDONLY)
    let pageMap = try OwnedDescriptor.open("/proc/\(pid)/pagemap", flags: O_RDONLY)
    // The pid could have passed to another process between the calls.
    guard try ProcessIdentity.of(pid: pid) == identity else {
      throw SystemError("open", "/proc/\(pid)/mem", .noSuchProcess)
    }
    return ProcessMemory(identity: identity, memory: memory, pageMap: pageMap)
  }

  private init(
    identity: ProcessIdentity, memory: consuming OwnedDescriptor,
    pageMap: consuming OwnedDescriptor
  ) {
    self.identity = identity
    self.memory = memory
    self.pageMap = pageMap
  }

  /// One read at an address: how many bytes came, 0 when the address space is gone. EIO is the
  /// kernel's answer to every page that it cannot get, for whatever reason.
  @_lifetime(bytes: copy bytes)
  public borrowing func read(
    into bytes: inout MutableRawSpan, from offsetInSpan: Int, atAddress address: UInt64
  ) throws(Errno) -> Int {
    try memory.read(into: &bytes, from: offsetInSpan, atOffset: address)
  }

  /// Pages that one `absentPages` call looks at: 32 MiB of memory, 64 KiB of page map.
  public static let pageMapChunkPageCount = 8192
  /// The page map counts in pages of this size, whatever the mapping uses.
  public static let pageMapPageByteCount: UInt64 = 4096

  /// Runs of `body` for each run of pages, from `address` on, that have neither memory nor swap
  /// behind them; in private anonymous memory these read as zeros. Looks at up to `pageCount` and
  /// `pageMapChunkPageCount` pages. Returns how many it looked at: 0 when the process is gone.
  public borrowing func absentPages(
    atAddress address: UInt64, pageCount: Int, _ body: (Range<UInt64>) -> Void
  ) throws(Errno) -> Int {
    invariant(address.isMultiple(of: Self.pageMapPageByteCount), "a page starts at its size")
    let wanted = min(pageCount, Self.pageMapChunkPageCount)
    var entries = [UInt64](repeating: 0, count: wanted)
    let number = pageMap.rawValue
    let offset = off_t(address / Self.pageMapPageByteCount) * off_t(MemoryLayout<UInt64>.size)
    let byteCount: Int = try unsafe entries.withUnsafeMutableBufferPointer {
      (buffer) throws(Errno) in
      while true {
        // unsafe: the array's own storage and length bound the read.
        let count = unsafe pread(
          number, buffer.baseAddress, buffer.count * MemoryLayout<UInt64>.size, offset)
        if count >= 0 { return count }
        guard Errno.current == .interrupted else { throw .current }
      }
    }
    let found = byteCount / MemoryLayout<UInt64>.size
    let populated = clinux_pagemap_present | clinux_pagemap_swapped
    var start: Int?
    for index in 0...found {
      let isAbsent = index < found && entries[index] & populated == 0
      if isAbsent {
        if start == nil { start = index }
      } else if let first = start {
        let page = Self.pageMapPageByteCount
        body(address + UInt64(first) * page..<address + UInt64(index) * page)
        start = nil
      }
    }
    return found
  }
}
