// The C program that Tools/fault-latency compares with: the same way of a fault, with nothing else
// on it. Fault -> request -> answer -> COPY, and beside it receive -> COPY in runs for the push.
// No journals, checksums, credits or recovery: what this saves is what our own engine has to pay.
// With a directory of certificates, the same over TLS 1.3 by OpenSSL's blocking calls.
#ifndef FAULT_LATENCY_REFERENCE_H
#define FAULT_LATENCY_REFERENCE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <stdint.h>
#include <stdnoreturn.h>
#include <sys/types.h>

enum {
  PAGE_BYTES = 4096,
  // One pushed run: as long as our engine's longest fill under its lock.
  RUN_BYTES = 64 * 1024,
  // Bound of the attach message: one region as JSON takes a few hundred bytes.
  ATTACH_BYTES = 64 * 1024,
};

enum { ROLE_URGENT = 1, ROLE_BULK = 2 };
enum { FRAME_REQUEST = 1, FRAME_PAGES = 2, FRAME_END = 3 };

// As long as the engine's own header, so that both move the same number of bytes.
struct frame {
  uint32_t type;
  uint32_t byte_count;
  uint64_t offset;
  uint64_t reserved[2];
};
_Static_assert(sizeof(struct frame) == 32, "the header is as long as the engine's");

// One connection: a socket, and the TLS session over it or NULL. For one thread.
struct link {
  int fd;
  struct ssl_st *tls;
};

// Serves `path` at `address` to one destination until that hangs up. Push runs when wanted.
// Over TLS when there is a directory of certificates.
int serve(const char *path, const char *address, int push, const char *certificates);
// Listens at `attach_path` for one hand-off, pulls from `address` until every page is installed.
int receive_pages(
  const char *attach_path, const char *address, int push, const char *certificates);

// Prints what failed with errno and ends the process: a reference needs no recovery.
noreturn void fail(const char *what);
// The same of what OpenSSL says.
noreturn void fail_tls(const char *what);
// ADDRESS is HOST:PORT with a numeric host, or unix:PATH.
int listen_at(const char *address);
int connect_to(const char *address);
void set_no_delay(int fd);
// Whole transfers. receive_all returns 0 at an orderly end before the first byte, else 1.
void send_all(struct link *link, const void *bytes, size_t length);
int receive_all(struct link *link, void *bytes, size_t length);
// Shakes hands over a connected socket, with certificates on both sides.
void start_tls(struct link *link, const char *directory, int is_server);
void send_all_tls(struct link *link, const void *bytes, size_t length);
int receive_all_tls(struct link *link, void *bytes, size_t length);
// Names the calling thread and, when urgent, asks for SCHED_FIFO 1 as the engine's threads do.
void place_thread(const char *name, int urgent);

#endif
