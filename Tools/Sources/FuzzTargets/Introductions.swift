import Codec
import Migration
import Pages
import Wire

/// Input: a byte of settings, then hellos, each as a length (u16) and the payload of its frame; the
/// last two pieces are a welcome's and a refusal's payload. No checksum stands in the way.
enum Introductions {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let setting = reader.byte()
    var admission = Admission(
      vmName: Given.vmName, session: Given.session, epoch: Given.epoch, mode: .postCopy,
      bulkConnectionCount: 2, image: image(setting), token: Given.token)
    var piece = reader.bytes(reader.word())
    while !reader.isAtEnd {
      say(piece, to: &admission, setting)
      piece = reader.bytes(reader.word())
    }
    say(piece, to: &admission, setting)
    hear(piece)
  }

  private static func image(_ setting: UInt8) -> SourceImage {
    setting & 1 == 0
      ? .declared(Given.layout) : .whole(byteCount: ByteCount(1 << 20), pageSize: .small)
  }

  private static func say(_ payload: [UInt8], to admission: inout Admission, _ setting: UInt8) {
    let hello: Hello
    do throws(WireError) { hello = try Hello(decoding: payload.rawBytes) } catch { return }
    invariant(
      Array(hello.encodedFrame()[WireLimits.headerByteCount...]) == payload,
      "a hello encodes as it came")
    let hadUrgent = admission.hasUrgent
    let bulkCount = admission.bulkCount
    do throws(Refusal) {
      let welcome = try admission.admitCheck(hello)
      invariant(
        hello.token.matches(Given.token) && hello.role == .check, "a check is asked for with token")
      check(welcome)
    } catch {
      // Most come for something else.
    }
    do throws(Refusal) {
      let welcome = try admission.admit(hello, isHandedOff: setting & 2 != 0)
      invariant(hello.token.matches(Given.token), "nobody gets in without the token")
      invariant(hello.vmName == Given.vmName, "nobody gets in for another VM")
      invariant(hello.role == .bulk || !hadUrgent, "a session has one urgent connection")
      invariant(admission.layout?.regions == welcome.regions, "the welcome says what was agreed")
      check(welcome)
    } catch {
      invariant(
        admission.hasUrgent == hadUrgent && admission.bulkCount == bulkCount,
        "who is refused takes no place")
    }
    invariant(
      admission.bulkCount <= Int(admission.bulkConnectionCount), "bulk connections are bounded")
    if setting & 4 != 0, admission.bulkCount == 2 {
      admission.clientLeft(mustReturn: setting & 8 != 0)
    }
  }

  /// What a source may answer.
  private static func hear(_ payload: [UInt8]) {
    do throws(WireError) { check(try Welcome(decoding: payload.rawBytes), cameAs: payload) } catch {
    }
    do throws(WireError) {
      let refusal = try Refusal(decoding: payload.rawBytes)
      let again = Array(refusal.encodedFrame(session: 0)[WireLimits.headerByteCount...])
      invariant(again == payload, "a refusal encodes as it came")
    } catch {
    }
  }

  private static func check(_ welcome: Welcome, cameAs payload: [UInt8]? = nil) {
    let again = Array(welcome.encodedFrame()[WireLimits.headerByteCount...])
    if let payload { invariant(again == payload, "a welcome encodes as it came") }
    do throws(WireError) {
      let decoded = try Welcome(decoding: again.rawBytes)
      invariant(decoded == welcome, "a welcome that is sent can be read")
    } catch { invariantBroken("a welcome that is sent can be read") }
    guard let layout = try? ImageLayout(welcome.regions) else { return }
    invariant(
      layout.totalByteCount.rawValue <= ImageLayout.maximumByteCount, "an image keeps its bound")
  }
}
