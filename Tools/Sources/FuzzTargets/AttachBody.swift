import FaultHandler
import Pages
import UFFD

/// Input: a byte that says how the body is cut into pieces, then the body.
enum AttachBody {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let pieceByteCount = Int(reader.byte()) + 1
    let body = reader.rest()
    let whole = scan(body, pieceByteCount: max(1, body.count))
    invariant(
      scan(body, pieceByteCount: 1) == whole, "the end is found byte by byte as in one piece")
    invariant(
      scan(body, pieceByteCount: pieceByteCount) == whole, "the end is found whatever the pieces")
    let document: AttachDocument
    do throws(AttachError) {
      document = try AttachDocument(parsing: body)
    } catch {
      invariant(!error.description.isEmpty, "a refusal says why")
      return
    }
    check(document)
    SavedFiles.comesBack(document)
    do throws(AttachError) {
      let again = try AttachDocument(parsing: Array(text(of: document).utf8))
      invariant(again == document, "a description reads as it is written")
    } catch { invariantBroken("a description that was taken is taken again") }
  }

  private enum End: Equatable {
    case open
    case complete
    case refused(AttachError)
  }

  private static func scan(_ body: [UInt8], pieceByteCount: Int) -> End {
    var scanner = ArrayEndScanner()
    do throws(AttachError) {
      for start in stride(from: 0, to: body.count, by: pieceByteCount) {
        let wasComplete = scanner.isComplete
        try scanner.take(body[start..<min(start + pieceByteCount, body.count)])
        invariant(scanner.isComplete || !wasComplete, "what is complete stays so")
      }
    } catch { return .refused(error) }
    return scanner.isComplete ? .complete : .open
  }

  private static func check(_ document: AttachDocument) {
    let layout = document.layout
    invariant(document.hostBases.count == layout.regions.count, "every region has a host address")
    for (region, next) in zip(layout.regions, layout.regions.dropFirst()) {
      invariant(
        region.imageOffset + region.byteCount <= next.imageOffset,
        "regions stand in the order of the image and do not overlap")
    }
    let ranges = layout.regions.map { document.hostRange(of: $0) }
      .sorted { $0.start.rawValue < $1.start.rawValue }
    for (range, next) in zip(ranges, ranges.dropFirst()) {
      invariant(range.end.rawValue <= next.start.rawValue, "host ranges do not overlap")
    }
  }

  private static func text(of document: AttachDocument) -> String {
    let elements = zip(document.layout.regions, document.hostBases).map { region, base in
      "{\"base_host_virt_addr\":\(base.rawValue),\"size\":\(region.byteCount.rawValue),"
        + "\"offset\":\(region.imageOffset.rawValue),\"page_size\":\(region.pageSize.byteCount)}"
    }
    return "[" + elements.joined(separator: ",") + "]"
  }
}
