internal import Glibc

/// What this process was started with.
public enum ProcessEnvironment {
  /// The value of an environment variable; nil when it is not set.
  public static func value(of name: String) -> String? {
    // unsafe: getenv's string is copied at once, and nothing of ours changes the environment.
    guard let text = unsafe getenv(name) else { return nil }
    return unsafe String(cString: text)
  }
}
