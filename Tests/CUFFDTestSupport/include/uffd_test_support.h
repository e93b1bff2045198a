// What the tests of UFFD need and Swift cannot do: touch memory that may raise SIGBUS, fork, mount.
#ifndef UFFD_TEST_SUPPORT_H
#define UFFD_TEST_SUPPORT_H

#include <stdint.h>
#include <sys/types.h>

/// Reads and writes the 8 bytes at an address, exactly once.
uint64_t uffdtest_load(uint64_t address);
void uffdtest_store(uint64_t address, uint64_t value);
/// The same; 0 when it went well, else the si_code of the SIGBUS that it raised.
int uffdtest_try_load(uint64_t address, uint64_t *value);
int uffdtest_try_store(uint64_t address, uint64_t value);

/// Forks a child that loads the 8 bytes at an address and exits with 0 if they are `expected`,
/// else with 1. Its process id, or -1.
pid_t uffdtest_fork_expecting(uint64_t address, uint64_t expected);
/// The same with a store of `value`, which the child then loads again.
pid_t uffdtest_fork_storing(uint64_t address, uint64_t value);
/// Forks a child that maps the file by itself, and exits with the byte at `offset` of it.
pid_t uffdtest_fork_reading_file(int fd, uint64_t byte_count, uint64_t offset);
/// Forks a child that waits to be killed.
pid_t uffdtest_fork_waiting(void);
/// Waits for a child's end: its exit status, or -1 when a signal ended it.
int uffdtest_wait(pid_t child);

/// As `uffdtest_wait`, and reads the child's own userfaultfd meanwhile: whatever a sanitizer's run
/// time does with memory in the child's last moments raises events that wait for a reader.
int uffdtest_wait_reading(pid_t child, int uffd);

/// The two answers of UFFDIO_COPY: returns errno, or 0; `field` is the structure's answer field,
/// which must hold a recognisable number before.
int uffdtest_copy_raw(
    int fd, uint64_t target, uint64_t source, uint64_t byte_count, int64_t *field);

/// An address for that much memory, on a huge page's border, which the kernel gives to nobody who
/// does not ask for it: it looks for room from the top. So a hole that a test makes in memory that
/// it has mapped there stays a hole.
uint64_t uffdtest_remote_address(uint64_t byte_count);

/// A file on a tmpfs of its own, mounted nowhere, that holds at most `size` ("8k"). Or -1.
int uffdtest_limited_tmpfs_file(const char *size);
/// A userfaultfd by the bare system call with those flags, its handshake done. Or -1.
int uffdtest_blocking_userfaultfd(void);
/// mremap(2) to a fixed place: 0, or errno.
int uffdtest_move_mapping(uint64_t source, uint64_t byte_count, uint64_t target);
/// A memory file. Or -1.
int uffdtest_memory_file(uint64_t byte_count, int is_hugetlb);

enum { UFFDTEST_MADV_COLLAPSE = 25 };

/// One mutator of the stress test: `operation_count` times it locks a random page by its word in
/// `locks`, compares the counter at `counter_offset` of that page with the one in `expected`, and
/// adds one to both. How often they differed.
uint64_t uffdtest_mutate(
    uint64_t base, uint64_t page_byte_count, uint64_t page_count, uint64_t counter_offset,
    uint64_t seed, uint64_t operation_count, uint32_t *locks, uint64_t *expected);

/// Gives back page after page of a private range with MADV_DONTNEED and loads it then, telling in
/// `progress` which one is next. How many loads were not 0.
uint64_t uffdtest_remove_and_load(
    uint64_t base, uint64_t page_byte_count, uint64_t page_count, uint64_t *progress);
/// What `progress` says now.
uint64_t uffdtest_progress(const uint64_t *progress);

#endif
