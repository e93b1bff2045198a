extension Connection {
  /// What has come already, at most that many bytes, in an array of its own; nil when nothing has.
  /// For handshakes: it allocates. Never blocks.
  public func receiveAvailable(atMost count: Int) throws(ConnectionError) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    // unsafe: any bytes may be stored in an array of bytes; the array is not resized meanwhile.
    var raw = unsafe span.mutableBytes
    guard let received = try tryReceive(into: &raw) else { return nil }
    bytes.removeLast(count - received)
    return bytes
  }
}
