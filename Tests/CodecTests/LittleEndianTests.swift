import Codec
import Testing

@Suite struct LittleEndianTests {
  @Test func theLowestByteStandsFirst() {
    var bytes: [UInt8] = []
    bytes.appendLittleEndian(UInt16(0x0102))
    bytes.appendLittleEndian(UInt32(0x0304_0506))
    bytes.appendLittleEndian(UInt64(0x0708_090a_0b0c_0d0e))
    bytes.appendLittleEndian(UInt8(0xff))
    #expect(
      bytes == [2, 1, 6, 5, 4, 3, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 9, 8, 7, 0xff])
    let two = bytes.rawBytes.loadLittleEndian(at: 0, as: UInt16.self)
    let four = bytes.rawBytes.loadLittleEndian(at: 2, as: UInt32.self)
    let eight = bytes.rawBytes.loadLittleEndian(at: 6, as: UInt64.self)
    let one = bytes.rawBytes.loadLittleEndian(at: 14, as: UInt8.self)
    #expect(two == 0x0102)
    #expect(four == 0x0304_0506)
    #expect(eight == 0x0708_090a_0b0c_0d0e)
    #expect(one == 0xff)
  }

  @Test func storesWhereItIsTold() {
    var bytes = [UInt8](repeating: 0xee, count: 8)
    bytes.withMutableRawBytes { $0.storeLittleEndian(UInt32(0x0102_0304), at: 3) }
    #expect(bytes == [0xee, 0xee, 0xee, 4, 3, 2, 1, 0xee])
  }

  @Test func aLoadOutsideTheSpanStopsTheProcess() async {
    await #expect(processExitsWith: .failure) {
      let bytes: [UInt8] = [1, 2, 3]
      _ = bytes.rawBytes.loadLittleEndian(at: 1, as: UInt32.self)
    }
  }
}
