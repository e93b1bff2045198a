#include "reference.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static int usage(void) {
  fprintf(stderr,
    "fault-latency-reference serve FILE ADDRESS push|no-push [CERTIFICATES]\n"
    "fault-latency-reference receive ATTACH-SOCKET ADDRESS push|no-push [CERTIFICATES]\n"
    "ADDRESS is HOST:PORT or unix:PATH. Tools/fault-latency starts both.\n");
  return 64;
}

int main(int argc, char **argv) {
  // Started by a benchmark: it must not outlive it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) fail("prctl");
  if (argc != 5 && argc != 6) return usage();
  int push = strcmp(argv[4], "push") == 0;
  const char *certificates = argv[5];
  if (strcmp(argv[1], "serve") == 0) return serve(argv[2], argv[3], push, certificates);
  if (strcmp(argv[1], "receive") == 0)
    return receive_pages(argv[2], argv[3], push, certificates);
  return usage();
}
