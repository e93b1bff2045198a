import Pages
import Testing

@Suite("PageBitmap")
struct PageBitmapTests {
  @Test("searches agree with a walk over single bits", arguments: [1, 63, 64, 65, 200])
  func searches(pageCount: Int) {
    for stride in 1...7 {
      var bitmap = PageBitmap(pageCount: pageCount)
      for index in Swift.stride(from: 0, to: pageCount, by: stride) { bitmap.insert(index) }
      for start in 0...pageCount {
        for end in [start, min(start + 3, pageCount), pageCount] {
          let range = start..<max(start, end)
          #expect(bitmap.firstSet(from: start, before: end) == range.first { bitmap[$0] })
          #expect(bitmap.firstClear(from: start, before: end) == range.first { !bitmap[$0] })
        }
      }
    }
  }

  @Test("insert and remove tell whether they changed anything, and the count follows")
  func counting() {
    var bitmap = PageBitmap(pageCount: 130)
    let changes = [
      bitmap.insert(129), bitmap.insert(129), bitmap.remove(0), bitmap.remove(129),
      bitmap.remove(129),
    ]
    #expect(changes == [true, false, false, true, false])
    #expect(bitmap.setCount == 0)
  }

  @Test("a broken invariant stops the process in every build")
  func outOfBounds() async {
    await #expect(processExitsWith: .failure) {
      _ = PageBitmap(pageCount: 8)[8]
    }
  }
}
