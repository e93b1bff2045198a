#include "uffd_abi.h"

// The system's own header checks ours, as far as it goes (6.1).
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

int clinux_userfaultfd(int flags) { return (int)syscall(SYS_userfaultfd, flags); }

#define SAME(ours, theirs) _Static_assert((ours) == (theirs), #theirs)

// Sizes.
SAME(sizeof(struct uffd_abi_api), sizeof(struct uffdio_api));
SAME(sizeof(struct uffd_abi_range), sizeof(struct uffdio_range));
SAME(sizeof(struct uffd_abi_register), sizeof(struct uffdio_register));
SAME(sizeof(struct uffd_abi_copy), sizeof(struct uffdio_copy));
SAME(sizeof(struct uffd_abi_fill), sizeof(struct uffdio_zeropage));
SAME(sizeof(struct uffd_abi_fill), sizeof(struct uffdio_continue));
SAME(sizeof(struct uffd_abi_writeprotect), sizeof(struct uffdio_writeprotect));
SAME(sizeof(struct uffd_abi_message), sizeof(struct uffd_msg));
SAME(sizeof(struct uffd_abi_api), 24);
SAME(sizeof(struct uffd_abi_range), 16);
SAME(sizeof(struct uffd_abi_register), 32);
SAME(sizeof(struct uffd_abi_copy), 40);
SAME(sizeof(struct uffd_abi_fill), 32);
SAME(sizeof(struct uffd_abi_move), 40);
SAME(sizeof(struct uffd_abi_writeprotect), 24);
SAME(sizeof(struct uffd_abi_message), 32);

// Offsets.
SAME(offsetof(struct uffd_abi_api, features), offsetof(struct uffdio_api, features));
SAME(offsetof(struct uffd_abi_api, ioctls), offsetof(struct uffdio_api, ioctls));
SAME(offsetof(struct uffd_abi_register, mode), offsetof(struct uffdio_register, mode));
SAME(offsetof(struct uffd_abi_register, ioctls), offsetof(struct uffdio_register, ioctls));
SAME(offsetof(struct uffd_abi_copy, src), offsetof(struct uffdio_copy, src));
SAME(offsetof(struct uffd_abi_copy, mode), offsetof(struct uffdio_copy, mode));
SAME(offsetof(struct uffd_abi_copy, copy), offsetof(struct uffdio_copy, copy));
SAME(offsetof(struct uffd_abi_fill, done), offsetof(struct uffdio_zeropage, zeropage));
SAME(offsetof(struct uffd_abi_fill, done), offsetof(struct uffdio_continue, mapped));
SAME(offsetof(struct uffd_abi_move, move), 32);
SAME(offsetof(struct uffd_abi_writeprotect, mode), offsetof(struct uffdio_writeprotect, mode));
SAME(offsetof(struct uffd_abi_message, argument0), offsetof(struct uffd_msg, arg.pagefault.flags));
SAME(offsetof(struct uffd_abi_message, argument1),
     offsetof(struct uffd_msg, arg.pagefault.address));
SAME(offsetof(struct uffd_abi_message, argument2),
     offsetof(struct uffd_msg, arg.pagefault.feat.ptid));
SAME(offsetof(struct uffd_abi_message, argument0), offsetof(struct uffd_msg, arg.fork.ufd));
SAME(offsetof(struct uffd_abi_message, argument0), offsetof(struct uffd_msg, arg.remap.from));
SAME(offsetof(struct uffd_abi_message, argument1), offsetof(struct uffd_msg, arg.remap.to));
SAME(offsetof(struct uffd_abi_message, argument2), offsetof(struct uffd_msg, arg.remap.len));
SAME(offsetof(struct uffd_abi_message, argument0), offsetof(struct uffd_msg, arg.remove.start));
SAME(offsetof(struct uffd_abi_message, argument1), offsetof(struct uffd_msg, arg.remove.end));
SAME(offsetof(struct uffd_abi_message, argument0), 8);
SAME(offsetof(struct uffd_abi_message, argument1), 16);
SAME(offsetof(struct uffd_abi_message, argument2), 24);

// Requests.
SAME(UFFD_ABI_NEW, 0x0000aa00);
SAME(UFFD_ABI_API, 0xc018aa3f);
SAME(UFFD_ABI_REGISTER, 0xc020aa00);
SAME(UFFD_ABI_UNREGISTER, 0x8010aa01);
SAME(UFFD_ABI_WAKE, 0x8010aa02);
SAME(UFFD_ABI_COPY, 0xc028aa03);
SAME(UFFD_ABI_ZEROPAGE, 0xc020aa04);
SAME(UFFD_ABI_MOVE, 0xc028aa05);
SAME(UFFD_ABI_WRITEPROTECT, 0xc018aa06);
SAME(UFFD_ABI_CONTINUE, 0xc020aa07);
SAME(UFFD_ABI_POISON, 0xc020aa08);
SAME(UFFD_ABI_NEW, USERFAULTFD_IOC_NEW);
SAME(UFFD_ABI_API, UFFDIO_API);
SAME(UFFD_ABI_REGISTER, UFFDIO_REGISTER);
SAME(UFFD_ABI_UNREGISTER, UFFDIO_UNREGISTER);
SAME(UFFD_ABI_WAKE, UFFDIO_WAKE);
SAME(UFFD_ABI_COPY, UFFDIO_COPY);
SAME(UFFD_ABI_ZEROPAGE, UFFDIO_ZEROPAGE);
SAME(UFFD_ABI_WRITEPROTECT, UFFDIO_WRITEPROTECT);
SAME(UFFD_ABI_CONTINUE, UFFDIO_CONTINUE);

// Features.
SAME(UFFD_ABI_VERSION, UFFD_API);
SAME(UFFD_ABI_FEATURE_PAGEFAULT_FLAG_WP, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
SAME(UFFD_ABI_FEATURE_EVENT_FORK, UFFD_FEATURE_EVENT_FORK);
SAME(UFFD_ABI_FEATURE_EVENT_REMAP, UFFD_FEATURE_EVENT_REMAP);
SAME(UFFD_ABI_FEATURE_EVENT_REMOVE, UFFD_FEATURE_EVENT_REMOVE);
SAME(UFFD_ABI_FEATURE_MISSING_HUGETLBFS, UFFD_FEATURE_MISSING_HUGETLBFS);
SAME(UFFD_ABI_FEATURE_MISSING_SHMEM, UFFD_FEATURE_MISSING_SHMEM);
SAME(UFFD_ABI_FEATURE_EVENT_UNMAP, UFFD_FEATURE_EVENT_UNMAP);
SAME(UFFD_ABI_FEATURE_SIGBUS, UFFD_FEATURE_SIGBUS);
SAME(UFFD_ABI_FEATURE_THREAD_ID, UFFD_FEATURE_THREAD_ID);
SAME(UFFD_ABI_FEATURE_MINOR_HUGETLBFS, UFFD_FEATURE_MINOR_HUGETLBFS);
SAME(UFFD_ABI_FEATURE_MINOR_SHMEM, UFFD_FEATURE_MINOR_SHMEM);
SAME(UFFD_ABI_FEATURE_EXACT_ADDRESS, UFFD_FEATURE_EXACT_ADDRESS);
SAME(UFFD_ABI_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
SAME(UFFD_ABI_FEATURE_WP_UNPOPULATED, 0x2000);
SAME(UFFD_ABI_FEATURE_POISON, 0x4000);
SAME(UFFD_ABI_FEATURE_WP_ASYNC, 0x8000);
SAME(UFFD_ABI_FEATURE_MOVE, 0x10000);
SAME(UFFD_ABI_FEATURES_6_18, 0x1ffff);

// Modes.
SAME(UFFD_ABI_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_MISSING);
SAME(UFFD_ABI_REGISTER_MODE_WP, UFFDIO_REGISTER_MODE_WP);
SAME(UFFD_ABI_REGISTER_MODE_MINOR, UFFDIO_REGISTER_MODE_MINOR);
SAME(UFFD_ABI_COPY_MODE_DONTWAKE, UFFDIO_COPY_MODE_DONTWAKE);
SAME(UFFD_ABI_COPY_MODE_WP, UFFDIO_COPY_MODE_WP);
SAME(UFFD_ABI_ZEROPAGE_MODE_DONTWAKE, UFFDIO_ZEROPAGE_MODE_DONTWAKE);
SAME(UFFD_ABI_WRITEPROTECT_MODE_WP, UFFDIO_WRITEPROTECT_MODE_WP);
SAME(UFFD_ABI_WRITEPROTECT_MODE_DONTWAKE, UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
SAME(UFFD_ABI_CONTINUE_MODE_DONTWAKE, UFFDIO_CONTINUE_MODE_DONTWAKE);
SAME(UFFD_ABI_CONTINUE_MODE_WP, 0x2);
SAME(UFFD_ABI_POISON_MODE_DONTWAKE, 0x1);
SAME(UFFD_ABI_MOVE_MODE_DONTWAKE, 0x1);
SAME(UFFD_ABI_MOVE_MODE_ALLOW_SRC_HOLES, 0x2);

// Events.
SAME(UFFD_ABI_EVENT_PAGEFAULT, UFFD_EVENT_PAGEFAULT);
SAME(UFFD_ABI_EVENT_FORK, UFFD_EVENT_FORK);
SAME(UFFD_ABI_EVENT_REMAP, UFFD_EVENT_REMAP);
SAME(UFFD_ABI_EVENT_REMOVE, UFFD_EVENT_REMOVE);
SAME(UFFD_ABI_EVENT_UNMAP, UFFD_EVENT_UNMAP);
SAME(UFFD_ABI_PAGEFAULT_FLAG_WRITE, UFFD_PAGEFAULT_FLAG_WRITE);
SAME(UFFD_ABI_PAGEFAULT_FLAG_WP, UFFD_PAGEFAULT_FLAG_WP);
SAME(UFFD_ABI_PAGEFAULT_FLAG_MINOR, UFFD_PAGEFAULT_FLAG_MINOR);
