internal import CNuma
internal import Glibc

/// The host's memory nodes: which one a mapping's pages are to come from, and running beside it.
public enum NumaNodes {
  /// How many nodes the host has; 1 where the kernel knows none.
  public static var count: Int { numa_available() < 0 ? 1 : Int(numa_max_node()) + 1 }

  /// Binds the calling thread to a node's processors. What is not allowed costs speed alone, and is
  /// left out; false then.
  @discardableResult
  public static func runCurrentThread(onNode node: Int) -> Bool {
    count > 1 && numa_run_on_node(Int32(node)) == 0
  }

  /// The node to which the mapping that holds each address is bound, by /proc/PID/numa_maps; nil
  /// where the policy leaves it open, or where it cannot be read.
  public static func boundNodes(ofPID pid: Int32, at addresses: [UInt64]) -> [Int?] {
    let none = [Int?](repeating: nil, count: addresses.count)
    let path = "/proc/\(pid)/numa_maps"
    guard
      let bytes = try? FileSystem.contents(
        ofSmallFile: path, maximumByteCount: maximumTextByteCount)
    else { return none }
    return boundNodes(inText: String(decoding: bytes, as: UTF8.self), at: addresses)
  }

  /// 65 530 mappings (vm.max_map_count) of some 200 bytes each.
  private static let maximumTextByteCount = 16 << 20

  /// The same, from a text in the form of /proc/PID/numa_maps: `start policy …` on each line, in
  /// the order of the addresses.
  public static func boundNodes(inText text: String, at addresses: [UInt64]) -> [Int?] {
    var starts: [(start: UInt64, node: Int?)] = []
    for line in text.split(separator: "\n") {
      let fields = line.split(separator: " ", maxSplits: 2)
      guard fields.count >= 2, let start = UInt64(fields[0], radix: 16) else { continue }
      starts.append((start, node(inPolicy: fields[1])))
    }
    return addresses.map { address in starts.last { $0.start <= address }?.node }
  }

  /// `bind:1`, `bind=static:1` and `prefer:1` name one node; a list or a range names none.
  private static func node(inPolicy policy: Substring) -> Int? {
    guard policy.hasPrefix("bind") || policy.hasPrefix("prefer"),
      let colon = policy.lastIndex(of: ":")
    else { return nil }
    return Int(policy[policy.index(after: colon)...])
  }
}
