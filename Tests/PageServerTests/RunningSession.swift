import Foundation
import Migration
import Session
import System
import Testing
import Uring
import VMM
import Wire

@testable import PageServer

typealias OrderAddress = @Sendable (OrderRequest) -> Bool

/// A session of a snapshot on a thread of its own, as a worker runs it.
final class RunningSession {
  let result: Lock<Result<SourceResult, any Error>?>
  private let listening: Mailbox<OrderAddress>
  private let address: Lock<OrderAddress?>
  private var thread: WorkerThread?

  init(_ configuration: SourceConfiguration) throws {
    let listening = try Mailbox<OrderAddress>(capacity: 1)
    let result = Lock<Result<SourceResult, any Error>?>(nil)
    let address = Lock<OrderAddress?>(nil)
    self.address = address
    self.listening = listening
    self.result = result
    thread = try WorkerThread(name: "session") {
      let outcome = Result { try Self.run(configuration, address, listening) }
      result.withLock { $0 = outcome }
    }
  }

  deinit {
    guard let thread = thread.take() else { return }
    // Its test has failed: nobody else ends it.
    _ = address.withLock { $0 }?(OrderRequest(.abort) { _ in })
    thread.join()
  }

  private static func run(
    _ configuration: SourceConfiguration, _ address: Lock<OrderAddress?>,
    _ listening: Mailbox<OrderAddress>
  ) throws -> SourceResult {
    let signals = try SignalSource()
    let session = try SourceSession(configuration) { note in
      // What is asked from then on is asked of a running session.
      guard case .listening = note, let known = address.withLock({ $0 }) else { return }
      _ = listening.post(known)
    }
    let known = session.orderAddress
    address.withLock { $0 = known }
    return try session.run(signals: signals)
  }

  /// Waits until the session runs.
  func orderAddress() throws -> OrderAddress {
    try #require(listening.receive(until: soon()))
  }

  func end() throws -> SourceResult {
    thread.take()?.join()
    return try #require(result.withLock { $0 }).get()
  }
}

/// A directory with the images, journals and sockets of sessions; removed at the end.
final class SessionPlace {
  private let root = temporaryPath("session")

  init() throws {
    try FileManager.default.createDirectory(
      atPath: root, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
  }

  deinit { try? FileManager.default.removeItem(atPath: root) }

  func endpoint(_ name: String) -> Endpoint { .unix(path: root + "/\(name).sock") }

  /// Of a snapshot of two pages.
  func configuration(_ name: String) throws -> SourceConfiguration {
    let image = root + "/\(name).image"
    try Data(count: 8192).write(to: URL(fileURLWithPath: image))
    return SourceConfiguration(
      vmName: try VMName(name), memory: .snapshot(path: image),
      frontEnd: NoVMM(vmName: name), endpoint: endpoint(name), security: .insecure,
      token: ExportFixture.token(1),
      directory: StateDirectory(statePath: root + "/state", runPath: root + "/run"))
  }
}
