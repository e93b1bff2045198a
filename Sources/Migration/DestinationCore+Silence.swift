extension DestinationCore {
  /// What a recovery may take for true of a VMM whose process lives but answers nothing; nil when
  /// only its answer could tell.
  ///
  /// A VMM that waits for a page, with a vCPU or with its load of device state, may answer nothing
  /// before the page has come, and no page comes before the session goes on: to insist on an answer
  /// would keep both for ever.
  public static func observation(ofSilentVMBehind records: [DestinationRecord]) -> ObservedVM? {
    switch records.last {
    // GO was not accepted, or nothing ran behind it, and the session is on its way out: the VMM is
    // ended by its pidfd, whatever it does.
    case nil, .opened, .runRuledOut, .aborted: .stopped
    // It must not run, and only the VMM can say that nobody else has let it.
    case .prepared: nil
    // From here on the VM is to run on this host, and on no other: it is told so once more, which
    // changes nothing for one that runs already. Taken for running it is never aborted.
    case .goAccepted: .running
    // It has run. Nothing is to be started.
    case .ran, .complete: .running
    }
  }

  /// What a recovery may take for true of a VM that its VMM calls paused.
  ///
  /// - Parameter isPausedForLoss: an earlier process may have paused it for a lost link. It does
  ///   that with a guest that has run, so the mark of it means nothing before RAN, whatever is
  ///   found there: one that was only prepared is never taken for running.
  public static func observation(
    ofPausedVMBehind records: [DestinationRecord], isPausedForLoss: Bool
  ) -> ObservedVM {
    switch records.last {
    // It has run, and whoever paused it for the lost link lets it run on.
    case .ran, .complete: isPausedForLoss ? .running : .stopped
    case nil, .opened, .prepared, .goAccepted, .runRuledOut, .aborted: .stopped
    }
  }
}
