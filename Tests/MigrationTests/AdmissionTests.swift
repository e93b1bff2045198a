import Migration
import Pages
import Testing
import Wire

@Suite("Admission")
struct AdmissionTests {
  static let token = SessionToken(bytes: [UInt8](repeating: 7, count: 32))!
  static let session = SessionID(high: 1, low: 2)
  static let regions = [
    Region(
      index: RegionIndex(0), imageOffset: ByteCount(0), byteCount: ByteCount(8192),
      pageSize: .small),
    Region(
      index: RegionIndex(1), imageOffset: ByteCount(8192), byteCount: ByteCount(4096),
      pageSize: .small),
  ]

  static func admission(_ image: SourceImage? = nil) throws -> Admission {
    Admission(
      vmName: "web", session: session, epoch: Epoch(rawValue: 0), mode: .postCopy,
      bulkConnectionCount: 1, image: try image ?? .declared(ImageLayout(regions)), token: token)
  }

  static func hello(_ change: (inout Hello) -> Void = { _ in }) -> Hello {
    var hello = Hello(
      role: .urgent, session: .none, epoch: Epoch(rawValue: 0), progress: .unknown, token: token,
      vmName: "web", regions: regions)
    change(&hello)
    return hello
  }

  static func refusal(
    _ hello: Hello, by admission: Admission
  ) -> Refusal? {
    var admission = admission
    do throws(Refusal) {
      _ = try admission.admit(hello, isHandedOff: false)
      return nil
    } catch { return error }
  }

  @Test("the right client gets the session and its regions")
  func welcome() throws {
    var admission = try Self.admission()
    let welcome = try admission.admit(Self.hello(), isHandedOff: false)
    #expect(welcome.session == Self.session)
    #expect(welcome.regions == Self.regions)
    let bulk = Self.hello {
      $0.role = .bulk
      $0.session = Self.session
      $0.regions = []
    }
    _ = try admission.admit(bulk, isHandedOff: false)
    #expect(Self.refusal(bulk, by: admission)?.code == .busy)
  }

  @Test("a second client is refused, and may come once the first has left")
  func secondClient() throws {
    var admission = try Self.admission()
    _ = try admission.admit(Self.hello(), isHandedOff: false)
    #expect(Self.refusal(Self.hello(), by: admission)?.code == .busy)
    admission.clientLeft(mustReturn: true)
    #expect(Self.refusal(Self.hello(), by: admission) == nil)
  }

  @Test("a client that must return does so with its own layout, another one may bring any")
  func layoutOfTheNextClient() throws {
    let image = SourceImage.whole(byteCount: ByteCount(12288), pageSize: .small)
    var admission = try Self.admission(image)
    _ = try admission.admit(Self.hello(), isHandedOff: false)
    let whole = Self.hello {
      $0.regions = [
        Region(
          index: RegionIndex(0), imageOffset: ByteCount(0), byteCount: ByteCount(12288),
          pageSize: .small)
      ]
    }
    admission.clientLeft(mustReturn: true)
    #expect(Self.refusal(whole, by: admission)?.code == .layout)
    admission.clientLeft(mustReturn: false)
    #expect(Self.refusal(whole, by: admission) == nil)
  }

  @Test("each wrong field is refused with its own code")
  func wrongFields() throws {
    let admission = try Self.admission()
    let other = SessionToken(bytes: [UInt8](repeating: 8, count: 32))!
    #expect(Self.refusal(Self.hello { $0.version = 9 }, by: admission)?.code == .version)
    #expect(Self.refusal(Self.hello { $0.token = other }, by: admission)?.code == .token)
    #expect(Self.refusal(Self.hello { $0.vmName = "db" }, by: admission)?.code == .vm)
    #expect(
      Self.refusal(Self.hello { $0.session = SessionID(high: 9, low: 9) }, by: admission)?.code
        == .session)
    let bulkFirst = Self.hello {
      $0.role = .bulk
      $0.session = Self.session
    }
    #expect(Self.refusal(bulkFirst, by: admission)?.code == .session)
  }

  @Test("a wrong token learns nothing about the VM's name or layout")
  func secretFirst() throws {
    let other = SessionToken(bytes: [UInt8](repeating: 8, count: 32))!
    let hello = Self.hello {
      $0.token = other
      $0.vmName = "guess"
      $0.regions = []
    }
    #expect(Self.refusal(hello, by: try Self.admission())?.code == .token)
  }

  @Test("count, offset, size and page size of declared regions must be equal")
  func declaredLayout() throws {
    let admission = try Self.admission()
    func reason(_ regions: [(UInt64, UInt64, PageSize)]) -> String {
      let described = regions.enumerated().map { position, part in
        Region(
          index: RegionIndex(position), imageOffset: ByteCount(rawValue: part.0),
          byteCount: ByteCount(rawValue: part.1), pageSize: part.2)
      }
      return Self.refusal(Self.hello { $0.regions = described }, by: admission)?.reason ?? ""
    }
    #expect(reason([(0, 12288, .small)]).contains("2 regions"))
    #expect(reason([(0, 8192, .small), (12288, 4096, .small)]).contains("region 1: offset"))
    #expect(reason([(0, 8192, .small), (8192, 8192, .small)]).contains("region 1: size"))
    #expect(reason([(0, 8192, .small), (4096, 4096, .small)]).contains("overlap"))
    #expect(reason([(0, 8192, .small), (8192, 100, .small)]).contains("whole number"))
    #expect(reason([]).contains("no regions"))
  }

  @Test("the regions of a destination must tile a file exactly, with its page size")
  func tiling() throws {
    let image = SourceImage.whole(byteCount: ByteCount(12288), pageSize: .small)
    #expect(Self.refusal(Self.hello(), by: try Self.admission(image)) == nil)
    let larger = SourceImage.whole(byteCount: ByteCount(16384), pageSize: .small)
    #expect(
      Self.refusal(Self.hello(), by: try Self.admission(larger))?.reason.contains("12288") == true)
    let gap = Self.hello { $0.regions.removeFirst() }
    #expect(Self.refusal(gap, by: try Self.admission(image))?.code == .layout)
    let huge = SourceImage.whole(byteCount: ByteCount(12288), pageSize: .huge)
    #expect(
      Self.refusal(Self.hello(), by: try Self.admission(huge))?.reason.contains("page size")
        == true)
  }
}

@Suite("Admission of those who only check")
struct CheckAdmissionTests {
  private static func hello(_ change: (inout Hello) -> Void = { _ in }) -> Hello {
    AdmissionTests.hello {
      $0.role = .check
      $0.regions = []
      change(&$0)
    }
  }

  private static func refusal(_ hello: Hello, by admission: Admission) -> Refusal? {
    do throws(Refusal) {
      _ = try admission.admitCheck(hello)
      return nil
    } catch { return error }
  }

  @Test("it is told the image, and what the processors can do")
  func welcome() throws {
    var admission = try AdmissionTests.admission()
    admission.processorFeatures = "avx2 fma"
    let welcome = try admission.admitCheck(Self.hello())
    #expect(welcome.regions == AdmissionTests.regions)
    #expect(welcome.processorFeatures == "avx2 fma")
    #expect(!admission.hasUrgent)
    let whole = try AdmissionTests.admission(
      .whole(byteCount: ByteCount(1 << 21), pageSize: .huge))
    #expect(
      try whole.admitCheck(Self.hello()).regions == [
        Region(
          index: RegionIndex(0), imageOffset: .zero, byteCount: ByteCount(1 << 21), pageSize: .huge)
      ])
  }

  @Test("a session tells its client as well, on urgent alone")
  func session() throws {
    var admission = try AdmissionTests.admission()
    admission.processorFeatures = "avx2"
    #expect(
      try admission.admit(AdmissionTests.hello(), isHandedOff: false).processorFeatures == "avx2")
    let bulk = AdmissionTests.hello {
      $0.role = .bulk
      $0.session = AdmissionTests.session
      $0.regions = []
    }
    #expect(try admission.admit(bulk, isHandedOff: false).processorFeatures.isEmpty)
  }

  @Test("a stranger learns nothing, and a session takes nobody who only checks")
  func refusals() throws {
    let admission = try AdmissionTests.admission()
    let stranger = SessionToken(bytes: [UInt8](repeating: 8, count: 32))!
    #expect(Self.refusal(Self.hello { $0.token = stranger }, by: admission)?.code == .token)
    #expect(Self.refusal(Self.hello { $0.vmName = "db" }, by: admission)?.code == .vm)
    #expect(Self.refusal(Self.hello { $0.version = 9 }, by: admission)?.code == .version)
    #expect(Self.refusal(AdmissionTests.hello(), by: admission)?.code == .session)
    #expect(AdmissionTests.refusal(Self.hello(), by: admission)?.code == .session)
  }
}
