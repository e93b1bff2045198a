import Glibc
import System
import Testing

@testable import VMM

@Suite("A real microvm")
struct RealMicroVMTests {
  /// Where the build put microvm: beside the test bundle.
  private static let program: String? = {
    for argument in CommandLine.arguments where argument.contains(".xctest") {
      guard let slash = argument.lastIndex(of: "/") else { continue }
      let path = argument[..<slash] + "/microvm"
      if unsafe access(String(path), X_OK) == 0 { return String(path) }
    }
    return nil
  }()

  @Test(
    "is paused, saved, resumed, disabled for ever, and killed",
    .enabled(if: program != nil, "microvm is not built beside the tests"))
  func life() throws {
    let program = try #require(Self.program)
    let digits = try RandomBytes.make(8).map { String($0, radix: 16) }.joined()
    let path = "/tmp/postcopy-microvm-\(getpid())-\(digits)"
    defer { _ = unsafe unlink(path) }
    let child = try ChildProcess(
      program, ["run", "--guest", "process", "--memory", "4M", "--vcpus", "1", "--control", path])
    #expect(child.line() == "microvm: ready \(child.pid)")
    let vm = MicroVM(vmName: "web1", socketPath: path)
    let first = try vm.status()
    #expect(first.state == .running && first.pid == child.pid && first.mismatchCount == 0)
    try vm.pause()
    try vm.pause()
    #expect(try vm.status().state == .paused)
    #expect(try !vm.saveDeviceState().isEmpty)
    #expect(throws: VMMError.self) { try vm.loadDeviceState([1, 2, 3]) }
    try vm.resume()
    #expect(try vm.status().state == .running)
    try vm.disable()
    let error = #expect(throws: VMMError.self) { try vm.run() }
    #expect(error?.isCertainlyWithoutEffect == true)
    #expect(try vm.status().state == .disabled)
    try vm.kill()
    #expect(try #require(child.waitForEnd()) & 0x7F == SIGKILL)
    try vm.kill()
  }
}
