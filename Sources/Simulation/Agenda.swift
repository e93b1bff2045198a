/// What is to happen, by virtual time; what was scheduled first comes first among equals.
struct Agenda {
  private struct Entry {
    let nanoseconds: UInt64
    let sequence: UInt64
    let happening: Happening

    func precedes(_ other: Entry) -> Bool {
      nanoseconds != other.nanoseconds
        ? nanoseconds < other.nanoseconds : sequence < other.sequence
    }
  }

  private var heap: [Entry] = []
  private var sequence: UInt64 = 0

  init() { heap.reserveCapacity(256) }

  mutating func add(_ happening: Happening, at nanoseconds: UInt64) {
    sequence += 1
    heap.append(Entry(nanoseconds: nanoseconds, sequence: sequence, happening: happening))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      if !heap[child].precedes(heap[parent]) { break }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  mutating func next() -> (nanoseconds: UInt64, happening: Happening)? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      sink()
    }
    return (first.nanoseconds, first.happening)
  }

  private mutating func sink() {
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < heap.count && heap[child].precedes(heap[least]) {
        least = child
      }
      if least == parent { return }
      heap.swapAt(parent, least)
      parent = least
    }
  }
}
