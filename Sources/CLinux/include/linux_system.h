// System calls, constants and macros of Linux that `import Glibc` leaves out.
#ifndef CLINUX_LINUX_SYSTEM_H
#define CLINUX_LINUX_SYSTEM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

// Of the enumeration in sys/socket.h the importer shows a file what the module that it met first
// has: with OpenSSL's headers beside Glibc that is a matter of luck.
static const int clinux_msg_dont_wait = MSG_DONTWAIT;
static const int clinux_msg_no_signal = MSG_NOSIGNAL;
static const int clinux_msg_more = MSG_MORE;
static const int clinux_msg_wait_all = MSG_WAITALL;

int clinux_pidfd_open(pid_t pid, unsigned int flags);
int clinux_pidfd_getfd(int pidfd, int target_fd, unsigned int flags);
int clinux_pidfd_send_signal(int pidfd, int signal_number);
/// 0: the same open file; 1, 2 or 3: not; -1: errno. kcmp(2), KCMP_FILE.
int clinux_kcmp_file(pid_t pid1, pid_t pid2, unsigned long fd1, unsigned long fd2);
/// Pins the calling thread to one processor. 0 or -1 with errno.
int clinux_pin_current_thread(unsigned int cpu);
/// On how many processors the calling thread may run; -1 with errno.
int clinux_allowed_processor_count(void);
int clinux_open(const char *path, int flags, mode_t mode);
int clinux_fcntl_int(int fd, int command, int argument);
int clinux_memfd_create(const char *name, unsigned int flags);

/// Sends `length` bytes with `fd_count` descriptors attached. Bytes sent, or -1 with errno.
ssize_t clinux_send_with_descriptors(
    int socket_fd, const void *bytes, size_t length, const int *fds, int fd_count);
/// Receives up to `length` bytes and up to `fd_capacity` descriptors, which are close-on-exec.
/// `fd_count` gets how many came, `truncated` 1 when the kernel dropped some (MSG_CTRUNC).
ssize_t clinux_receive_with_descriptors(
    int socket_fd, void *bytes, size_t length, int *fds, int fd_capacity, int *fd_count,
    int *truncated);
/// SIGILL, SIGTRAP and SIGABRT (what a failed check of the runtime raises) end the process with
/// that code.
void clinux_exit_on_trap(int exit_code);

/// Fills `address` for a UNIX socket path. The address length, or -1 when the path is too long.
int clinux_unix_address(const char *path, struct sockaddr_un *address);
/// The same for a name in the abstract namespace, given without its leading zero.
int clinux_abstract_address(const char *name, struct sockaddr_un *address);

#endif
