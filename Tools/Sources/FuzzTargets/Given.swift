import Pages
import Wire

/// The session that all targets are about; a function of nothing, so that an input means the same
/// in every build.
enum Given {
  static let session = SessionID(high: 0x090a_0b0c_0a0b_0c0d, low: 0x0102_0304_0a0b_0c0d)
  static let epoch = Epoch(rawValue: 6)
  static let vmName = "vm-1"

  /// One region of small pages, one of huge ones, with a hole between them.
  static let regions = [
    Region(
      index: RegionIndex(0), imageOffset: .zero, byteCount: ByteCount(1 << 20), pageSize: .small),
    Region(
      index: RegionIndex(1), imageOffset: ByteCount(2 << 20), byteCount: ByteCount(4 << 20),
      pageSize: .huge),
  ]

  static let layout: ImageLayout = {
    do throws(LayoutError) {
      return try ImageLayout(regions)
    } catch { invariantBroken("the regions of the fuzz targets are an image") }
  }()

  static let token: SessionToken = {
    guard let token = SessionToken(bytes: (0..<32).map { UInt8($0) }) else {
      invariantBroken("a token has 32 bytes")
    }
    return token
  }()
}
