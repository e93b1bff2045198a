// What a process gives up for good: capabilities, system calls, core dumps, swap.
#ifndef CLINUX_LINUX_HARDENING_H
#define CLINUX_LINUX_HARDENING_H

#include "linux_system.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

/// This machine's calling convention, as seccomp names it.
extern const uint32_t clinux_audit_architecture;
/// The highest system call number that the headers of this build know.
extern const uint32_t clinux_highest_system_call;

/// capget(2) and capset(2) of the calling thread. 0 or -1 with errno.
int clinux_capget(uint64_t *effective, uint64_t *permitted, uint64_t *inheritable);
int clinux_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable);
/// prctl(2) with its arguments at the width that the kernel reads.
int clinux_prctl(int option, unsigned long first, unsigned long second);
/// seccomp(2), SECCOMP_SET_MODE_FILTER. 0, the id of a thread that cannot follow, or -1 with errno.
int clinux_set_seccomp_filter(
    unsigned int flags, struct sock_filter *instructions, unsigned short count);
/// getrlimit(2) and setrlimit(2) of both limits of RLIMIT_CORE or RLIMIT_MEMLOCK.
int clinux_get_memory_lock_limit(uint64_t *byte_count);
int clinux_set_memory_lock_limit(uint64_t byte_count);
int clinux_set_core_limit(uint64_t byte_count);
extern const uint64_t clinux_no_limit;

#endif
