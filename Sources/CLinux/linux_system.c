#include "linux_system.h"

#include <linux/kcmp.h>
#include <stddef.h>
#include <string.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

int clinux_pidfd_open(pid_t pid, unsigned int flags) {
  return (int)syscall(SYS_pidfd_open, pid, flags);
}

int clinux_pidfd_getfd(int pidfd, int target_fd, unsigned int flags) {
  return (int)syscall(SYS_pidfd_getfd, pidfd, target_fd, flags);
}

int clinux_pidfd_send_signal(int pidfd, int signal_number) {
  return (int)syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL, 0);
}

int clinux_kcmp_file(pid_t pid1, pid_t pid2, unsigned long fd1, unsigned long fd2) {
  return (int)syscall(SYS_kcmp, pid1, pid2, KCMP_FILE, fd1, fd2);
}

int clinux_pin_current_thread(unsigned int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set);
}

int clinux_allowed_processor_count(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) < 0 ? -1 : CPU_COUNT(&set);
}

int clinux_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

int clinux_fcntl_int(int fd, int command, int argument) { return fcntl(fd, command, argument); }

int clinux_memfd_create(const char *name, unsigned int flags) { return memfd_create(name, flags); }

enum { DESCRIPTOR_CAPACITY = 32 };

ssize_t clinux_send_with_descriptors(
    int socket_fd, const void *bytes, size_t length, const int *fds, int fd_count) {
  if (fd_count < 0 || fd_count > DESCRIPTOR_CAPACITY) {
    errno = EINVAL;
    return -1;
  }
  union {
    char buffer[CMSG_SPACE(sizeof(int) * DESCRIPTOR_CAPACITY)];
    struct cmsghdr alignment;
  } control = {{0}};
  struct iovec part = {.iov_base = (void *)bytes, .iov_len = length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (fd_count > 0) {
    size_t payload = sizeof(int) * (size_t)fd_count;
    message.msg_control = control.buffer;
    message.msg_controllen = CMSG_SPACE(payload);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(payload);
    memcpy(CMSG_DATA(header), fds, payload);
  }
  return sendmsg(socket_fd, &message, MSG_NOSIGNAL);
}

ssize_t clinux_receive_with_descriptors(
    int socket_fd, void *bytes, size_t length, int *fds, int fd_capacity, int *fd_count,
    int *truncated) {
  if (fd_capacity < 0 || fd_capacity > DESCRIPTOR_CAPACITY) {
    errno = EINVAL;
    return -1;
  }
  union {
    char buffer[CMSG_SPACE(sizeof(int) * DESCRIPTOR_CAPACITY)];
    struct cmsghdr alignment;
  } control;
  struct iovec part = {.iov_base = bytes, .iov_len = length};
  struct msghdr message = {
      .msg_iov = &part,
      .msg_iovlen = 1,
      .msg_control = control.buffer,
      .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)fd_capacity),
  };
  *fd_count = 0;
  *truncated = 0;
  ssize_t received = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
  if (received < 0) {
    return received;
  }
  *truncated = (message.msg_flags & MSG_CTRUNC) != 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (*fd_count < fd_capacity) {
        fds[(*fd_count)++] = fd;
      } else {
        close(fd);
        *truncated = 1;
      }
    }
  }
  return received;
}

int clinux_unix_address(const char *path, struct sockaddr_un *address) {
  size_t length = strlen(path);
  if (length >= sizeof address->sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, length + 1);
  return (int)(offsetof(struct sockaddr_un, sun_path) + length + 1);
}

int clinux_abstract_address(const char *name, struct sockaddr_un *address) {
  size_t length = strlen(name);
  if (length >= sizeof address->sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path + 1, name, length);
  return (int)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static int trap_exit_code;

static void exit_on_trap(int signal_number) {
  (void)signal_number;
  _exit(trap_exit_code);
}

void clinux_exit_on_trap(int exit_code) {
  trap_exit_code = exit_code;
  struct sigaction action = {.sa_handler = exit_on_trap};
  sigaction(SIGILL, &action, NULL);
  sigaction(SIGTRAP, &action, NULL);
  sigaction(SIGABRT, &action, NULL);
}
