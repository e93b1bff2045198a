import Pages
import Prefetch
import Testing

@Suite struct PrefetchKindTests {
  @Test func namesAreStable() {
    #expect(PrefetchKind.allCases.map(\.rawValue) == ["linear", "bubbling"])
  }
}
