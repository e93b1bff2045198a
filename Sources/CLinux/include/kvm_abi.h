// KVM's interface, and the pieces of userfaultfd that a VMM (not a handler) needs.
#ifndef CLINUX_KVM_ABI_H
#define CLINUX_KVM_ABI_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

// Request numbers: function-like macros, which Swift does not import.
static const unsigned long clinux_kvm_get_api_version = KVM_GET_API_VERSION;
static const unsigned long clinux_kvm_create_vm = KVM_CREATE_VM;
static const unsigned long clinux_kvm_check_extension = KVM_CHECK_EXTENSION;
static const unsigned long clinux_kvm_get_vcpu_mmap_size = KVM_GET_VCPU_MMAP_SIZE;
static const unsigned long clinux_kvm_get_supported_cpuid = KVM_GET_SUPPORTED_CPUID;
static const unsigned long clinux_kvm_get_msr_index_list = KVM_GET_MSR_INDEX_LIST;
static const unsigned long clinux_kvm_set_user_memory_region = KVM_SET_USER_MEMORY_REGION;
static const unsigned long clinux_kvm_get_dirty_log = KVM_GET_DIRTY_LOG;
static const unsigned long clinux_kvm_create_vcpu = KVM_CREATE_VCPU;
static const unsigned long clinux_kvm_run = KVM_RUN;
static const unsigned long clinux_kvm_get_regs = KVM_GET_REGS;
static const unsigned long clinux_kvm_set_regs = KVM_SET_REGS;
static const unsigned long clinux_kvm_get_sregs = KVM_GET_SREGS;
static const unsigned long clinux_kvm_set_sregs = KVM_SET_SREGS;
static const unsigned long clinux_kvm_get_xsave = KVM_GET_XSAVE;
static const unsigned long clinux_kvm_get_xsave2 = KVM_GET_XSAVE2;
static const unsigned long clinux_kvm_set_xsave = KVM_SET_XSAVE;
static const unsigned long clinux_kvm_get_xcrs = KVM_GET_XCRS;
static const unsigned long clinux_kvm_set_xcrs = KVM_SET_XCRS;
static const unsigned long clinux_kvm_get_msrs = KVM_GET_MSRS;
static const unsigned long clinux_kvm_set_msrs = KVM_SET_MSRS;
static const unsigned long clinux_kvm_get_mp_state = KVM_GET_MP_STATE;
static const unsigned long clinux_kvm_set_mp_state = KVM_SET_MP_STATE;
static const unsigned long clinux_kvm_get_vcpu_events = KVM_GET_VCPU_EVENTS;
static const unsigned long clinux_kvm_set_vcpu_events = KVM_SET_VCPU_EVENTS;
static const unsigned long clinux_kvm_get_debug_registers = KVM_GET_DEBUGREGS;
static const unsigned long clinux_kvm_set_debug_registers = KVM_SET_DEBUGREGS;
static const unsigned long clinux_kvm_set_cpuid2 = KVM_SET_CPUID2;

// Memory of 2 MiB pages, whatever the default huge page size is.
extern const unsigned int clinux_memfd_huge_2mb;
extern const int clinux_map_huge_2mb;

/// ioctl(2) is variadic, which Swift does not call.
int clinux_ioctl_none(int fd, unsigned long request);
int clinux_ioctl_int(int fd, unsigned long request, unsigned long argument);
int clinux_ioctl_pointer(int fd, unsigned long request, void *argument);
/// The calling thread's id, for clinux_send_thread_signal.
pid_t clinux_thread_id(void);
/// tgkill(2) within this process. 0 or -1 with errno.
int clinux_send_thread_signal(pid_t thread_id, int signal_number);
/// Lets the calling thread get `signal_number`: it inherits its maker's mask, and a thread pool
/// blocks all. 0 or an errno.
int clinux_unblock_signal(int signal_number);
/// Installs a handler for `signal_number` that does nothing and does not restart system calls: its
/// only effect is EINTR. 0 or -1 with errno.
int clinux_install_empty_signal_handler(int signal_number);

#endif
