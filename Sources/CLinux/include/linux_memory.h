// What the source's memory lies on: file system magics and the bits of /proc/PID/pagemap.
#ifndef CLINUX_LINUX_MEMORY_H
#define CLINUX_LINUX_MEMORY_H

#include "linux_system.h"

extern const long clinux_hugetlbfs_magic;
/// Entry bits of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst of the kernel; no
/// header exports them).
extern const uint64_t clinux_pagemap_present;
extern const uint64_t clinux_pagemap_swapped;

#endif
