#define _GNU_SOURCE 1
#include <numa.h>
#include <numaif.h>
