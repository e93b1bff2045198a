internal import FoundationEssentials
internal import Glibc
internal import Pages
internal import System

/// The verbs of the control socket, from request to reply. See Documentation/microvm.md.
extension TestMachine {
  /// Long enough for any vCPU that does not wait for a page, short for a person.
  private static let usualTimeoutMilliseconds: UInt64 = 1000

  func perform(_ request: ControlRequest) throws(ControlFailure) -> ControlReply {
    let timeout = request.timeoutMilliseconds ?? Self.usualTimeoutMilliseconds
    var reply = ControlReply()
    switch request.verb {
    case "status": return status()
    case "pause": try pause(timeoutMilliseconds: timeout)
    case "resume", "run": try resume()
    case "disable": try disable(timeoutMilliseconds: timeout)
    case "save-state":
      let bytes = try saveState()
      reply.vmState = Data(bytes)
      reply.byteCount = UInt64(bytes.count)
    case "load-state":
      try loadState(Array(try Self.field(request.vmState, "vm_state")))
    case "remove":
      try remove(
        page: try Self.field(request.page, "page"), count: try Self.field(request.count, "count"))
    case "attach":
      let name = request.dialect ?? AttachDialect.pageSize.rawValue
      guard let dialect = AttachDialect(rawValue: name) else {
        throw ControlFailure(.badRequest, "unknown dialect \(name)")
      }
      try attach(path: try Self.field(request.path, "path"), dialect: dialect)
    case "throttle":
      try self.throttle(
        percent: try Self.field(request.count, "count"),
        milliseconds: try Self.field(request.timeoutMilliseconds, "timeout_ms"))
    case "track-writes": try trackWrites(try Self.field(request.count, "count") > 0)
    case "dirty-log-start": try startDirtyLog()
    case "dirty-log-stop": try stopDirtyLog()
    case "dirty-log-fetch":
      let bitmap = try fetchDirtyLog()
      reply.bitmap = Data(bitmap)
      reply.dirtyPages = bitmap.reduce(0) { $0 + $1.nonzeroBitCount }
    case "verify": reply = try checked()
    case "dump": reply.byteCount = try dump(to: try Self.field(request.path, "path"))
    case "quit": break
    default: throw ControlFailure(.badRequest, "unknown verb \(request.verb)")
    }
    reply.state = activity.rawValue
    return reply
  }

  private func checked() throws(ControlFailure) -> ControlReply {
    let check = try verify()
    var reply = ControlReply()
    if check.findings.count > 0 {
      let first = check.findings.sentences.first ?? ""
      reply = ControlReply(failing: .checkFailed, "\(check.findings.count) findings; \(first)")
    }
    reply.pagesChecked = check.pagesChecked
    reply.versions = check.versionSum
    reply.writes = check.writes
    reply.operations = check.operations
    reply.findingCount = check.findings.count
    reply.findings = check.findings.sentences
    return reply
  }

  private func status() -> ControlReply {
    var reply = ControlReply()
    reply.state = activity.rawValue
    reply.guest = options.guest.rawValue
    reply.pid = getpid()
    reply.vcpus = layout.vcpuCount
    reply.incoming = options.isIncoming
    reply.memoryBytes = layout.byteCount
    reply.pageSize = options.pageSize.rawValue
    reply.backing = options.backing.description
    reply.memoryPath = memory.fileDescriptor.map { "/proc/\(getpid())/fd/\($0)" }
    reply.regions = memory.regions.map { mapped in
      ControlRegion(
        hostAddress: mapped.hostAddress, size: mapped.region.byteCount.rawValue,
        offset: mapped.region.imageOffset.rawValue, pageSize: mapped.region.pageSize.rawValue)
    }
    let attachment = attachment
    reply.attached = attachment.isAttached
    reply.handlerConnected = attachment.isHandlerConnected
    if !options.isIncoming { reply.pattern = options.pattern.description }
    if let progress {
      reply.operations = progress.operations
      reply.writes = progress.writes
      reply.removals = progress.removals
    }
    reply.mismatches = mismatches
    reply.throttlePercent = throttle.percent
    return reply
  }

  private static func field<Value>(
    _ value: Value?, _ name: String
  ) throws(ControlFailure) -> Value {
    guard let value else { throw ControlFailure(.badRequest, "the field \(name) is missing") }
    return value
  }
}
