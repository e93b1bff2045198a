/// One thing that a worker gave up or took for the safety of the guest, or could not.
public struct HardeningFinding: Hashable, Sendable, CustomStringConvertible {
  /// What it is about.
  public var subject: String
  /// Whether it was done whole. If not, the session goes on all the same: each measure stands
  /// behind others, and none is worth a VM that cannot move.
  public var isDone: Bool
  /// What was done, or why not and what that means.
  public var text: String
  /// What to run or to set; nil when there is nothing to do.
  public var remedy: String?

  /// A finding with all its parts.
  public init(_ subject: String, isDone: Bool, _ text: String, remedy: String? = nil) {
    self.subject = subject
    self.isDone = isDone
    self.text = text
    self.remedy = remedy
  }

  /// One line.
  public var description: String {
    "\(subject): \(isDone ? "" : "not done: ")\(text)" + (remedy.map { "; \($0)" } ?? "")
  }
}
