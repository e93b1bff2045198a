// The guest program: position-independent 64-bit code, entered at its first byte.
#ifndef GUEST_PROGRAM_H
#define GUEST_PROGRAM_H

#include <stddef.h>

#include "guest_layout.h"

extern const unsigned char guest_program_start[];
extern const unsigned char guest_program_end[];

/// The program's first byte.
static inline const void *guest_program(void) { return guest_program_start; }
/// How many bytes it has.
static inline size_t guest_program_byte_count(void) {
  return (size_t)(guest_program_end - guest_program_start);
}

#endif
