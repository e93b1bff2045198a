#include "reference.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void fail(const char *what) {
  fprintf(stderr, "fault-latency-reference: %s: %s\n", what, strerror(errno));
  exit(1);
}

static socklen_t parse_address(const char *address, struct sockaddr_storage *storage) {
  memset(storage, 0, sizeof *storage);
  if (strncmp(address, "unix:", 5) == 0) {
    struct sockaddr_un *local = (struct sockaddr_un *)storage;
    local->sun_family = AF_UNIX;
    if (strlen(address + 5) >= sizeof local->sun_path) {
      errno = ENAMETOOLONG;
      fail(address);
    }
    strcpy(local->sun_path, address + 5);
    return sizeof *local;
  }
  struct sockaddr_in *remote = (struct sockaddr_in *)storage;
  char host[64];
  const char *colon = strrchr(address, ':');
  size_t host_length = colon ? (size_t)(colon - address) : 0;
  if (!colon || host_length >= sizeof host) {
    errno = EINVAL;
    fail(address);
  }
  memcpy(host, address, host_length);
  host[host_length] = 0;
  remote->sin_family = AF_INET;
  remote->sin_port = htons((uint16_t)atoi(colon + 1));
  if (inet_pton(AF_INET, host, &remote->sin_addr) != 1) {
    errno = EINVAL;
    fail(address);
  }
  return sizeof *remote;
}

int listen_at(const char *address) {
  struct sockaddr_storage storage;
  socklen_t length = parse_address(address, &storage);
  int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int one = 1;
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&storage, length) < 0) fail(address);
  if (listen(fd, 4) < 0) fail("listen");
  return fd;
}

int connect_to(const char *address) {
  struct sockaddr_storage storage;
  socklen_t length = parse_address(address, &storage);
  int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  if (connect(fd, (struct sockaddr *)&storage, length) < 0) fail(address);
  set_no_delay(fd);
  return fd;
}

void set_no_delay(int fd) {
  int one = 1;
  // Fails on a UNIX socket, which has nothing to delay.
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void send_all(struct link *link, const void *bytes, size_t length) {
  const char *next = bytes;
  if (link->tls) {
    send_all_tls(link, bytes, length);
    return;
  }
  while (length > 0) {
    ssize_t sent = send(link->fd, next, length, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) fail("send");
    next += sent;
    length -= (size_t)sent;
  }
}

int receive_all(struct link *link, void *bytes, size_t length) {
  char *next = bytes;
  if (link->tls) return receive_all_tls(link, bytes, length);
  while (length > 0) {
    ssize_t got = recv(link->fd, next, length, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    // A peer that is done may close with our last bytes unread, which arrives as a reset.
    if ((got == 0 || (got < 0 && errno == ECONNRESET)) && next == (char *)bytes) return 0;
    if (got <= 0) fail("recv");
    next += got;
    length -= (size_t)got;
  }
  return 1;
}

void place_thread(const char *name, int urgent) {
  struct sched_param parameter = {.sched_priority = 1};
  (void)pthread_setname_np(pthread_self(), name);
  if (urgent) (void)pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameter);
}
