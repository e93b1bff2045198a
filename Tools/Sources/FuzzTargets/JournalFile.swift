import Codec
import Migration
import Pages
import Session
import System
import Wire

/// Input: a byte of settings, then either a file as it stands (bit 7 set; with bit 6 its checksums
/// are put right), or records, each as a length and a payload, written as the journal writes them
/// and then torn or damaged at a place that the settings' next two bytes name.
enum JournalFile {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let setting = reader.byte()
    let side: JournalSide = setting & 1 == 0 ? .source : .destination
    if setting & 0x80 != 0 {
      var file = reader.rest()
      if setting & 0x40 != 0 { mend(&file) }
      if let payloads = payloads(of: file, side) { recover(payloads, side) }
      return
    }
    let place = reader.word()
    var records: [[UInt8]] = []
    while !reader.isAtEnd, records.count < Journal.reservedSlotCount {
      let count = reader.word() % (Journal.maximumPayloadByteCount + 1)
      records.append(reader.bytes(count))
    }
    let file = records.enumerated().flatMap { position, payload in
      JournalSlot.encode(payload: payload, sequence: UInt64(position), side: side)
    }
    let found = payloads(of: file, side)
    invariant(found == records, "a journal reads as it was written")
    tear(file, records, side, at: place)
    damage(file, records, side, at: place)
    recover(records, side)
  }

  private static func mend(_ file: inout [UInt8]) {
    for start in stride(from: 0, to: file.count - 511, by: 512) {
      let checksum = Checksums.checksum(of: file, start..<start + 508)
      Checksums.store(checksum, in: &file, at: start + 508)
    }
  }

  private static func payloads(of file: [UInt8], _ side: JournalSide) -> [[UInt8]]? {
    do throws(JournalError) {
      let scan = try JournalScan(file, side: side, path: "fuzz")
      invariant(
        scan.payloads.count <= (file.count + 511) / 512, "a slot holds one record at most")
      return scan.payloads
    } catch {
      invariant(!error.description.isEmpty, "a damaged journal is told")
      return nil
    }
  }

  /// A write that ended anywhere costs the record that it was writing, and none before it. No
  /// storage tears inside a word: half a checksum is damage.
  private static func tear(
    _ file: [UInt8], _ records: [[UInt8]], _ side: JournalSide, at place: Int
  ) {
    guard let last = records.indices.last else { return }
    let end = last * 512 + place % 512 / 4 * 4
    let torn = Array(file[..<end]) + [UInt8](repeating: 0, count: file.count - end)
    let found = payloads(of: torn, side)
    // Where only zeros were still to come the whole record is there.
    invariant(
      found == Array(records[..<last]) || torn == file, "a torn record is cut, alone and silently")
  }

  /// A changed bit is damage: it never makes a history shorter, or another one.
  private static func damage(
    _ file: [UInt8], _ records: [[UInt8]], _ side: JournalSide, at place: Int
  ) {
    guard !file.isEmpty else { return }
    var damaged = file
    damaged[place % file.count] ^= 1 << (place / file.count % 8)
    guard let found = payloads(of: damaged, side) else { return }
    // A checksum of one bit that is cleared looks like a write that did not finish.
    let last = file.rawBytes.loadLittleEndian(at: file.count - 4, as: UInt32.self)
    invariant(
      last.nonzeroBitCount == 1 && found == Array(records.dropLast()),
      "a changed bit is never read as another history")
  }

  private static func recover(_ payloads: [[UInt8]], _ side: JournalSide) {
    switch side {
    case .source:
      guard let histories: [SessionHistory<SourceRecord>] = histories(payloads) else { return }
      for current in [ownBinding, histories.last?.binding ?? ownBinding] {
        _ = SendDecision.decide(current: current, histories: histories)
          .refusal(vmName: Given.vmName)
      }
      for history in histories { recover(history) }
    case .destination:
      guard let histories: [SessionHistory<DestinationRecord>] = histories(payloads) else {
        return
      }
      for isAlive in [false, true] {
        _ = ReceiveDecision.decide(current: ownBinding, histories: histories) { _ in isAlive }
          .refusal(vmName: Given.vmName)
      }
      for history in histories { recover(history) }
    }
  }

  static let ownProcess = ProcessIdentity(pid: 42, startTicks: 4711)

  /// A VM that is a process with a memory file.
  static let ownBinding: VMBinding = {
    do throws(StateError) {
      return VMBinding(
        vmName: try VMName(Given.vmName),
        boot: BootID(text: "0f0e0d0c-0b0a-0908-0706-050403020100"),
        vmm: ownProcess,
        memory: MemoryIdentity(device: 1, inode: 2, isVolatile: true))
    } catch { invariantBroken("the name of the fuzz targets is one") }
  }()

  private static func histories<Record: JournaledRecord>(
    _ payloads: [[UInt8]]
  ) -> [SessionHistory<Record>]? {
    do throws(JournalError) {
      let histories = try MigrationJournal<Record>.histories(of: payloads, path: "fuzz")
      invariant(
        histories.map(\.records.count).reduce(0, +) == payloads.count, "no record is left out")
      for history in histories {
        invariant(history.records.first?.isOpening == true, "a session begins with its opening")
      }
      return histories
    } catch { return nil }
  }

  private static func recover(_ history: SessionHistory<SourceRecord>) {
    for vm in ObservedVM.allCases {
      guard var core = SourceCore(recovering: history.records, vm: vm) else {
        invariantBroken("a session's own records can be taken up")
      }
      var effects = EffectQueue<SourceEffect>()
      core.start(now: Instant(nanoseconds: 1), into: &effects)
      let standing = SourceStanding(history.records)
      while let effect = effects.next() {
        // P1: nothing but the source's own records lets the VM run here again.
        if effect == .resumeVM {
          invariant(standing == .kept, "a source that has handed off does not resume its VM")
        }
      }
    }
  }

  private static func recover(_ history: SessionHistory<DestinationRecord>) {
    for vm in ObservedVM.allCases {
      guard var core = DestinationCore(recovering: history.records, vm: vm) else {
        invariantBroken("a session's own records can be taken up")
      }
      var effects = EffectQueue<DestinationEffect>()
      core.start(now: Instant(nanoseconds: 1), into: &effects)
      let hasAccepted = history.records.contains { record in
        switch record {
        case .goAccepted, .ran, .complete: true
        case .opened, .prepared, .runRuledOut, .aborted: false
        }
      }
      while let effect = effects.next() {
        if effect == .runVM { invariant(hasAccepted, "a VM runs by GO_ACCEPTED alone") }
      }
    }
  }
}
