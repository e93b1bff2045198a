// What a host allows: probes and constants for the preflight checks.
#ifndef CLINUX_LINUX_HOST_H
#define CLINUX_LINUX_HOST_H

#include "linux_system.h"

/// `f_type` of statfs(2) on tmpfs.
extern const long clinux_tmpfs_magic;

/// Makes the smallest io_uring and closes it: 0, or -1 with errno.
int clinux_probe_io_uring(void);
/// Columns of the terminal behind `fd`, 0 when there is none.
int clinux_terminal_column_count(int fd);
/// getrandom(2) without flags. Its header would make CLinux the owner of libc types that Swift
/// otherwise takes from Glibc.
ssize_t clinux_getrandom(void *bytes, size_t length);
/// connect(2), whose address argument Swift imports in a form that depends on _GNU_SOURCE.
int clinux_connect(int fd, const void *address, unsigned int length);

#endif
