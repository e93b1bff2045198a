#define _GNU_SOURCE 1
#include <stddef.h>
#include <isa-l/crc.h>
#include <isa-l/mem_routines.h>
