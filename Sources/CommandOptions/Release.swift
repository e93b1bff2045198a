/// This release, as `--version` tells it.
public enum Release {
  /// Semantic version of the package and of all its commands.
  public static let version = "0.1.0"
}
