public import ArgumentParser
public import Reporting
public import Session
internal import Migration
internal import System

// What `--check` prints, the same on both sides.
extension CommonOptions {
  /// A table for people on standard output, an object a line with `--json`.
  public func show(_ findings: [HostFinding], _ console: Console) {
    guard json else {
      StandardStream.output.write(HostFinding.describe(findings) + "\n")
      return
    }
    for finding in findings {
      console.tellFinding(
        subject: finding.subject, verdict: finding.verdict.rawValue, text: finding.text,
        remedy: finding.remedy)
    }
    _ = console.flush()
  }

  /// 0 when nothing among them speaks against a move.
  public func exitCode(of findings: [HostFinding]) -> ExitCode {
    Preflight.refusals(of: findings).isEmpty ? .success : ExitCode(Ending.refused.exitCode)
  }
}
