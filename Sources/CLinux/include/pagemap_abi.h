// The PAGEMAP_SCAN interface of /proc/PID/pagemap (Linux 6.7), in our own words: the system headers
// that we build on are older. Numbers and sizes are asserted in pagemap_abi.c.
#ifndef CLINUX_PAGEMAP_ABI_H
#define CLINUX_PAGEMAP_ABI_H

#include <stdint.h>
#include <sys/ioctl.h>

/// One run of pages that answer the question, with the categories that were asked for.
struct pagemap_abi_region {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

/// PAGEMAP_SCAN's argument. `walk_end` answers where the scan stopped.
struct pagemap_abi_scan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};

#define PAGEMAP_ABI_SCAN _IOWR('f', 16, struct pagemap_abi_scan)

#define PAGEMAP_ABI_SCAN_WP_MATCHING (UINT64_C(1) << 0)
#define PAGEMAP_ABI_SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)

#define PAGEMAP_ABI_PAGE_IS_WPALLOWED (UINT64_C(1) << 0)
#define PAGEMAP_ABI_PAGE_IS_WRITTEN (UINT64_C(1) << 1)
#define PAGEMAP_ABI_PAGE_IS_FILE (UINT64_C(1) << 2)
#define PAGEMAP_ABI_PAGE_IS_PRESENT (UINT64_C(1) << 3)
#define PAGEMAP_ABI_PAGE_IS_SWAPPED (UINT64_C(1) << 4)
#define PAGEMAP_ABI_PAGE_IS_PFNZERO (UINT64_C(1) << 5)
#define PAGEMAP_ABI_PAGE_IS_HUGE (UINT64_C(1) << 6)

static const unsigned long pagemap_request_scan = PAGEMAP_ABI_SCAN;
static const uint64_t pagemap_scan_wp_matching = PAGEMAP_ABI_SCAN_WP_MATCHING;
static const uint64_t pagemap_scan_check_wpasync = PAGEMAP_ABI_SCAN_CHECK_WPASYNC;
static const uint64_t pagemap_page_is_wpallowed = PAGEMAP_ABI_PAGE_IS_WPALLOWED;
static const uint64_t pagemap_page_is_written = PAGEMAP_ABI_PAGE_IS_WRITTEN;
static const uint64_t pagemap_page_is_file = PAGEMAP_ABI_PAGE_IS_FILE;
static const uint64_t pagemap_page_is_present = PAGEMAP_ABI_PAGE_IS_PRESENT;
static const uint64_t pagemap_page_is_swapped = PAGEMAP_ABI_PAGE_IS_SWAPPED;
static const uint64_t pagemap_page_is_pfnzero = PAGEMAP_ABI_PAGE_IS_PFNZERO;
static const uint64_t pagemap_page_is_huge = PAGEMAP_ABI_PAGE_IS_HUGE;

#endif
