#include "reference.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct destination {
  int userfault_fd;
  struct link urgent;
  struct link bulk;
  int finished_fd;
  uint64_t base;
  uint64_t byte_count;
  _Atomic uint64_t installed_bytes;
};

static void wake(const struct destination *destination, uint64_t offset, uint64_t length) {
  struct uffdio_range range = {.start = destination->base + offset, .len = length};
  if (ioctl(destination->userfault_fd, UFFDIO_WAKE, &range) < 0) fail("UFFDIO_WAKE");
}

static void count_installed(struct destination *destination, uint64_t byte_count) {
  uint64_t one = 1;
  uint64_t before = atomic_fetch_add(&destination->installed_bytes, byte_count);
  if (before + byte_count == destination->byte_count &&
      write(destination->finished_fd, &one, sizeof one) != sizeof one)
    fail("eventfd");
}

// Installs one run; where another thread was first (EEXIST), wakes and goes on behind that page.
static void install(
    struct destination *destination, const char *bytes, uint64_t offset, uint64_t length) {
  uint64_t done = 0;
  while (done < length) {
    struct uffdio_copy copy = {
      .dst = destination->base + offset + done,
      .src = (uint64_t)(uintptr_t)(bytes + done),
      .len = length - done,
    };
    if (ioctl(destination->userfault_fd, UFFDIO_COPY, &copy) == 0) {
      count_installed(destination, length - done);
      return;
    }
    if (errno == EAGAIN && copy.copy > 0) {
      count_installed(destination, (uint64_t)copy.copy);
      done += (uint64_t)copy.copy;
    } else if (errno == EEXIST) {
      wake(destination, offset + done, PAGE_BYTES);
      done += PAGE_BYTES;
    } else if (errno != EAGAIN) {
      fail("UFFDIO_COPY");
    }
  }
}

static void fetch_page(struct destination *destination, uint64_t offset) {
  struct { struct frame header; char page[PAGE_BYTES]; } slot;
  struct frame request = {.type = FRAME_REQUEST, .byte_count = PAGE_BYTES, .offset = offset};
  send_all(&destination->urgent, &request, sizeof request);
  if (!receive_all(&destination->urgent, &slot, sizeof slot)) fail("answer");
  if (slot.header.offset != offset || slot.header.byte_count != PAGE_BYTES) {
    errno = EPROTO;
    fail("answer");
  }
  install(destination, slot.page, offset, PAGE_BYTES);
}

static void *run_faults(void *argument) {
  struct destination *destination = argument;
  struct uffd_msg messages[16];
  struct pollfd polled[2] = {
    {.fd = destination->userfault_fd, .events = POLLIN},
    {.fd = destination->finished_fd, .events = POLLIN},
  };
  place_thread("ref-fault", 1);
  for (;;) {
    if (poll(polled, 2, -1) < 0 && errno != EINTR) fail("poll");
    if (polled[1].revents) return NULL;
    ssize_t got = read(destination->userfault_fd, messages, sizeof messages);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) fail("read of the userfaultfd");
    for (size_t i = 0; i < (size_t)got / sizeof messages[0]; i++) {
      uint64_t address = messages[i].arg.pagefault.address & ~(uint64_t)(PAGE_BYTES - 1);
      if (messages[i].event == UFFD_EVENT_PAGEFAULT)
        fetch_page(destination, address - destination->base);
    }
  }
}

static void *run_bulk(void *argument) {
  struct destination *destination = argument;
  char *run = malloc(RUN_BYTES);
  struct frame header;
  if (!run) fail("malloc");
  place_thread("ref-install", 0);
  while (receive_all(&destination->bulk, &header, sizeof header)) {
    if (header.type == FRAME_END) break;
    if (header.byte_count > RUN_BYTES || header.offset >= destination->byte_count ||
        header.byte_count > destination->byte_count - header.offset) {
      errno = EPROTO;
      fail("pushed run");
    }
    if (!receive_all(&destination->bulk, run, header.byte_count)) fail("pushed run");
    install(destination, run, header.offset, header.byte_count);
  }
  free(run);
  return NULL;
}

// One region as Firecracker sends it, with the userfaultfd beside it.
static void take_hand_off(struct destination *destination, const char *attach_path) {
  char address[256], body[ATTACH_BYTES + 1];
  union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int) * 2)]; } control;
  struct iovec part = {.iov_base = body, .iov_len = ATTACH_BYTES};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
    .msg_control = control.space, .msg_controllen = sizeof control.space};
  unsigned long long base, byte_count;
  snprintf(address, sizeof address, "unix:%s", attach_path);
  int listener = listen_at(address);
  if (write(STDOUT_FILENO, "listening\n", 10) != 10) fail("stdout");
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (fd < 0) fail("accept");
  ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  struct cmsghdr *first = CMSG_FIRSTHDR(&message);
  if (got <= 0 || !first || first->cmsg_type != SCM_RIGHTS) fail("hand-off");
  memcpy(&destination->userfault_fd, CMSG_DATA(first), sizeof(int));
  body[got] = 0;
  const char *base_key = strstr(body, "\"base_host_virt_addr\":");
  const char *size_key = strstr(body, "\"size\":");
  if (!base_key || sscanf(base_key + 22, "%llu", &base) != 1 || !size_key ||
      sscanf(size_key + 7, "%llu", &byte_count) != 1 || byte_count % PAGE_BYTES != 0) {
    errno = EPROTO;
    fail("hand-off");
  }
  destination->base = base;
  destination->byte_count = byte_count;
  close(listener);
  unlink(attach_path);
}

static struct link dial(const char *address, const char *certificates, uint32_t role) {
  struct link link = {.fd = connect_to(address)};
  if (certificates) start_tls(&link, certificates, 0);
  send_all(&link, &(struct frame){.type = role}, sizeof(struct frame));
  return link;
}

int receive_pages(
    const char *attach_path, const char *address, int push, const char *certificates) {
  struct destination destination = {.bulk = {.fd = -1}};
  take_hand_off(&destination, attach_path);
  destination.finished_fd = eventfd(0, EFD_CLOEXEC);
  destination.urgent = dial(address, certificates, ROLE_URGENT);
  pthread_t faults, bulk;
  if (push) {
    destination.bulk = dial(address, certificates, ROLE_BULK);
    if (pthread_create(&bulk, NULL, run_bulk, &destination) != 0) fail("pthread_create");
  }
  if (pthread_create(&faults, NULL, run_faults, &destination) != 0) fail("pthread_create");
  if (push) pthread_join(bulk, NULL);
  pthread_join(faults, NULL);
  return 0;
}
