#include "linux_hardening.h"

#include <stddef.h>
#include <sys/resource.h>

#if defined(__x86_64__)
const uint32_t clinux_audit_architecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
const uint32_t clinux_audit_architecture = AUDIT_ARCH_AARCH64;
#else
#error "name this machine's audit architecture"
#endif

// No header names the highest number; this one is of Linux 6.0 and as high as Debian 12's know.
const uint32_t clinux_highest_system_call = SYS_set_mempolicy_home_node;
const uint64_t clinux_no_limit = RLIM_INFINITY;

// Where a filter finds what it looks at.
_Static_assert(offsetof(struct seccomp_data, nr) == 0, "number");
_Static_assert(offsetof(struct seccomp_data, arch) == 4, "architecture");
_Static_assert(offsetof(struct seccomp_data, args) == 16, "arguments");

int clinux_capget(uint64_t *effective, uint64_t *permitted, uint64_t *inheritable) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
  if (syscall(SYS_capget, &header, sets) != 0) {
    return -1;
  }
  *effective = sets[0].effective | (uint64_t)sets[1].effective << 32;
  *permitted = sets[0].permitted | (uint64_t)sets[1].permitted << 32;
  *inheritable = sets[0].inheritable | (uint64_t)sets[1].inheritable << 32;
  return 0;
}

int clinux_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {
      {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
      {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
  };
  return (int)syscall(SYS_capset, &header, sets);
}

int clinux_prctl(int option, unsigned long first, unsigned long second) {
  return prctl(option, first, second, 0UL, 0UL);
}

int clinux_set_seccomp_filter(
    unsigned int flags, struct sock_filter *instructions, unsigned short count) {
  struct sock_fprog program = {.len = count, .filter = instructions};
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

int clinux_get_memory_lock_limit(uint64_t *byte_count) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) {
    return -1;
  }
  *byte_count = limit.rlim_cur;
  return 0;
}

int clinux_set_memory_lock_limit(uint64_t byte_count) {
  struct rlimit limit = {.rlim_cur = byte_count, .rlim_max = byte_count};
  return setrlimit(RLIMIT_MEMLOCK, &limit);
}

int clinux_set_core_limit(uint64_t byte_count) {
  struct rlimit limit = {.rlim_cur = byte_count, .rlim_max = byte_count};
  return setrlimit(RLIMIT_CORE, &limit);
}
