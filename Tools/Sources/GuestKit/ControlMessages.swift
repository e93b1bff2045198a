public import FoundationEssentials
internal import Pages

/// A request line of the control socket; see Documentation/microvm.md.
public struct ControlRequest: Codable, Sendable {
  /// What to do.
  public var verb: String
  /// How long `pause` and `disable` wait.
  public var timeoutMilliseconds: UInt64?
  /// The vCPU state of `load-state`; base64 on the line.
  public var vmState: Data?
  /// The first data page of `remove`.
  public var page: Int?
  /// How many data pages `remove` gives back.
  public var count: Int?
  /// The file of `dump`, the socket of `attach`.
  public var path: String?
  /// The dialect of `attach`.
  public var dialect: String?

  /// A request with nothing but its verb.
  public init(_ verb: String) { self.verb = verb }

  enum CodingKeys: String, CodingKey {
    case verb, page, count, path, dialect
    case timeoutMilliseconds = "timeout_ms"
    case vmState = "vm_state"
  }
}

/// Where a piece of guest memory is in the VMM's process.
public struct ControlRegion: Codable, Sendable, Hashable {
  /// The first byte's address.
  public var hostAddress: UInt64
  /// Bytes.
  public var size: UInt64
  /// The place in the image.
  public var offset: UInt64
  /// Bytes in a page.
  public var pageSize: UInt32

  enum CodingKeys: String, CodingKey {
    case size, offset
    case hostAddress = "base_host_virt_addr"
    case pageSize = "page_size"
  }
}

/// A reply line of the control socket. Which fields are there depends on the verb.
public struct ControlReply: Codable, Sendable {
  /// Whether the verb was carried out.
  public var ok: Bool
  /// The kind of failure.
  public var code: String?
  /// The failure in a sentence.
  public var error: String?
  /// The machine's state.
  public var state: String?
  /// vCPUs that have not stopped: they wait for a page.
  public var waitingVcpus: [Int]?
  /// `kvm` or `process`.
  public var guest: String?
  /// The VMM's process.
  public var pid: Int32?
  /// How many vCPUs.
  public var vcpus: Int?
  /// Whether it was started as a destination.
  public var incoming: Bool?
  /// All memory.
  public var memoryBytes: UInt64?
  /// Bytes in a backing page.
  public var pageSize: UInt32?
  /// What the memory is made of.
  public var backing: String?
  /// The memory file, for shared backings.
  public var memoryPath: String?
  /// The memory's pieces.
  public var regions: [ControlRegion]?
  /// Whether a fault handler got the userfaultfd.
  public var attached: Bool?
  /// Whether the handler's end of the attach socket is open.
  public var handlerConnected: Bool?
  /// How the guest visits its pages.
  public var pattern: String?
  /// Operations of all vCPUs; absent while a counter's page is not resident.
  public var operations: UInt64?
  /// Writes of all vCPUs; absent as `operations`.
  public var writes: UInt64?
  /// Granules given back by all vCPUs; absent as `operations`.
  public var removals: UInt64?
  /// What the guest found wrong.
  public var mismatches: [Mismatch]?
  /// How much of the vCPUs' time is taken from them, in percent.
  public var throttlePercent: Int?
  /// The state of all vCPUs; base64 on the line.
  public var vmState: Data?
  /// The length of `vmState` or of a dump.
  public var byteCount: UInt64?
  /// One bit for each 4 KiB page of the image; base64 on the line.
  public var bitmap: Data?
  /// Bits set in `bitmap`.
  public var dirtyPages: Int?
  /// Data pages checked by `verify`.
  public var pagesChecked: Int?
  /// The sum of all versions, from `verify`.
  public var versions: UInt64?
  /// How many things `verify` found wrong.
  public var findingCount: Int?
  /// The first of them.
  public var findings: [String]?

  /// Success, with nothing more to say yet.
  public init() { ok = true }

  /// A failure of that kind.
  public init(failing code: ControlFailure.Code, _ error: String) {
    ok = false
    self.code = code.rawValue
    self.error = error
  }

  enum CodingKeys: String, CodingKey {
    case ok, code, error, state, guest, pid, vcpus, incoming, backing, regions, attached, pattern
    case operations, writes, removals, mismatches, bitmap, versions, findings
    case waitingVcpus = "waiting_vcpus"
    case memoryBytes = "memory_bytes"
    case pageSize = "page_size"
    case memoryPath = "memory_path"
    case handlerConnected = "handler_connected"
    case vmState = "vm_state"
    case byteCount = "byte_count"
    case throttlePercent = "throttle_percent"
    case dirtyPages = "dirty_pages"
    case pagesChecked = "pages_checked"
    case findingCount = "finding_count"
  }
}

/// Why a verb was not carried out.
public struct ControlFailure: Error, Sendable, CustomStringConvertible {
  /// The kinds that a client tells apart.
  public enum Code: String, Sendable {
    /// Not a request, or one with a missing or wrong field.
    case badRequest = "bad-request"
    /// Not in this state; nothing changed.
    case badState = "bad-state"
    /// The wait ended first; what was asked for is still pending.
    case timeout
    /// `verify` found something wrong.
    case checkFailed = "check-failed"
    /// The kernel refused.
    case failed
  }

  /// The kind.
  public var code: Code
  /// A sentence for a person.
  public var description: String
  var waitingVcpus: [Int]?

  /// A failure of that kind.
  public init(_ code: Code, _ description: String) {
    self.code = code
    self.description = description
  }
}
