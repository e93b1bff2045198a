/// Stops the process when one of our own rules is broken, in release builds too, and says which.
///
/// `precondition` prints nothing in release builds; a broken invariant that nobody can read costs
/// a night. Use it for programmer mistakes only: what a peer or the kernel does wrong is an error.
@inlinable
@inline(__always)
public func invariant(
  _ condition: @autoclosure () -> Bool,
  _ rule: StaticString,
  file: StaticString = #fileID,
  line: UInt = #line
) {
  if !condition() { invariantBroken(rule, file: file, line: line) }
}

/// The cold half of `invariant`: prints the broken rule and stops the process.
@inline(never)
public func invariantBroken(
  _ rule: StaticString,
  file: StaticString = #fileID,
  line: UInt = #line
) -> Never {
  fatalError("invariant broken: \(rule)", file: file, line: line)
}
