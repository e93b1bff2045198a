// The kernel's userfaultfd interface as of Linux 6.18, in our own words: the system headers of the
// distributions that we build on are older (6.1) and lack MOVE, POISON, WP_ASYNC, WP_UNPOPULATED
// and CONTINUE_MODE_WP. Numbers and sizes are asserted in uffd_abi.c. Each number is a macro, which
// C can assert on, and a `static const`, which Swift can import.
#ifndef CLINUX_UFFD_ABI_H
#define CLINUX_UFFD_ABI_H

#include <stdint.h>
#include <sys/ioctl.h>

#define UFFD_ABI_BIT(n) (UINT64_C(1) << (n))

/// UFFDIO_API: the handshake.
struct uffd_abi_api {
  uint64_t api;
  uint64_t features;
  uint64_t ioctls;
};

/// A range of the address space of the process that made the descriptor.
struct uffd_abi_range {
  uint64_t start;
  uint64_t len;
};

/// UFFDIO_REGISTER.
struct uffd_abi_register {
  struct uffd_abi_range range;
  uint64_t mode;
  uint64_t ioctls;
};

/// UFFDIO_COPY. `copy` answers the bytes done, or a negative error number.
struct uffd_abi_copy {
  uint64_t dst;
  uint64_t src;
  uint64_t len;
  uint64_t mode;
  int64_t copy;
};

/// UFFDIO_ZEROPAGE, UFFDIO_CONTINUE and UFFDIO_POISON, which share one shape. `done` is the
/// kernel's `zeropage`, `mapped` or `updated`: the bytes done, or a negative error number.
struct uffd_abi_fill {
  struct uffd_abi_range range;
  uint64_t mode;
  int64_t done;
};

/// UFFDIO_MOVE. `move` answers the bytes done, or a negative error number.
struct uffd_abi_move {
  uint64_t dst;
  uint64_t src;
  uint64_t len;
  uint64_t mode;
  int64_t move;
};

/// UFFDIO_WRITEPROTECT.
struct uffd_abi_writeprotect {
  struct uffd_abi_range range;
  uint64_t mode;
};

/// What read(2) on the descriptor gives, once for each event. What the three arguments mean:
///
/// | event     | argument0      | argument1 | argument2             |
/// |-----------|----------------|-----------|-----------------------|
/// | PAGEFAULT | flags          | address   | thread id (low half)  |
/// | FORK      | fd (low half)  |           |                       |
/// | REMAP     | from           | to        | length                |
/// | REMOVE    | start          | end       |                       |
/// | UNMAP     | start          | end       |                       |
struct uffd_abi_message {
  uint8_t event;
  uint8_t reserved1;
  uint16_t reserved2;
  uint32_t reserved3;
  uint64_t argument0;
  uint64_t argument1;
  uint64_t argument2;
};

// Requests. WAKE and UNREGISTER are _IOR although they only send: with _IOW every call fails.
#define UFFD_ABI_TYPE 0xAA
#define UFFD_ABI_REGISTER_NUMBER 0x00
#define UFFD_ABI_UNREGISTER_NUMBER 0x01
#define UFFD_ABI_WAKE_NUMBER 0x02
#define UFFD_ABI_COPY_NUMBER 0x03
#define UFFD_ABI_ZEROPAGE_NUMBER 0x04
#define UFFD_ABI_MOVE_NUMBER 0x05
#define UFFD_ABI_WRITEPROTECT_NUMBER 0x06
#define UFFD_ABI_CONTINUE_NUMBER 0x07
#define UFFD_ABI_POISON_NUMBER 0x08
#define UFFD_ABI_API_NUMBER 0x3F

#define UFFD_ABI_NEW _IO(UFFD_ABI_TYPE, 0x00)
#define UFFD_ABI_API _IOWR(UFFD_ABI_TYPE, UFFD_ABI_API_NUMBER, struct uffd_abi_api)
#define UFFD_ABI_REGISTER \
  _IOWR(UFFD_ABI_TYPE, UFFD_ABI_REGISTER_NUMBER, struct uffd_abi_register)
#define UFFD_ABI_UNREGISTER \
  _IOR(UFFD_ABI_TYPE, UFFD_ABI_UNREGISTER_NUMBER, struct uffd_abi_range)
#define UFFD_ABI_WAKE _IOR(UFFD_ABI_TYPE, UFFD_ABI_WAKE_NUMBER, struct uffd_abi_range)
#define UFFD_ABI_COPY _IOWR(UFFD_ABI_TYPE, UFFD_ABI_COPY_NUMBER, struct uffd_abi_copy)
#define UFFD_ABI_ZEROPAGE _IOWR(UFFD_ABI_TYPE, UFFD_ABI_ZEROPAGE_NUMBER, struct uffd_abi_fill)
#define UFFD_ABI_MOVE _IOWR(UFFD_ABI_TYPE, UFFD_ABI_MOVE_NUMBER, struct uffd_abi_move)
#define UFFD_ABI_WRITEPROTECT \
  _IOWR(UFFD_ABI_TYPE, UFFD_ABI_WRITEPROTECT_NUMBER, struct uffd_abi_writeprotect)
#define UFFD_ABI_CONTINUE _IOWR(UFFD_ABI_TYPE, UFFD_ABI_CONTINUE_NUMBER, struct uffd_abi_fill)
#define UFFD_ABI_POISON _IOWR(UFFD_ABI_TYPE, UFFD_ABI_POISON_NUMBER, struct uffd_abi_fill)

static const unsigned long uffd_request_new = UFFD_ABI_NEW;
static const unsigned long uffd_request_api = UFFD_ABI_API;
static const unsigned long uffd_request_register = UFFD_ABI_REGISTER;
static const unsigned long uffd_request_unregister = UFFD_ABI_UNREGISTER;
static const unsigned long uffd_request_wake = UFFD_ABI_WAKE;
static const unsigned long uffd_request_copy = UFFD_ABI_COPY;
static const unsigned long uffd_request_zeropage = UFFD_ABI_ZEROPAGE;
static const unsigned long uffd_request_move = UFFD_ABI_MOVE;
static const unsigned long uffd_request_writeprotect = UFFD_ABI_WRITEPROTECT;
static const unsigned long uffd_request_continue = UFFD_ABI_CONTINUE;
static const unsigned long uffd_request_poison = UFFD_ABI_POISON;

// The bits of `uffd_abi_register.ioctls`: which operations the registered range supports.
static const uint64_t uffd_range_wake = UFFD_ABI_BIT(UFFD_ABI_WAKE_NUMBER);
static const uint64_t uffd_range_copy = UFFD_ABI_BIT(UFFD_ABI_COPY_NUMBER);
static const uint64_t uffd_range_zeropage = UFFD_ABI_BIT(UFFD_ABI_ZEROPAGE_NUMBER);
static const uint64_t uffd_range_move = UFFD_ABI_BIT(UFFD_ABI_MOVE_NUMBER);
static const uint64_t uffd_range_writeprotect = UFFD_ABI_BIT(UFFD_ABI_WRITEPROTECT_NUMBER);
static const uint64_t uffd_range_continue = UFFD_ABI_BIT(UFFD_ABI_CONTINUE_NUMBER);
static const uint64_t uffd_range_poison = UFFD_ABI_BIT(UFFD_ABI_POISON_NUMBER);

// The API version and the features.
#define UFFD_ABI_VERSION UINT64_C(0xAA)
#define UFFD_ABI_FEATURE_PAGEFAULT_FLAG_WP UFFD_ABI_BIT(0)
#define UFFD_ABI_FEATURE_EVENT_FORK UFFD_ABI_BIT(1)
#define UFFD_ABI_FEATURE_EVENT_REMAP UFFD_ABI_BIT(2)
#define UFFD_ABI_FEATURE_EVENT_REMOVE UFFD_ABI_BIT(3)
#define UFFD_ABI_FEATURE_MISSING_HUGETLBFS UFFD_ABI_BIT(4)
#define UFFD_ABI_FEATURE_MISSING_SHMEM UFFD_ABI_BIT(5)
#define UFFD_ABI_FEATURE_EVENT_UNMAP UFFD_ABI_BIT(6)
#define UFFD_ABI_FEATURE_SIGBUS UFFD_ABI_BIT(7)
#define UFFD_ABI_FEATURE_THREAD_ID UFFD_ABI_BIT(8)
#define UFFD_ABI_FEATURE_MINOR_HUGETLBFS UFFD_ABI_BIT(9)
#define UFFD_ABI_FEATURE_MINOR_SHMEM UFFD_ABI_BIT(10)
#define UFFD_ABI_FEATURE_EXACT_ADDRESS UFFD_ABI_BIT(11)
#define UFFD_ABI_FEATURE_WP_HUGETLBFS_SHMEM UFFD_ABI_BIT(12)
#define UFFD_ABI_FEATURE_WP_UNPOPULATED UFFD_ABI_BIT(13)
#define UFFD_ABI_FEATURE_POISON UFFD_ABI_BIT(14)
#define UFFD_ABI_FEATURE_WP_ASYNC UFFD_ABI_BIT(15)
#define UFFD_ABI_FEATURE_MOVE UFFD_ABI_BIT(16)
/// Every feature above: what Linux 6.18 answers on x86-64.
#define UFFD_ABI_FEATURES_6_18 (UFFD_ABI_BIT(17) - 1)

static const uint64_t uffd_api_version = UFFD_ABI_VERSION;
static const uint64_t uffd_feature_pagefault_flag_wp = UFFD_ABI_FEATURE_PAGEFAULT_FLAG_WP;
static const uint64_t uffd_feature_event_fork = UFFD_ABI_FEATURE_EVENT_FORK;
static const uint64_t uffd_feature_event_remap = UFFD_ABI_FEATURE_EVENT_REMAP;
static const uint64_t uffd_feature_event_remove = UFFD_ABI_FEATURE_EVENT_REMOVE;
static const uint64_t uffd_feature_missing_hugetlbfs = UFFD_ABI_FEATURE_MISSING_HUGETLBFS;
static const uint64_t uffd_feature_missing_shmem = UFFD_ABI_FEATURE_MISSING_SHMEM;
static const uint64_t uffd_feature_event_unmap = UFFD_ABI_FEATURE_EVENT_UNMAP;
static const uint64_t uffd_feature_sigbus = UFFD_ABI_FEATURE_SIGBUS;
static const uint64_t uffd_feature_thread_id = UFFD_ABI_FEATURE_THREAD_ID;
static const uint64_t uffd_feature_minor_hugetlbfs = UFFD_ABI_FEATURE_MINOR_HUGETLBFS;
static const uint64_t uffd_feature_minor_shmem = UFFD_ABI_FEATURE_MINOR_SHMEM;
static const uint64_t uffd_feature_exact_address = UFFD_ABI_FEATURE_EXACT_ADDRESS;
static const uint64_t uffd_feature_wp_hugetlbfs_shmem = UFFD_ABI_FEATURE_WP_HUGETLBFS_SHMEM;
static const uint64_t uffd_feature_wp_unpopulated = UFFD_ABI_FEATURE_WP_UNPOPULATED;
static const uint64_t uffd_feature_poison = UFFD_ABI_FEATURE_POISON;
static const uint64_t uffd_feature_wp_async = UFFD_ABI_FEATURE_WP_ASYNC;
static const uint64_t uffd_feature_move = UFFD_ABI_FEATURE_MOVE;
static const uint64_t uffd_features_6_18 = UFFD_ABI_FEATURES_6_18;

// Modes.
#define UFFD_ABI_REGISTER_MODE_MISSING UFFD_ABI_BIT(0)
#define UFFD_ABI_REGISTER_MODE_WP UFFD_ABI_BIT(1)
#define UFFD_ABI_REGISTER_MODE_MINOR UFFD_ABI_BIT(2)
#define UFFD_ABI_COPY_MODE_DONTWAKE UFFD_ABI_BIT(0)
#define UFFD_ABI_COPY_MODE_WP UFFD_ABI_BIT(1)
#define UFFD_ABI_ZEROPAGE_MODE_DONTWAKE UFFD_ABI_BIT(0)
#define UFFD_ABI_WRITEPROTECT_MODE_WP UFFD_ABI_BIT(0)
#define UFFD_ABI_WRITEPROTECT_MODE_DONTWAKE UFFD_ABI_BIT(1)
#define UFFD_ABI_CONTINUE_MODE_DONTWAKE UFFD_ABI_BIT(0)
#define UFFD_ABI_CONTINUE_MODE_WP UFFD_ABI_BIT(1)
#define UFFD_ABI_POISON_MODE_DONTWAKE UFFD_ABI_BIT(0)
#define UFFD_ABI_MOVE_MODE_DONTWAKE UFFD_ABI_BIT(0)
#define UFFD_ABI_MOVE_MODE_ALLOW_SRC_HOLES UFFD_ABI_BIT(1)

static const uint64_t uffd_register_mode_missing = UFFD_ABI_REGISTER_MODE_MISSING;
static const uint64_t uffd_register_mode_wp = UFFD_ABI_REGISTER_MODE_WP;
static const uint64_t uffd_register_mode_minor = UFFD_ABI_REGISTER_MODE_MINOR;
static const uint64_t uffd_copy_mode_dontwake = UFFD_ABI_COPY_MODE_DONTWAKE;
static const uint64_t uffd_copy_mode_wp = UFFD_ABI_COPY_MODE_WP;
static const uint64_t uffd_zeropage_mode_dontwake = UFFD_ABI_ZEROPAGE_MODE_DONTWAKE;
static const uint64_t uffd_writeprotect_mode_wp = UFFD_ABI_WRITEPROTECT_MODE_WP;
static const uint64_t uffd_writeprotect_mode_dontwake = UFFD_ABI_WRITEPROTECT_MODE_DONTWAKE;
static const uint64_t uffd_continue_mode_dontwake = UFFD_ABI_CONTINUE_MODE_DONTWAKE;
static const uint64_t uffd_continue_mode_wp = UFFD_ABI_CONTINUE_MODE_WP;
static const uint64_t uffd_poison_mode_dontwake = UFFD_ABI_POISON_MODE_DONTWAKE;
static const uint64_t uffd_move_mode_dontwake = UFFD_ABI_MOVE_MODE_DONTWAKE;
static const uint64_t uffd_move_mode_allow_src_holes = UFFD_ABI_MOVE_MODE_ALLOW_SRC_HOLES;

// Events, and the flags of a fault.
#define UFFD_ABI_EVENT_PAGEFAULT 0x12
#define UFFD_ABI_EVENT_FORK 0x13
#define UFFD_ABI_EVENT_REMAP 0x14
#define UFFD_ABI_EVENT_REMOVE 0x15
#define UFFD_ABI_EVENT_UNMAP 0x16
#define UFFD_ABI_PAGEFAULT_FLAG_WRITE UFFD_ABI_BIT(0)
#define UFFD_ABI_PAGEFAULT_FLAG_WP UFFD_ABI_BIT(1)
#define UFFD_ABI_PAGEFAULT_FLAG_MINOR UFFD_ABI_BIT(2)

static const uint8_t uffd_event_pagefault = UFFD_ABI_EVENT_PAGEFAULT;
static const uint8_t uffd_event_fork = UFFD_ABI_EVENT_FORK;
static const uint8_t uffd_event_remap = UFFD_ABI_EVENT_REMAP;
static const uint8_t uffd_event_remove = UFFD_ABI_EVENT_REMOVE;
static const uint8_t uffd_event_unmap = UFFD_ABI_EVENT_UNMAP;
static const uint64_t uffd_pagefault_flag_write = UFFD_ABI_PAGEFAULT_FLAG_WRITE;
static const uint64_t uffd_pagefault_flag_wp = UFFD_ABI_PAGEFAULT_FLAG_WP;
static const uint64_t uffd_pagefault_flag_minor = UFFD_ABI_PAGEFAULT_FLAG_MINOR;

/// userfaultfd(2). A descriptor, or -1 with errno.
int clinux_userfaultfd(int flags);

#endif
