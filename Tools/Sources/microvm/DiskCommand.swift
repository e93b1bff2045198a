import ArgumentParser
import GuestKit
import System

/// `microvm disk`: a file for `run --disk`.
struct DiskCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "disk", abstract: "Make the file of a disk, whose blocks say which ones they are.")

  @Argument(help: "The file, which must not exist, on a file system with direct I/O.")
  var path: String

  @Option(help: "Its size, such as 16M.")
  var size = "16M"

  func run() throws {
    try DiskBlock.makeFile(path: path, byteCount: Size.parse(size, "--size"))
  }
}
