internal import Pages
internal import System

/// A worker under a supervisor: a child of its own, or one that it has adopted.
final class SupervisedWorker {
  private enum Process {
    case child(WorkerProcess)
    case adopted(AdoptedProcess)
  }

  /// A process that was there before us.
  private final class AdoptedProcess {
    let handle: ProcessHandle

    init(_ handle: consuming ProcessHandle) { self.handle = handle }
  }

  /// How a worker ended.
  enum Ending {
    /// With that exit code.
    case exited(code: Int32)
    /// It died; the words for how.
    case died(String)
  }

  private let process: Process
  /// What it said last: its exit code, before it ended.
  var announcedCode: Int32?
  /// nil once the other end is gone or has sent what is no message.
  var channel: KeeperChannel?
  /// Its events, for one whose own console is not ours.
  var follower: ControlSocketClient?

  /// Starts one and hands it everything that is kept.
  init(
    executable: String, arguments: [String], keep: DescriptorKeep
  ) throws(SystemError) {
    var pair = try DescriptorStreamPair.packets()
    let channel = KeeperChannel(pair.takeFirst())
    let inherited = pair.takeSecond()
    process = .child(
      try WorkerProcess(executable: executable, arguments: arguments, passing: inherited))
    self.channel = channel
    do throws(SystemError) {
      for kept in keep.descriptors { try channel.send(kept) }
      try channel.send(.handedOver)
    } catch {
      // It has died already: its end tells the rest. A worker never starts with less than all.
      self.channel = nil
    }
  }

  /// Becomes the keeper of the worker that listens at `path`. Its descriptors follow by channel.
  init(adoptingAt path: String) throws(ControlSocketError) {
    let client = try ControlSocketClient(path: path)
    let process = AdoptedProcess(try client.process())
    let channel: KeeperChannel
    let offered: OwnedDescriptor
    do throws(SystemError) {
      var pair = try DescriptorStreamPair.packets()
      channel = KeeperChannel(pair.takeFirst())
      offered = pair.takeSecond()
    } catch {
      throw .system(error)
    }
    try client.ask(.adopt, descriptors: [offered.rawValue])
    self.process = .adopted(process)
    self.channel = channel
    // Events are a convenience; a worker that is just ending has no time for them.
    if (try? client.ask(.events)) != nil { follower = client }
  }

  var pid: Int32 {
    switch process {
    case .child(let child): child.handle.identity.pid
    case .adopted(let adopted): adopted.handle.identity.pid
    }
  }

  /// Readable when it has ended.
  var rawValue: Int32 {
    switch process {
    case .child(let child): child.handle.descriptor.rawValue
    case .adopted(let adopted): adopted.handle.descriptor.rawValue
    }
  }

  func send(_ signal: SessionSignal) throws(SystemError) {
    switch process {
    case .child(let child): try child.handle.send(signal: signal.rawValue)
    case .adopted(let adopted): try adopted.handle.send(signal: signal.rawValue)
    }
  }

  /// How it ended, after reaping it; nil while it lives. No thread of it runs any more then, so
  /// nobody else reads its userfaultfd.
  func ending() -> Ending? {
    switch process {
    case .child(let child):
      guard child.handle.hasEnded() else { return nil }
      let ending = child.waitForEnd(until: MonotonicClock.now())
      if case .exited(let code)? = ending, code != BugExit.code { return .exited(code: code) }
      // Killed behind its last word: what it had to do was done.
      return announcedEnding ?? .died(ending.map { "\($0)" } ?? "reaped by somebody else")
    case .adopted(let adopted):
      guard adopted.handle.hasEnded() else { return nil }
      return announcedEnding ?? .died("without a last word")
    }
  }

  private var announcedEnding: Ending? {
    announcedCode.flatMap { $0 == BugExit.code ? nil : .exited(code: $0) }
  }
}
