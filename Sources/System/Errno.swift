internal import Glibc

/// An error number of the kernel or the C library.
@frozen
public struct Errno: RawRepresentable, Hashable, Error, Sendable, CustomStringConvertible {
  /// The number, as in errno(3).
  public let rawValue: Int32

  /// The error of that number.
  @inlinable
  public init(rawValue: Int32) { self.rawValue = rawValue }

  /// What the calling thread's last failed call left behind.
  public static var current: Errno { Errno(rawValue: errno) }

  /// The C library's sentence and the number.
  public var description: String {
    unsafe String(cString: strerror(rawValue)) + " (errno \(rawValue))"
  }
}

extension Errno {
  /// EAGAIN: try again, or not ready.
  public static let tryAgain = Errno(rawValue: EAGAIN)
  /// EINTR: a signal came first.
  public static let interrupted = Errno(rawValue: EINTR)
  /// EINVAL: the kernel rejects an argument.
  public static let invalidArgument = Errno(rawValue: EINVAL)
  /// ENOENT: no such file, mapping or entry.
  public static let noSuchEntry = Errno(rawValue: ENOENT)
  /// EEXIST: it is there already.
  public static let exists = Errno(rawValue: EEXIST)
  /// ESRCH: the process is gone.
  public static let noSuchProcess = Errno(rawValue: ESRCH)
  /// EPERM: not allowed for this user.
  public static let notPermitted = Errno(rawValue: EPERM)
  /// EACCES: file permissions forbid it.
  public static let accessDenied = Errno(rawValue: EACCES)
  /// ENOMEM: out of memory.
  public static let outOfMemory = Errno(rawValue: ENOMEM)
  /// ENOSPC: the device or limit is full.
  public static let noSpace = Errno(rawValue: ENOSPC)
  /// EFAULT: a bad address.
  public static let badAddress = Errno(rawValue: EFAULT)
  /// EIO: an input or output error.
  public static let inputOutput = Errno(rawValue: EIO)
  /// EPIPE: the reader is gone.
  public static let brokenPipe = Errno(rawValue: EPIPE)
  /// ECONNRESET: the peer reset the connection.
  public static let connectionReset = Errno(rawValue: ECONNRESET)
  /// ENOTSUP: not supported.
  public static let notSupported = Errno(rawValue: ENOTSUP)
}

/// A system call that failed: which, on what, and why.
public struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The call's name, such as "pread".
  public let operation: StaticOperation
  /// What it was applied to: a path, a descriptor with its range. Built where the error is thrown.
  public let operand: String
  /// The kernel's reason.
  public let errno: Errno

  /// `operation` on `operand` failed with `errno`.
  public init(_ operation: StaticOperation, _ operand: String = "", _ errno: Errno = .current) {
    self.operation = operation
    self.operand = operand
    self.errno = errno
  }

  /// One line: the call, its operand, the reason.
  public var description: String {
    operand.isEmpty ? "\(operation.name): \(errno)" : "\(operation.name) \(operand): \(errno)"
  }
}

/// The name of a system call, comparable so that errors are.
public struct StaticOperation: Hashable, Sendable, ExpressibleByStringLiteral {
  /// The call's name.
  public let name: String

  /// The operation of that name.
  public init(stringLiteral name: String) { self.name = name }
}
