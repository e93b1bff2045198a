#include "linux_memory.h"

#include <linux/magic.h>

const long clinux_hugetlbfs_magic = HUGETLBFS_MAGIC;
const uint64_t clinux_pagemap_present = UINT64_C(1) << 63;
const uint64_t clinux_pagemap_swapped = UINT64_C(1) << 62;
