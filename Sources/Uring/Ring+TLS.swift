internal import Pages

extension Ring {
  /// Opens what a receive has brought for a sealed connection into another part of the memory: as
  /// much as there is room for. Called until there is no more, it has used up all of `sealed`.
  /// Allocates nothing.
  public mutating func open(
    _ sealed: Range<Int>, into room: Range<Int>, of connection: Connection
  ) throws(ConnectionError) -> Connection.Opened {
    invariant(!sealed.overlaps(room), "sealed and plain bytes lie apart")
    // unsafe: the memory's own ranges, checked by it; they lie apart, and no operation uses them,
    // as for `bytes` and `mutableBytes`.
    return try unsafe connection.open(
      UnsafeRawBufferPointer(start: address(sealed), count: sealed.count),
      into: UnsafeMutableRawBufferPointer(start: address(room), count: room.count))
  }

  /// Seals plain bytes into another part of the memory, which has room for
  /// `Connection.sealedByteCount(of:)`; how many there are to be sent.
  public mutating func seal(
    _ plain: Range<Int>, into room: Range<Int>, of connection: Connection
  ) throws(ConnectionError) -> Int {
    invariant(!plain.overlaps(room), "plain and sealed bytes lie apart")
    invariant(
      room.count >= Connection.sealedByteCount(of: plain.count), "what is sealed has room")
    // unsafe: as in `open`.
    return try unsafe connection.seal(
      UnsafeRawBufferPointer(start: address(plain), count: plain.count),
      into: UnsafeMutableRawBufferPointer(start: address(room), count: room.count))
  }
}
