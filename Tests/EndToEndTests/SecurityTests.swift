import ProgramHarness
import System
import Testing

extension EndToEnd {
  /// Two sides that do not trust each other, or of which one speaks no TLS, say so on both ends;
  /// nothing was changed, and the VM runs on.
  @Suite("Getting in")
  struct SecurityTests {
    @Test("without TLS, when both sides say so, and it is said aloud")
    func insecure() throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback, security: .insecure))
      let server = try migration.startServer()
      #expect(server.texts.contains { $0.contains("--insecure: this migration is not encrypted") })
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }

    @Test("one side speaks TLS and the other does not", arguments: [true, false])
    func mixed(sourceSpeaksTLS: Bool) throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback))
      migration.plan.security = sourceSpeaksTLS ? .tls : .insecure
      let server = try migration.startServer()
      migration.plan.security = sourceSpeaksTLS ? .insecure : .tls
      let receiver = try migration.startReceiver()
      try migration.startDestination()
      try receiver.expectEnd("refused", exitCode: 10, saying: "--tls", "--insecure")
      try server.waitFor(
        sourceSpeaksTLS ? "the peer speaks no TLS" : "the peer speaks TLS, and this side")
      try server.signal(15)
      _ = try server.end()
    }

    @Test("TCP needs one of the two, and not both")
    func options() throws {
      for more in [[], ["--insecure", "--tls", "/nowhere"], ["--insecure", "--tls-peer", "x"]] {
        let server = try Program(
          "page-server",
          [
            Binaries.path("page-server"), "send", "--vm", "web", "--memory", "file:/dev/shm/x",
            "--vmm", "microvm:/nowhere", "--listen", "127.0.0.1:0", "--token-file", "/nowhere",
          ] + more)
        #expect(try server.end() == .exited(code: 64))
      }
    }
  }
}
