import Testing

@testable import System

@Suite struct SharedMemoryHugePagesTests {
  @Test func theSettingIsTheWordInBrackets() {
    let text = "always within_size advise [never] deny force"
    #expect(SharedMemoryHugePages.selected(in: text) == "never")
    #expect(SharedMemoryHugePages.selected(in: "always [within_size] advise") == "within_size")
    #expect(SharedMemoryHugePages.selected(in: "never") == "unknown")
  }

  @Test func aMountsOptionIsThatOfItsDevice() {
    let text = """
      25 24 0:23 / /dev/shm rw,relatime shared:5 - tmpfs tmpfs rw,size=24684084k
      26 24 0:24 / /guests rw - tmpfs none rw,huge=within_size,size=1k
      27 24 0:25 / /disk rw - ext4 /dev/vda rw,huge=never
      """
    #expect(SharedMemoryHugePages.mountSetting(ofDevice: 23, in: text) == "never")
    #expect(SharedMemoryHugePages.mountSetting(ofDevice: 24, in: text) == "within_size")
    #expect(SharedMemoryHugePages.mountSetting(ofDevice: 25, in: text) == nil)
    #expect(SharedMemoryHugePages.mountSetting(ofDevice: 26, in: text) == nil)
  }

  @Test func devicesAreNumberedAsStatDoes() throws {
    #expect(DeviceNumber.parse("08:01", radix: 16) == 0x801)
    #expect(DeviceNumber.parse("103:5", radix: 16) == 0x1_0305)
    #expect(DeviceNumber.parse("259:300", radix: 10) == 0x11_032C)
    for text in ["", "8", "8:", ":1", "8:1:2", "x:1"] {
      #expect(DeviceNumber.parse(text[...], radix: 10) == nil, "\(text)")
    }
  }
}
