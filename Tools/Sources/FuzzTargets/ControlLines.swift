import Pages
import Session

/// Input: a byte that says how the stream is cut into pieces, then what comes over a control
/// socket, from either side of it: each line is taken for a request and for an answer; the whole is
/// taken for a packet of the keeper's channel, too.
enum ControlLines {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let pieceByteCount = Int(reader.byte()) + 1
    let stream = reader.rest()
    let lines = cut(stream, pieceByteCount: stream.count)
    invariant(
      cut(stream, pieceByteCount: 1) == lines
        && cut(stream, pieceByteCount: pieceByteCount) == lines,
      "the lines are the same whatever the pieces")
    for line in lines.whole {
      ask(line)
      answer(line)
    }
    tellKeeper(stream)
  }

  /// Shorter than a session's own limit, so that inputs of libFuzzer's reach it.
  private static let maximumLineByteCount = 1024

  private struct Lines: Equatable {
    var whole: [[UInt8]] = []
    var isTooLong = false
  }

  private static func cut(_ stream: [UInt8], pieceByteCount: Int) -> Lines {
    var splitter = LineSplitter(maximumByteCount: maximumLineByteCount)
    var lines = Lines()
    for start in stride(from: 0, to: stream.count, by: max(1, pieceByteCount)) {
      let isTaken = splitter.append(stream[start..<min(start + pieceByteCount, stream.count)])
      while let line = splitter.next() {
        invariant(line.count <= maximumLineByteCount, "a line keeps its bound")
        invariant(!line.contains(0x0A), "a line has no end inside")
        lines.whole.append(line)
      }
      guard isTaken else {
        lines.isTooLong = true
        break
      }
    }
    return lines
  }

  /// What a session does with it.
  private static func ask(_ line: [UInt8]) {
    switch SessionRequest.parse(line) {
    case .success(let request):
      let again = Self.line(of: request.line)
      guard case .success(request) = SessionRequest.parse(again) else {
        invariantBroken("a request reads as it is written")
      }
    case .failure(let error):
      invariant(!error.reason.isEmpty, "a refusal says why")
      let refusal = SessionAnswer.failed(error.reason)
      invariant(
        SessionAnswer(line: Self.line(of: refusal.line)) == refusal,
        "a refusal of anything can be told to who asked")
    }
  }

  /// What who asked does with it.
  private static func answer(_ line: [UInt8]) {
    guard let answer = SessionAnswer(line: line) else { return }
    invariant(
      SessionAnswer(line: Self.line(of: answer.line)) == answer, "an answer reads as it is written")
  }

  private static func line(of bytes: [UInt8]) -> [UInt8] {
    invariant(bytes.last == 0x0A, "a line ends")
    let line = Array(bytes.dropLast())
    invariant(!line.contains(0x0A), "one value is one line")
    invariant(line.count <= SessionAnswer.maximumLineByteCount, "what is told can be read")
    return line
  }

  private static func tellKeeper(_ packet: [UInt8]) {
    do throws(JournalFormatError) {
      let message = try KeeperMessage(packet)
      invariant(message.bytes == packet, "a keeper's message encodes as it came")
    } catch { invariant(!error.reason.isEmpty, "a refusal says why") }
  }
}
