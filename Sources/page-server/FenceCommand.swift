import ArgumentParser
import CommandOptions
import Migration
import Session
import System
import Wire

/// `page-server fence`: the operator's oath that the destination is dead.
struct FenceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "fence",
    abstract: "Take a VM back that was handed over to a host which is dead.",
    discussion: """
      A VM that was handed over never runs here again by itself: the destination may be running \
      it, however long it is silent. Only you can know that it does not: its host is powered off, \
      or its VMM was killed, and nobody will start it again. If that is not so, the VM runs twice \
      and destroys its disks.

      Needs no connection, and a VM that no page-server has at the moment. Refused unless the \
      source's journal ends with the hand-over: a destination that has said that the VM runs \
      there is not fenced.
      """)

  @OptionGroup var place: VMPlaceOptions

  @Flag(help: "Say that the destination is dead and stays so.")
  var iAmSureTheDestinationIsDead = false

  func validate() throws {
    guard iAmSureTheDestinationIsDead else {
      throw ValidationError(
        "make sure that the destination is dead, then say --i-am-sure-the-destination-is-dead")
    }
    _ = try place.vmName()
  }

  func run() throws {
    do throws(SourceFenceError) {
      let fenced = try SourceFence.raise(
        vm: try vmName(), in: try directory())
      StandardStream.output.write(
        """
        VM \(place.vm): fenced, session \(fenced.session.text), epoch \(fenced.epoch.rawValue)
          source:      the VM is this host's again
          destination: dead, by your word; keep it from ever starting this VM again
          next:        resume the VM here

        """)
    } catch {
      StandardStream.error.write("page-server: VM \(place.vm): not fenced: \(error)\n")
      throw ExitCode(Ending.refused.exitCode)
    }
  }

  private func vmName() throws(SourceFenceError) -> VMName {
    do throws(StateError) { return try VMName(place.vm) } catch { throw .state(error) }
  }

  private func directory() throws(SourceFenceError) -> StateDirectory {
    do throws(StateError) { return try place.directory() } catch { throw .state(error) }
  }
}
