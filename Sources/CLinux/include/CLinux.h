// The kernel ABI and the libc parts that Swift cannot import. No logic lives here.
#ifndef CLINUX_H
#define CLINUX_H

#include "kvm_abi.h"
#include "linux_hardening.h"
#include "linux_host.h"
#include "linux_memory.h"
#include "linux_system.h"
#include "pagemap_abi.h"
#include "uffd_abi.h"

#endif
