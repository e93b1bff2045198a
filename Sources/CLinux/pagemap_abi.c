#include "pagemap_abi.h"

#include <stddef.h>

_Static_assert(sizeof(struct pagemap_abi_region) == 24, "page_region");
_Static_assert(offsetof(struct pagemap_abi_region, categories) == 16, "page_region");
_Static_assert(sizeof(struct pagemap_abi_scan) == 96, "pm_scan_arg");
_Static_assert(offsetof(struct pagemap_abi_scan, walk_end) == 32, "pm_scan_arg");
_Static_assert(offsetof(struct pagemap_abi_scan, return_mask) == 88, "pm_scan_arg");
_Static_assert(PAGEMAP_ABI_SCAN == 0xc0606610, "PAGEMAP_SCAN");
_Static_assert(PAGEMAP_ABI_SCAN_WP_MATCHING == 0x1, "PM_SCAN_WP_MATCHING");
_Static_assert(PAGEMAP_ABI_SCAN_CHECK_WPASYNC == 0x2, "PM_SCAN_CHECK_WPASYNC");
_Static_assert(PAGEMAP_ABI_PAGE_IS_WPALLOWED == 0x01, "PAGE_IS_WPALLOWED");
_Static_assert(PAGEMAP_ABI_PAGE_IS_WRITTEN == 0x02, "PAGE_IS_WRITTEN");
_Static_assert(PAGEMAP_ABI_PAGE_IS_FILE == 0x04, "PAGE_IS_FILE");
_Static_assert(PAGEMAP_ABI_PAGE_IS_PRESENT == 0x08, "PAGE_IS_PRESENT");
_Static_assert(PAGEMAP_ABI_PAGE_IS_SWAPPED == 0x10, "PAGE_IS_SWAPPED");
_Static_assert(PAGEMAP_ABI_PAGE_IS_PFNZERO == 0x20, "PAGE_IS_PFNZERO");
_Static_assert(PAGEMAP_ABI_PAGE_IS_HUGE == 0x40, "PAGE_IS_HUGE");
