internal import CLinux

// The calls of a session, by what they are for. From strace(1) over the demo and the end-to-end
// tests, and from reading what libc makes of the calls on paths that no test takes.
extension SystemCallFilter {
  /// Those that need no look at their arguments. The fault path's come first.
  static let plainCalls: [Int32] =
    data + connections + waiting + memory + threads + signals + files + clocks + identity
    + processes + legacy

  private static let data: [Int32] = [
    SYS_io_uring_enter, SYS_read, SYS_write, SYS_pread64, SYS_pwrite64, SYS_readv, SYS_writev,
    SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_lseek, SYS_sendfile, SYS_splice,
    SYS_copy_file_range, SYS_io_uring_setup, SYS_io_uring_register,
  ]

  private static let connections: [Int32] = [
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg, SYS_accept,
    SYS_accept4, SYS_connect, SYS_bind, SYS_listen, SYS_shutdown, SYS_socketpair, SYS_getsockname,
    SYS_getpeername, SYS_getsockopt, SYS_setsockopt,
  ]

  private static let waiting: [Int32] = [
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
    SYS_epoll_pwait2, SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime,
    SYS_signalfd4, SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch, SYS_pipe2,
  ]

  private static let memory: [Int32] = [
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk, SYS_mlock, SYS_mlock2,
    SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_mincore, SYS_msync, SYS_membarrier,
    SYS_memfd_create, SYS_userfaultfd, SYS_mbind, SYS_get_mempolicy, SYS_set_mempolicy,
  ]

  private static let threads: [Int32] = [
    SYS_futex, SYS_futex_waitv, SYS_set_robust_list, SYS_get_robust_list, SYS_rseq,
    SYS_set_tid_address, SYS_gettid, SYS_exit, SYS_exit_group, SYS_getcpu, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getscheduler, SYS_sched_setscheduler,
    SYS_sched_getparam, SYS_sched_setparam, SYS_sched_getattr, SYS_sched_setattr,
    SYS_sched_get_priority_max, SYS_sched_get_priority_min,
  ]

  private static let signals: [Int32] = [
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending,
    SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_restart_syscall,
  ]

  private static let files: [Int32] = [
    SYS_openat, SYS_openat2, SYS_close, SYS_close_range, SYS_fstat, SYS_newfstatat, SYS_statx,
    SYS_statfs, SYS_fstatfs, SYS_faccessat, SYS_faccessat2, SYS_readlinkat, SYS_getdents64,
    SYS_fcntl, SYS_flock, SYS_fsync, SYS_fdatasync, SYS_ftruncate, SYS_fallocate, SYS_fadvise64,
    SYS_sync_file_range, SYS_unlinkat, SYS_mkdirat, SYS_renameat, SYS_renameat2, SYS_linkat,
    SYS_fchmod, SYS_fchmodat, SYS_umask, SYS_dup, SYS_dup3, SYS_getcwd,
  ]

  private static let clocks: [Int32] = [
    SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday,
    SYS_times, SYS_getrusage,
  ]

  private static let identity: [Int32] = [
    SYS_getpid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid,
    SYS_getresgid, SYS_getgroups, SYS_getpgid, SYS_getsid, SYS_uname, SYS_sysinfo, SYS_getrandom,
    SYS_capget,
  ]

  /// The VMM: which one it is, its descriptors, its end.
  private static let processes: [Int32] = [
    SYS_pidfd_open, SYS_pidfd_getfd, SYS_pidfd_send_signal, SYS_kcmp, SYS_wait4, SYS_waitid,
  ]

  #if arch(x86_64)
    /// Older forms of the calls above, which newer machines never had.
    private static let legacy: [Int32] = [
      SYS_poll, SYS_select, SYS_epoll_wait, SYS_open, SYS_stat, SYS_lstat, SYS_access,
      SYS_readlink, SYS_unlink, SYS_mkdir, SYS_rmdir, SYS_rename, SYS_link, SYS_chmod, SYS_dup2,
      SYS_pipe, SYS_time, SYS_getpgrp, SYS_getrlimit, SYS_arch_prctl,
    ]
  #else
    private static let legacy: [Int32] = [SYS_getrlimit]
  #endif
}
