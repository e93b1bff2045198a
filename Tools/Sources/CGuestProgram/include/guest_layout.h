// What the guest program, the VMM and the host-side checks agree on: offsets, ports, constants.
// Only object-like macros, because the assembler includes it too.
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

// The header: image page 0. All fields are 64 bits, little-endian.
#define GUEST_MAGIC 0x544f5053454d474d
#define GUEST_LAYOUT_VERSION 2
#define HEADER_MAGIC 0x00
#define HEADER_VERSION 0x08
#define HEADER_SEED 0x10
#define HEADER_MEMORY_BYTES 0x18
#define HEADER_TABLE_BASE 0x20
#define HEADER_PAGES_BASE 0x28
#define HEADER_PAGE_COUNT 0x30
#define HEADER_VCPU_COUNT 0x38
#define HEADER_GRANULE_SHIFT 0x40
#define HEADER_FLAGS 0x48
#define HEADER_VCPU_BASE 0x50
#define HEADER_CODE_BASE 0x58
#define HEADER_NOISE_WORDS 0x60
#define HEADER_BUFFER_PAGES 0x68
#define HEADER_END 0x70

// HEADER_FLAGS: a removed page may still show the content of its last version (shared memory).
#define FLAG_REMOVED_MAY_KEEP 1

// One page for each vCPU: first what the host plans, then what the guest keeps.
#define VCPU_INDEX 0x00
#define VCPU_PATTERN 0x08
#define VCPU_PAGE_COUNT 0x10
#define VCPU_PAGE_MASK 0x18
#define VCPU_OCTAVES 0x20
#define VCPU_STRIDE 0x28
#define VCPU_WRITE_THRESHOLD 0x30
#define VCPU_OPERATION_LIMIT 0x38
#define VCPU_BURST 0x40
#define VCPU_WAIT_MICROSECONDS 0x48
#define VCPU_REMOVE_EVERY 0x50
#define VCPU_GRANULE_COUNT 0x58
#define VCPU_CANARY 0x60
// The sum of the versions that the host wrote into this vCPU's pages before the start.
#define VCPU_PREFILLED 0x68
#define VCPU_PLAN_END 0x70

#define VCPU_OPERATIONS 0x80
#define VCPU_WRITES 0x88
#define VCPU_REMOVALS 0x90
// While a page is being written or given back: its image page number, else 0.
#define VCPU_INFLIGHT_PAGE 0x98
// The table entry that the page is about to get; ENTRY_REMOVED alone while a granule goes back.
#define VCPU_INFLIGHT_ENTRY 0xa0
#define VCPU_INFLIGHT_WRITES 0xa8
#define VCPU_BALLOON_CURSOR 0xb0
#define VCPU_BALLOON_END 0xb8
#define VCPU_SINCE_WAIT 0xc0
#define VCPU_SINCE_REMOVE 0xc8
#define VCPU_STACK_TOP 0x1000

// A table entry: 31 bits of version, and whether the page was given back since.
#define ENTRY_REMOVED 0x80000000
#define ENTRY_VERSION_MASK 0x7fffffff

// VCPU_PATTERN
#define PATTERN_SEQUENTIAL 0
#define PATTERN_STRIDED 1
#define PATTERN_RANDOM 2
#define PATTERN_ZIPF 3
#define PATTERN_CHASE 4

// Ports that the guest writes a 32-bit value to.
#define PORT_REMOVE 0x600
#define PORT_MISMATCH 0x601
#define PORT_FINISHED 0x602
#define PORT_WAIT 0x603

// What PORT_MISMATCH says.
#define MISMATCH_PAGE 1
#define MISMATCH_VECTOR_REGISTER 2
#define MISMATCH_COUNTER 3

// Multipliers of the content rule (splitmix64's, and two odd ones) and of the full-cycle walks.
#define MIX_ID 0x9e3779b97f4a7c15
#define MIX_VERSION 0xd1342543de82ef95
#define MIX_FIRST 0xbf58476d1ce4e5b9
#define MIX_SECOND 0x94d049bb133111eb
#define MIX_CHECKSUM 0x2545f4914f6cdd1d
#define WALK_MULTIPLIER 0x5851f42d4c957f2d
#define WALK_INCREMENT 0x14057b7ef767814f

#define CONTENT_FIRST_MIXED_WORD 3
#define CONTENT_MIXED_WORDS 509
#define CONTENT_WORDS 512
// Shifts of the noise (xorshift64, Marsaglia 2003).
#define NOISE_SHIFT_FIRST 13
#define NOISE_SHIFT_SECOND 7
#define NOISE_SHIFT_THIRD 17

#endif
