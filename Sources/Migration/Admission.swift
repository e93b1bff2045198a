public import Pages
public import Wire

/// What the source knows about the shape of the image that it serves.
public enum SourceImage: Hashable, Sendable {
  /// The VMM or the operator named the regions: the destination's must be the same.
  case declared(ImageLayout)
  /// Only a length and a page size are known (a file): the destination's regions must tile it.
  case whole(byteCount: ByteCount, pageSize: PageSize)

  /// All of it, as far as it is known without a destination.
  var regions: [Region] {
    switch self {
    case .declared(let layout): layout.regions
    case .whole(let byteCount, let pageSize):
      [
        Region(
          index: RegionIndex(0), imageOffset: .zero, byteCount: byteCount, pageSize: pageSize)
      ]
    }
  }

  /// The layout that both sides use when a destination with these regions joins, or why it cannot.
  public func agree(with regions: [Region]) throws(Refusal) -> ImageLayout {
    let offered: ImageLayout
    do throws(LayoutError) {
      offered = try ImageLayout(regions)
    } catch {
      throw Refusal(.layout, "the destination's memory is no valid image: \(error)")
    }
    switch self {
    case .declared(let source): try Self.requireEqual(source, offered)
    case .whole(let byteCount, let pageSize):
      try Self.requireTiling(byteCount, pageSize, offered)
    }
    return offered
  }

  private static func requireEqual(
    _ source: ImageLayout, _ offered: ImageLayout
  ) throws(Refusal) {
    guard source.regions.count == offered.regions.count else {
      throw Refusal(
        .layout,
        "the source's memory has \(source.regions.count) regions, the destination's "
          + "\(offered.regions.count); start the destination with the source's memory options")
    }
    for (ours, theirs) in zip(source.regions, offered.regions) {
      try require(ours.imageOffset.rawValue, theirs.imageOffset.rawValue, ours, "offset")
      try require(ours.byteCount.rawValue, theirs.byteCount.rawValue, ours, "size")
      try require(
        UInt64(ours.pageSize.byteCount), UInt64(theirs.pageSize.byteCount), ours, "page size")
    }
  }

  private static func require(
    _ ours: UInt64, _ theirs: UInt64, _ region: Region, _ what: String
  ) throws(Refusal) {
    guard ours != theirs else { return }
    throw Refusal(
      .layout,
      "region \(region.index.rawValue): \(what) is \(ours) bytes at the source and \(theirs) "
        + "at the destination; start the destination with the source's memory options")
  }

  private static func requireTiling(
    _ byteCount: ByteCount, _ pageSize: PageSize, _ offered: ImageLayout
  ) throws(Refusal) {
    var covered: UInt64 = 0
    for region in offered.regions.sorted(by: { $0.imageOffset < $1.imageOffset }) {
      guard region.imageOffset.rawValue == covered else {
        throw Refusal(
          .layout,
          "the destination's regions leave bytes \(covered) to \(region.imageOffset.rawValue) of "
            + "the source's image out; start the destination with the source's memory options")
      }
      try require(
        UInt64(pageSize.byteCount), UInt64(region.pageSize.byteCount), region, "page size")
      covered += region.byteCount.rawValue
    }
    guard covered == byteCount.rawValue else {
      throw Refusal(
        .layout,
        "the source's memory has \(byteCount.rawValue) bytes, the destination's \(covered); start "
          + "the destination with the source's memory size")
    }
  }
}

/// Decides who may join a session: the source's answer to each hello. One session, one client.
public struct Admission: Sendable {
  /// The VM's name; a hello for another one is refused.
  public let vmName: String
  /// This session.
  public let session: SessionID
  /// The source's epoch.
  public let epoch: Epoch
  /// How the migration is done.
  public let mode: MigrationMode
  /// How many bulk connections the destination is asked for.
  public let bulkConnectionCount: UInt8
  /// The layout agreed with the client, nil until one has been welcomed.
  public private(set) var layout: ImageLayout?
  /// Whether a client holds the urgent connection.
  public private(set) var hasUrgent = false
  /// How many bulk connections the client holds.
  public private(set) var bulkCount = 0
  /// Told to the client: what the guest may have seen of this host's processors.
  public var processorFeatures = ""
  private let image: SourceImage
  private let token: SessionToken

  /// A session that nobody has joined.
  public init(
    vmName: String, session: SessionID, epoch: Epoch, mode: MigrationMode,
    bulkConnectionCount: UInt8, image: SourceImage, token: SessionToken
  ) {
    invariant(
      bulkConnectionCount >= 1
        && Int(bulkConnectionCount) <= WireLimits.maximumBulkConnectionCount,
      "a session has a bounded, positive number of bulk connections")
    self.vmName = vmName
    self.session = session
    self.epoch = epoch
    self.mode = mode
    self.bulkConnectionCount = bulkConnectionCount
    self.image = image
    self.token = token
  }

  /// Takes the connection in, or says why not. The checks come in the order in which they reveal
  /// least: version, secret, then everything that a stranger should not learn.
  public mutating func admit(_ hello: Hello, isHandedOff: Bool) throws(Refusal) -> Welcome {
    try authenticate(hello)
    switch hello.role {
    case .urgent: try admitUrgent(hello)
    case .bulk: try admitBulk(hello)
    case .check:
      throw Refusal(
        .session,
        "the source waits to move VM \"\(vmName)\"; to check only, start it with --check as well")
    }
    return welcome(isHandedOff: isHandedOff, regions: layout?.regions ?? [], of: hello)
  }

  /// Answers a client that only checks: with the image as far as it is known here. Nothing of a
  /// session follows from it.
  public func admitCheck(_ hello: Hello) throws(Refusal) -> Welcome {
    try authenticate(hello)
    guard hello.role == .check else {
      throw Refusal(
        .session, "the source of VM \"\(vmName)\" only checks; start it again without --check")
    }
    return welcome(isHandedOff: false, regions: image.regions, of: hello)
  }

  private func welcome(isHandedOff: Bool, regions: [Region], of hello: Hello) -> Welcome {
    Welcome(
      session: session, epoch: epoch, mode: mode, bulkConnectionCount: bulkConnectionCount,
      isHandedOff: isHandedOff, regions: regions,
      processorFeatures: hello.role == .bulk ? "" : processorFeatures)
  }

  private func authenticate(_ hello: Hello) throws(Refusal) {
    guard hello.version == WireLimits.version else {
      throw Refusal(
        .version,
        "the source speaks protocol version \(WireLimits.version), the destination "
          + "\(hello.version); install the same release on both hosts")
    }
    guard token.matches(hello.token) else {
      throw Refusal(.token, "the token is not this session's; give both sides the same token file")
    }
    guard hello.vmName == vmName else {
      throw Refusal(.vm, "VM \"\(vmName)\" is served here, not \"\(hello.vmName)\"")
    }
  }

  /// Whether the client whose connections we still hold has come again: it has found its link
  /// broken before we did. The old link is to be given up, and this one admitted.
  public func isReturn(_ hello: Hello) -> Bool {
    hasUrgent && hello.role == .urgent && hello.session == session
      && hello.version == WireLimits.version && token.matches(hello.token)
      && hello.vmName == vmName
  }

  private mutating func admitUrgent(_ hello: Hello) throws(Refusal) {
    guard !hasUrgent else {
      throw Refusal(.busy, "the session of VM \"\(vmName)\" has a destination already")
    }
    guard hello.session == .none || hello.session == session else {
      throw Refusal(.session, "the session is over; a new one is served here")
    }
    let agreed = try image.agree(with: hello.regions)
    if let layout, layout != agreed {
      throw Refusal(.layout, "the destination came back with another memory layout")
    }
    layout = agreed
    hasUrgent = true
  }

  private mutating func admitBulk(_ hello: Hello) throws(Refusal) {
    guard hasUrgent, hello.session == session else {
      throw Refusal(.session, "a bulk connection names a session that has no urgent connection")
    }
    guard bulkCount < Int(bulkConnectionCount) else {
      throw Refusal(.busy, "the session has all of its \(bulkConnectionCount) bulk connections")
    }
    bulkCount += 1
  }

  /// Forgets a client whose connections are gone. Once pages of it may be installed it has to come
  /// back with the same layout; before, another one with other memory may take its place.
  public mutating func clientLeft(mustReturn: Bool) {
    hasUrgent = false
    bulkCount = 0
    if !mustReturn { layout = nil }
  }
}
