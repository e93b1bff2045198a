internal import CLinux

/// Flags of send(2) and recv(2).
enum SocketFlags {
  static let dontWait = clinux_msg_dont_wait
  static let noSignal = clinux_msg_no_signal
  static let more = clinux_msg_more
  static let waitAll = clinux_msg_wait_all
}
