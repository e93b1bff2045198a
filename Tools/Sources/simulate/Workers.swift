internal import Synchronization
internal import System

/// Does numbered pieces of work on several threads, and hands back the results in their order.
enum Workers {
  /// The results of the pieces from 0 on, up to and with the first one that `isLast` says ends the
  /// work: the same ones, whatever the number of threads.
  static func run<Result: Sendable>(
    jobCount: Int, pieceCount: Int, isLast: @escaping @Sendable (Result) -> Bool,
    _ work: @escaping @Sendable (Int) -> Result
  ) throws(SystemError) -> [Result] {
    let shared = Shared<Result>(pieceCount: pieceCount)
    let body: @Sendable () -> Void = {
      while let piece = shared.take() {
        let result = work(piece)
        shared.store(result, of: piece, isLast: isLast(result))
      }
    }
    if jobCount == 1 {
      body()
    } else {
      let threads = Lock<[JoinOnce]>([])
      for _ in 0..<jobCount {
        let thread = JoinOnce(try WorkerThread(name: "simulate", body))
        threads.withLock { $0.append(thread) }
      }
      for thread in threads.withLock({ $0 }) { thread.join() }
    }
    return shared.results
  }

  private final class Shared<Result: Sendable>: Sendable {
    private struct State {
      var next = 0
      /// No piece from here on is wanted.
      var end: Int
      var results: [Result?]
    }
    private let state: Lock<State>

    init(pieceCount: Int) {
      state = Lock(
        State(end: pieceCount, results: [Result?](repeating: nil, count: pieceCount)))
    }

    func take() -> Int? {
      state.withLock { state in
        guard state.next < state.end else { return nil }
        state.next += 1
        return state.next - 1
      }
    }

    func store(_ result: Result, of piece: Int, isLast: Bool) {
      state.withLock { state in
        state.results[piece] = result
        // Pieces before it may still be under way, and one of them may end the work even earlier.
        if isLast { state.end = min(state.end, piece + 1) }
      }
    }

    var results: [Result] {
      state.withLock { state in state.results.prefix(state.end).compactMap { $0 } }
    }
  }

  /// A thread in an array: `WorkerThread` itself cannot be copied.
  private final class JoinOnce: Sendable {
    private let thread: Lock<WorkerThread?>

    init(_ thread: consuming WorkerThread) { self.thread = Lock(consume thread) }

    func join() {
      let taken: WorkerThread? = thread.withLock { $0.take() }
      if let taken { taken.join() }
    }
  }
}
