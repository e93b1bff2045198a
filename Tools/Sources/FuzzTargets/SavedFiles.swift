import FaultHandler
import Pages
import Session
import UFFD
import Wire

/// Input: a byte that says which file it is (even: a saved session, odd: a saved attachment), then
/// the file.
enum SavedFiles {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let setting = reader.byte()
    let file = reader.rest()
    if setting & 1 == 0 { readSession(file) } else { readAttachment(file) }
  }

  private static func readSession(_ file: [UInt8]) {
    guard let saved = SavedSessionFile.parse(file) else { return }
    invariant(saved.version == SavedSession.currentVersion, "only this version is read")
    invariant(
      SavedSessionFile.parse(SavedSessionFile.bytes(of: saved)) == saved,
      "a saved session reads as it is written")
  }

  private static func readAttachment(_ file: [UInt8]) {
    guard let saved = SavedAttachment(parsing: file) else { return }
    invariant(
      SavedAttachment(parsing: saved.fileBytes) == saved,
      "a saved attachment reads as it is written")
    let document: AttachDocument
    do throws(Refusal) {
      document = try saved.document()
    } catch {
      invariant(!error.reason.isEmpty, "a refusal says why")
      return
    }
    comesBack(document)
  }

  /// A VM whose description was taken is found again by a new process.
  static func comesBack(_ document: AttachDocument) {
    let saved = SavedAttachment(
      document, process: JournalFile.ownProcess, userfaultNumber: 7)
    guard let found = SavedAttachment(parsing: saved.fileBytes) else {
      invariantBroken("what was saved is read")
    }
    do throws(Refusal) {
      let again = try found.document()
      invariant(again == document, "a description comes back as it was saved")
    } catch { invariantBroken("a description that was taken comes back") }
  }
}
