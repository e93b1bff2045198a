#include "uffd_test_support.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// A thread that waits inside a store has not stored yet, but ThreadSanitizer notes the store
// before. The kernel orders these accesses, by faults and their answers, which it cannot see.
#define ORDERED_BY_FAULTS __attribute__((no_sanitize("thread")))

// The end of a forked child. Not _exit: a sanitizer's run time takes that over, and what it does
// then (it forks a symbolizer) raises events that nobody reads, so the child never ends.
static void leave(int status) { syscall(SYS_exit_group, status); }

ORDERED_BY_FAULTS uint64_t uffdtest_load(uint64_t address) {
  return *(volatile uint64_t *)address;
}

ORDERED_BY_FAULTS void uffdtest_store(uint64_t address, uint64_t value) {
  *(volatile uint64_t *)address = value;
}

// The thread that expects a SIGBUS says where to go on.
static _Thread_local sigjmp_buf *bus_error_target;

static void on_bus_error(int number, siginfo_t *info, void *context) {
  (void)context;
  if (bus_error_target == NULL) {
    signal(number, SIG_DFL);
    raise(number);
    return;
  }
  siglongjmp(*bus_error_target, info->si_code);
}

static int try_access(uint64_t address, uint64_t *value, int is_store) {
  struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
  sigaction(SIGBUS, &action, NULL);
  sigjmp_buf target;
  int code = sigsetjmp(target, 1);
  if (code == 0) {
    bus_error_target = &target;
    if (is_store) {
      uffdtest_store(address, *value);
    } else {
      *value = uffdtest_load(address);
    }
  }
  bus_error_target = NULL;
  return code;
}

int uffdtest_try_load(uint64_t address, uint64_t *value) { return try_access(address, value, 0); }

int uffdtest_try_store(uint64_t address, uint64_t value) { return try_access(address, &value, 1); }

// Children come from _Fork: fork waits in the kernel until its event is read, and glibc's fork
// holds malloc's locks meanwhile, which the reader may need. No child outlives a test that went
// wrong.
enum { CHILD_SECONDS = 60 };

pid_t uffdtest_fork_expecting(uint64_t address, uint64_t expected) {
  pid_t child = _Fork();
  if (child == 0) {
    alarm(CHILD_SECONDS);
    leave(uffdtest_load(address) == expected ? 0 : 1);
  }
  return child;
}

pid_t uffdtest_fork_storing(uint64_t address, uint64_t value) {
  pid_t child = _Fork();
  if (child == 0) {
    alarm(CHILD_SECONDS);
    uffdtest_store(address, value);
    leave(uffdtest_load(address) == value ? 0 : 1);
  }
  return child;
}

pid_t uffdtest_fork_reading_file(int fd, uint64_t byte_count, uint64_t offset) {
  pid_t child = _Fork();
  if (child == 0) {
    alarm(CHILD_SECONDS);
    unsigned char *base = mmap(NULL, byte_count, PROT_READ, MAP_SHARED, fd, 0);
    leave(base == MAP_FAILED ? 255 : ((volatile unsigned char *)base)[offset]);
  }
  return child;
}

pid_t uffdtest_fork_waiting(void) {
  pid_t child = _Fork();
  if (child == 0) {
    alarm(CHILD_SECONDS);
    for (;;) {
      pause();
    }
  }
  return child;
}

int uffdtest_wait(pid_t child) {
  int status;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) {
      return -1;
    }
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int uffdtest_wait_reading(pid_t child, int uffd) {
  int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
  if (pidfd < 0) {
    return -1;
  }
  struct pollfd sets[2] = {{.fd = uffd, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
  while ((sets[1].revents & POLLIN) == 0) {
    if (poll(sets, 2, -1) < 0 && errno != EINTR) {
      break;
    }
    struct uffd_msg message;
    while (read(uffd, &message, sizeof message) == (ssize_t)sizeof message) {
    }
  }
  close(pidfd);
  return uffdtest_wait(child);
}

int uffdtest_copy_raw(
    int fd, uint64_t target, uint64_t source, uint64_t byte_count, int64_t *field) {
  struct uffdio_copy copy = {.dst = target, .src = source, .len = byte_count, .copy = *field};
  int result = ioctl(fd, UFFDIO_COPY, &copy) < 0 ? errno : 0;
  *field = copy.copy;
  return result;
}

int uffdtest_blocking_userfaultfd(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  struct uffdio_api api = {.api = UFFD_API};
  if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
    close(fd);
    return -1;
  }
  return fd;
}

int uffdtest_move_mapping(uint64_t source, uint64_t byte_count, uint64_t target) {
  void *moved = mremap((void *)source, byte_count, byte_count, MREMAP_MAYMOVE | MREMAP_FIXED,
                       (void *)target);
  return moved == MAP_FAILED ? errno : 0;
}

uint64_t uffdtest_remote_address(uint64_t byte_count) {
  // Below the executable's neighbourhood and the kernel's own choices, and one of the few stretches
  // that ThreadSanitizer leaves to the program: elsewhere it drops the wish silently.
  static _Atomic uint64_t next = 0x570000000000;
  const uint64_t huge = 2ull << 20;
  return atomic_fetch_add(&next, (byte_count + 2 * huge - 1) / huge * huge);
}

int uffdtest_memory_file(uint64_t byte_count, int is_hugetlb) {
  int fd = memfd_create("uffd-test", MFD_CLOEXEC | (is_hugetlb ? MFD_HUGETLB : 0));
  if (fd >= 0 && ftruncate(fd, (off_t)byte_count) < 0) {
    close(fd);
    return -1;
  }
  return fd;
}

// fsconfig(2) and fsopen(2): glibc has no wrappers yet, and mount.h disagrees with linux/mount.h.
enum { FSCONFIG_SET_STRING = 1, FSCONFIG_CMD_CREATE = 6 };

int uffdtest_limited_tmpfs_file(const char *size) {
  int file = -1;
  int mount = -1;
  int context = (int)syscall(SYS_fsopen, "tmpfs", 1 /* FSOPEN_CLOEXEC */);
  if (context < 0) {
    return -1;
  }
  if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", size, 0) == 0 &&
      syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
    mount = (int)syscall(SYS_fsmount, context, 1 /* FSMOUNT_CLOEXEC */, 0);
  }
  if (mount >= 0) {
    file = openat(mount, "pages", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    close(mount);
  }
  close(context);
  return file;
}

static uint64_t next_random(uint64_t *state) {
  // xorshift64: never 0 once it is not.
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

uint64_t uffdtest_mutate(
    uint64_t base, uint64_t page_byte_count, uint64_t page_count, uint64_t counter_offset,
    uint64_t seed, uint64_t operation_count, uint32_t *locks, uint64_t *expected) {
  uint64_t mismatch_count = 0;
  uint64_t state = seed | 1;
  for (uint64_t i = 0; i < operation_count; i++) {
    uint64_t page = next_random(&state) % page_count;
    volatile uint64_t *counter =
        (volatile uint64_t *)(base + page * page_byte_count + counter_offset);
    while (__atomic_exchange_n(&locks[page], 1, __ATOMIC_ACQUIRE) != 0) {
      sched_yield();
    }
    uint64_t count = *counter;
    mismatch_count += count != expected[page];
    *counter = count + 1;
    expected[page] += 1;
    __atomic_store_n(&locks[page], 0, __ATOMIC_RELEASE);
  }
  return mismatch_count;
}

uint64_t uffdtest_remove_and_load(
    uint64_t base, uint64_t page_byte_count, uint64_t page_count, uint64_t *progress) {
  uint64_t resurrected_count = 0;
  for (uint64_t page = 0; page < page_count; page++) {
    uint64_t address = base + page * page_byte_count;
    __atomic_store_n(progress, page, __ATOMIC_RELEASE);
    madvise((void *)address, page_byte_count, MADV_DONTNEED);
    resurrected_count += uffdtest_load(address) != 0;
  }
  __atomic_store_n(progress, page_count, __ATOMIC_RELEASE);
  return resurrected_count;
}

uint64_t uffdtest_progress(const uint64_t *progress) {
  return __atomic_load_n(progress, __ATOMIC_ACQUIRE);
}
