internal import CLinux

/// What the process's end says when it is a bug of ours: exit code 70, as in sysexits(3).
public enum BugExit {
  /// The exit code.
  public static let code: Int32 = 70

  /// Turns the traps of a broken invariant into that exit code, after the runtime has said which
  /// rule was broken. No core is written, which would hold guest memory. For executables, once, in
  /// main: tests want to see the trap.
  public static func install() { clinux_exit_on_trap(code) }
}
