internal import Glibc
public import System

/// Guest memory that can be read from outside the guest, by offset in the image.
public protocol ImageReading: Sendable {
  /// How many bytes the image has.
  var byteCount: UInt64 { get }
  /// Fills `words` with the image's bytes from `offset` on. All of them must exist.
  func read(at offset: UInt64, into words: inout [UInt64]) throws(SystemError)
}

extension ImageReading {
  /// How many of its pages of 4 KiB hold anything but zeros.
  public func nonZeroPageCount() throws(SystemError) -> Int {
    var count = 0
    var words = [UInt64](repeating: 0, count: ImageCheck.pagesPerRead * 512)
    var offset: UInt64 = 0
    while offset < byteCount {
      let pageCount = min(ImageCheck.pagesPerRead, Int((byteCount - offset) / 4096))
      guard pageCount > 0 else { break }
      if words.count != pageCount * 512 { words = .init(repeating: 0, count: pageCount * 512) }
      try read(at: offset, into: &words)
      for page in 0..<pageCount
      where words[page * 512..<(page + 1) * 512].contains(where: { $0 != 0 }) { count += 1 }
      offset += UInt64(pageCount * 4096)
    }
    return count
  }
}

/// A dumped image, or a memory file.
public final class ImageFile: ImageReading {
  /// How many bytes the file has.
  public let byteCount: UInt64
  private let path: String
  private let descriptor: OwnedDescriptor

  /// Opens the file for reading.
  public init(path: String) throws(SystemError) {
    self.path = path
    descriptor = try .open(path, flags: O_RDONLY)
    let size = lseek(descriptor.rawValue, 0, SEEK_END)
    guard size >= 0 else { throw SystemError("lseek", path) }
    byteCount = UInt64(size)
  }

  /// Reads with pread(2); a hole reads as zeros.
  public func read(at offset: UInt64, into words: inout [UInt64]) throws(SystemError) {
    try readAll(from: descriptor.rawValue, at: offset, name: path, into: &words)
  }
}

/// The memory of another process, read at its host addresses through /proc/PID/mem: what its guest
/// sees, whatever the memory is made of. A page that is missing there makes the reader wait for
/// the fault handler. Needs the right to trace the process.
public final class ProcessImage: ImageReading {
  /// A piece of the image and where that process has it.
  public struct Piece: Hashable, Sendable {
    /// Where it starts in the image.
    public var offset: UInt64
    /// Its length.
    public var byteCount: UInt64
    /// Its first byte's address in the process.
    public var hostAddress: UInt64

    /// A piece of `byteCount` bytes.
    public init(offset: UInt64, byteCount: UInt64, hostAddress: UInt64) {
      self.offset = offset
      self.byteCount = byteCount
      self.hostAddress = hostAddress
    }
  }

  /// How many bytes all pieces have.
  public let byteCount: UInt64
  private let pieces: [Piece]
  private let descriptor: OwnedDescriptor
  private let path: String

  /// Opens the memory of `processID`. The pieces are dense, in the order of the image.
  public init(processID: Int32, pieces: [Piece]) throws(SystemError) {
    path = "/proc/\(processID)/mem"
    descriptor = try .open(path, flags: O_RDONLY)
    self.pieces = pieces
    byteCount = pieces.reduce(0) { $0 + $1.byteCount }
  }

  /// Reads piece by piece with pread(2).
  public func read(at offset: UInt64, into words: inout [UInt64]) throws(SystemError) {
    var done = 0
    while done < words.count {
      let position = offset + UInt64(done) * 8
      guard
        let piece = pieces.first(where: {
          position - $0.offset < $0.byteCount && position >= $0.offset
        })
      else { throw SystemError("pread", "\(path): offset \(position)", .badAddress) }
      let inside = position - piece.offset
      let count = min(words.count - done, Int((piece.byteCount - inside) / 8))
      var part = [UInt64](repeating: 0, count: count)
      try readAll(
        from: descriptor.rawValue, at: piece.hostAddress + inside, name: path, into: &part)
      words.replaceSubrange(done..<done + count, with: part)
      done += count
    }
  }
}

private func readAll(
  from descriptor: Int32, at offset: UInt64, name: String, into words: inout [UInt64]
) throws(SystemError) {
  var done = 0
  let byteCount = words.count * 8
  while done < byteCount {
    // unsafe: the array has byteCount bytes, of which those from `done` on are still to be read.
    let count = unsafe words.withUnsafeMutableBytes {
      unsafe pread(descriptor, $0.baseAddress! + done, byteCount - done, Int(offset) + done)
    }
    if count < 0, Errno.current == .interrupted { continue }
    guard count > 0 else {
      let place = "\(name) at \(offset + UInt64(done))"
      // End of file inside the image: somebody cut it.
      throw count == 0 ? SystemError("pread", place, .noSuchEntry) : SystemError("pread", place)
    }
    done += count
  }
}

/// This process's own guest memory. A missing page makes the reader wait.
extension GuestMemory: ImageReading {
  /// Copies out of the mapping.
  public func read(at offset: UInt64, into words: inout [UInt64]) throws(SystemError) {
    // 4 KiB at a time, because regions have gaps between them.
    for start in stride(from: 0, to: words.count, by: 512) {
      let count = min(512, words.count - start)
      let source = unsafe pointer(at: offset + UInt64(start) * 8)
      // unsafe: an image page lies inside one region; the array has room for `count` words there.
      unsafe words.withUnsafeMutableBytes {
        unsafe _ = memcpy($0.baseAddress! + start * 8, source, count * 8)
      }
    }
  }
}
