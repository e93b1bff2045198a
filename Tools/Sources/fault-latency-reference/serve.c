#include "reference.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct source {
  int memory_fd;
  uint64_t byte_count;
  struct link urgent;
  struct link bulk;
};

static void read_memory(const struct source *source, void *bytes, size_t length, uint64_t offset) {
  ssize_t got = pread(source->memory_fd, bytes, length, (off_t)offset);
  if (got != (ssize_t)length) {
    if (got >= 0) errno = EIO;
    fail("pread of the memory file");
  }
}

// Answers demands straight from the file: one pread behind the header, one send.
static void *run_urgent(void *argument) {
  struct source *source = argument;
  struct { struct frame header; char page[PAGE_BYTES]; } slot;
  place_thread("ref-urgent", 1);
  struct frame request;
  while (receive_all(&source->urgent, &request, sizeof request)) {
    if (request.type != FRAME_REQUEST || request.byte_count != PAGE_BYTES ||
        request.offset % PAGE_BYTES != 0 || request.offset >= source->byte_count) {
      errno = EPROTO;
      fail("request");
    }
    slot.header = (struct frame){
      .type = FRAME_PAGES, .byte_count = PAGE_BYTES, .offset = request.offset};
    read_memory(source, slot.page, PAGE_BYTES, request.offset);
    send_all(&source->urgent, &slot, sizeof slot);
  }
  return NULL;
}

// Sends the whole file in address order, one header and up to RUN_BYTES a send.
static void *run_bulk(void *argument) {
  struct source *source = argument;
  struct { struct frame header; char run[RUN_BYTES]; } *slot = malloc(sizeof *slot);
  if (!slot) fail("malloc");
  place_thread("ref-push", 0);
  for (uint64_t offset = 0; offset < source->byte_count; offset += RUN_BYTES) {
    uint64_t left = source->byte_count - offset;
    uint32_t length = left < RUN_BYTES ? (uint32_t)left : RUN_BYTES;
    slot->header = (struct frame){.type = FRAME_PAGES, .byte_count = length, .offset = offset};
    read_memory(source, slot->run, length, offset);
    send_all(&source->bulk, slot, sizeof slot->header + length);
  }
  slot->header = (struct frame){.type = FRAME_END};
  send_all(&source->bulk, &slot->header, sizeof slot->header);
  free(slot);
  return NULL;
}

int serve(const char *path, const char *address, int push, const char *certificates) {
  struct source source = {.urgent = {.fd = -1}, .bulk = {.fd = -1}};
  struct stat status;
  source.memory_fd = open(path, O_RDONLY | O_CLOEXEC);
  if (source.memory_fd < 0 || fstat(source.memory_fd, &status) < 0) fail(path);
  source.byte_count = (uint64_t)status.st_size;
  int listener = listen_at(address);
  if (write(STDOUT_FILENO, "listening\n", 10) != 10) fail("stdout");
  for (int connections = push ? 2 : 1; connections > 0; connections--) {
    struct link link = {.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)};
    struct frame hello;
    if (link.fd < 0) fail("accept");
    set_no_delay(link.fd);
    if (certificates) start_tls(&link, certificates, 1);
    if (!receive_all(&link, &hello, sizeof hello)) fail("hello");
    if (hello.type == ROLE_URGENT) source.urgent = link;
    else source.bulk = link;
  }
  pthread_t urgent, bulk;
  if (pthread_create(&urgent, NULL, run_urgent, &source) != 0) fail("pthread_create");
  if (push && pthread_create(&bulk, NULL, run_bulk, &source) != 0) fail("pthread_create");
  if (push) pthread_join(bulk, NULL);
  pthread_join(urgent, NULL);
  return 0;
}
