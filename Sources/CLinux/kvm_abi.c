#include "kvm_abi.h"

#include <linux/memfd.h>
#include <linux/mman.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// The numbers are ABI: a header that disagrees would make us talk nonsense to the kernel.
_Static_assert(KVM_API_VERSION == 12, "the only KVM API version there is");
_Static_assert(KVM_CREATE_VM == 0xae01, "KVM_CREATE_VM");
_Static_assert(KVM_RUN == 0xae80, "KVM_RUN");
_Static_assert(KVM_SET_USER_MEMORY_REGION == 0x4020ae46, "KVM_SET_USER_MEMORY_REGION");
_Static_assert(KVM_GET_DIRTY_LOG == 0x4010ae42, "KVM_GET_DIRTY_LOG");
_Static_assert(KVM_GET_REGS == 0x8090ae81, "KVM_GET_REGS");
_Static_assert(KVM_SET_SREGS == 0x4138ae84, "KVM_SET_SREGS");
_Static_assert(KVM_GET_XSAVE == 0x9000aea4, "KVM_GET_XSAVE");
_Static_assert(KVM_GET_XSAVE2 == 0x9000aecf, "KVM_GET_XSAVE2");
_Static_assert(sizeof(struct kvm_regs) == 144, "struct kvm_regs");
_Static_assert(sizeof(struct kvm_sregs) == 312, "struct kvm_sregs");
_Static_assert(sizeof(struct kvm_userspace_memory_region) == 32, "memory region");
_Static_assert(sizeof(struct kvm_msr_entry) == 16, "struct kvm_msr_entry");
_Static_assert(sizeof(struct kvm_vcpu_events) == 64, "struct kvm_vcpu_events");
_Static_assert(offsetof(struct kvm_run, immediate_exit) == 1, "kvm_run.immediate_exit");
_Static_assert(offsetof(struct kvm_run, exit_reason) == 8, "kvm_run.exit_reason");
_Static_assert(offsetof(struct kvm_run, io) == 32, "kvm_run.io");

const unsigned int clinux_memfd_huge_2mb = MFD_HUGETLB | MFD_HUGE_2MB;
const int clinux_map_huge_2mb = MAP_HUGETLB | (int)MAP_HUGE_2MB;

int clinux_ioctl_none(int fd, unsigned long request) { return ioctl(fd, request, 0); }

int clinux_ioctl_int(int fd, unsigned long request, unsigned long argument) {
  return ioctl(fd, request, argument);
}

int clinux_ioctl_pointer(int fd, unsigned long request, void *argument) {
  return ioctl(fd, request, argument);
}

pid_t clinux_thread_id(void) { return (pid_t)syscall(SYS_gettid); }

int clinux_send_thread_signal(pid_t thread_id, int signal_number) {
  return (int)syscall(SYS_tgkill, getpid(), thread_id, signal_number);
}

int clinux_unblock_signal(int signal_number) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal_number);
  return pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void ignore_signal(int signal_number) { (void)signal_number; }

int clinux_install_empty_signal_handler(int signal_number) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = ignore_signal;
  sigemptyset(&action.sa_mask);
  return sigaction(signal_number, &action, NULL);
}
