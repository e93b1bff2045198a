#include "linux_host.h"

#include <linux/io_uring.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/random.h>

const long clinux_tmpfs_magic = TMPFS_MAGIC;

int clinux_probe_io_uring(void) {
  struct io_uring_params parameters;
  memset(&parameters, 0, sizeof parameters);
  int fd = (int)syscall(SYS_io_uring_setup, 1, &parameters);
  if (fd < 0) {
    return -1;
  }
  close(fd);
  return 0;
}

int clinux_terminal_column_count(int fd) {
  struct winsize size;
  return ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

int clinux_connect(int fd, const void *address, unsigned int length) {
  return connect(fd, (const struct sockaddr *)address, length);
}

ssize_t clinux_getrandom(void *bytes, size_t length) { return getrandom(bytes, length, 0); }
