// The guest of microvm: an endless loop of operations on pages of its own partition. An operation
// picks a page, verifies all of it, and perhaps writes its next version. What a page must hold is
// in the version table in guest memory; see Documentation/microvm.md.
//
// Set from outside, kept for ever:          Scratch:
//   r15  the header                           rax rcx rdx
//   r14  this vCPU's page                     rdi  a page's address
//   r13  the version table                    rsi  a table entry or version
//   r12  the first data page                  r8   data page index (place in the table)
//   rbx  random state, never 0                r9   image page number (the page's id)
//   rbp  operations done                      r10  local page index
//   r11  local cursor of the pattern          xmm15 a canary that nobody touches
//
// There is no interrupt table: an exception is a triple fault, which the VMM reports.
#include "include/guest_layout.h"

  .intel_syntax noprefix
  .section .rodata
  .balign 64
  .globl guest_program_start
  .globl guest_program_end
guest_program_start:

operation:
  // The registers and the memory of this vCPU must have moved together.
  movq rax, xmm15
  cmp rax, [r14 + VCPU_CANARY]
  jne vector_register_wrong
  cmp rbp, [r14 + VCPU_OPERATIONS]
  jne counter_wrong
  cmp rbp, [r14 + VCPU_OPERATION_LIMIT]
  jae finished

  // Pages that the host asked for back.
  mov r10, [r14 + VCPU_BALLOON_CURSOR]
  cmp r10, [r14 + VCPU_BALLOON_END]
  jae 1f
  call remove_granule
  inc qword ptr [r14 + VCPU_BALLOON_CURSOR]
1:
  // Pages that the pattern gives back by itself.
  mov rcx, [r14 + VCPU_REMOVE_EVERY]
  test rcx, rcx
  jz 2f
  inc qword ptr [r14 + VCPU_SINCE_REMOVE]
  cmp rcx, [r14 + VCPU_SINCE_REMOVE]
  ja 2f
  mov qword ptr [r14 + VCPU_SINCE_REMOVE], 0
  call next_random
  mov ecx, eax
  imul rcx, [r14 + VCPU_GRANULE_COUNT]
  shr rcx, 32
  mov r10, rcx
  call remove_granule
2:
  call choose_page
  call locate_page
  call verify_page
  call next_random
  shr rax, 32
  cmp rax, [r14 + VCPU_WRITE_THRESHOLD]
  jae 3f
  call write_page
3:
  inc rbp
  mov [r14 + VCPU_OPERATIONS], rbp

  // The rate limit: after a burst, wait in the VMM.
  mov rcx, [r14 + VCPU_BURST]
  test rcx, rcx
  jz operation
  inc qword ptr [r14 + VCPU_SINCE_WAIT]
  cmp rcx, [r14 + VCPU_SINCE_WAIT]
  ja operation
  mov qword ptr [r14 + VCPU_SINCE_WAIT], 0
  mov eax, [r14 + VCPU_WAIT_MICROSECONDS]
  mov dx, PORT_WAIT
  out dx, eax
  jmp operation

// rax = the next number of a xorshift64 sequence.
next_random:
  mov rax, rbx
  shl rax, 13
  xor rbx, rax
  mov rax, rbx
  shr rax, 7
  xor rbx, rax
  mov rax, rbx
  shl rax, 17
  xor rbx, rax
  mov rax, rbx
  ret

// r10 = the local index of the page to work on, by the pattern.
choose_page:
  mov rax, [r14 + VCPU_PATTERN]
  cmp rax, PATTERN_STRIDED
  jb sequential
  je strided
  cmp rax, PATTERN_ZIPF
  jb random
  je zipf

// A walk through all pages in one cycle whose next step needs what the page before holds: the
// page's first word less its own id, which is 0 on a right page, is added to the index.
chase:
  mov r10, r11
  call locate_page
  xor ecx, ecx
  mov esi, [r13 + r8 * 4]
  test esi, esi
  jle 1f
  mov rcx, [rdi]
  sub rcx, r9
1:
  mov r10, r11
  add r10, rcx
  call full_cycle
  mov r11, r10
  ret

sequential:
  mov r10, r11
  inc r11
  cmp r11, [r14 + VCPU_PAGE_COUNT]
  jb 1f
  xor r11d, r11d
1:
  ret

// The host picks a stride without a factor in common with the page count: all pages get a turn.
strided:
  mov r10, r11
  add r11, [r14 + VCPU_STRIDE]
1:
  cmp r11, [r14 + VCPU_PAGE_COUNT]
  jb 2f
  sub r11, [r14 + VCPU_PAGE_COUNT]
  jmp 1b
2:
  ret

random:
  call next_random
  and rax, [r14 + VCPU_PAGE_MASK]
  cmp rax, [r14 + VCPU_PAGE_COUNT]
  jae random
  mov r10, rax
  ret

// Zipf with exponent 1 by octaves: each range of ranks [2^k, 2^(k+1)) is equally likely. The
// full-cycle step spreads neighbouring ranks over the memory.
zipf:
  call next_random
  mov ecx, eax
  imul rcx, [r14 + VCPU_OCTAVES]
  shr rcx, 32
  call next_random
  mov r10d, 1
  shl r10, cl
  lea rdx, [r10 - 1]
  shr rax, 8
  and rax, rdx
  lea r10, [r10 + rax - 1]
  cmp r10, [r14 + VCPU_PAGE_COUNT]
  jae zipf
  // falls through

// r10 = the index after r10 in one cycle over all local pages (Hull-Dobell, out of range skipped).
full_cycle:
  mov rax, WALK_MULTIPLIER
  mov rdx, WALK_INCREMENT
1:
  imul r10, rax
  add r10, rdx
  and r10, [r14 + VCPU_PAGE_MASK]
  cmp r10, [r14 + VCPU_PAGE_COUNT]
  jae 1b
  ret

// From the local index r10: r8 = data page index, r9 = image page number, rdi = address.
// Granules (1 page, or the 512 of a huge page) are dealt to the vCPUs in turn.
locate_page:
  mov rcx, [r15 + HEADER_GRANULE_SHIFT]
  mov r8, r10
  shr r8, cl
  imul r8, [r15 + HEADER_VCPU_COUNT]
  add r8, [r14 + VCPU_INDEX]
  shl r8, cl
  mov eax, 1
  shl rax, cl
  dec rax
  and rax, r10
  add r8, rax
  mov rdi, r8
  shl rdi, 12
  add rdi, r12
  mov r9, rdi
  shr r9, 12
  ret

// Stops the guest unless the page at rdi holds exactly what its table entry says.
verify_page:
  mov esi, [r13 + r8 * 4]
  test esi, esi
  js was_removed
  jz must_be_zero
must_be_content:
  cmp [rdi], r9
  jne page_wrong
  cmp [rdi + 8], rsi
  jne page_wrong
  call mix
  cmp [rdi + 16], rdx
  jne page_wrong
  push rdi
  push rsi
  add rdi, 8 * CONTENT_FIRST_MIXED_WORD
  mov rdx, rax
  mov rcx, [r15 + HEADER_NOISE_WORDS]
  test rcx, rcx
  jz 2f
1:
  cmp [rdi], rdx
  jne 3f
  add rdi, 8
  call next_noise
  dec rcx
  jnz 1b
2:
  // With nothing but noise the difference is 0, which says that all is right.
  mov ecx, CONTENT_MIXED_WORDS
  sub rcx, [r15 + HEADER_NOISE_WORDS]
  repe scasq
3:
  pop rsi
  pop rdi
  jne page_wrong
  ret
was_removed:
  cmp qword ptr [rdi], 0
  je must_be_zero
  test qword ptr [r15 + HEADER_FLAGS], FLAG_REMOVED_MAY_KEEP
  jz page_wrong
  and esi, ENTRY_VERSION_MASK
  jnz must_be_content
  jmp page_wrong
must_be_zero:
  push rdi
  xor eax, eax
  mov ecx, CONTENT_WORDS
  repe scasq
  pop rdi
  jne page_wrong
  ret

// The content of page r9 in version rsi: rax = word 3 and up, rdx = checksum.
mix:
  mov rax, MIX_ID
  imul rax, r9
  mov rdx, MIX_VERSION
  imul rdx, rsi
  add rax, rdx
  add rax, [r15 + HEADER_SEED]
  mov rdx, rax
  shr rdx, 30
  xor rax, rdx
  mov rdx, MIX_FIRST
  imul rax, rdx
  mov rdx, rax
  shr rdx, 27
  xor rax, rdx
  mov rdx, MIX_SECOND
  imul rax, rdx
  mov rdx, rax
  shr rdx, 31
  xor rax, rdx
  mov rcx, MIX_CHECKSUM
  mov rdx, rax
  rol rdx, 29
  imul rdx, rcx
  xor rdx, r9
  ret

// The noise behind rdx; uses rsi.
next_noise:
  mov rsi, rdx
  shl rsi, NOISE_SHIFT_FIRST
  xor rdx, rsi
  mov rsi, rdx
  shr rsi, NOISE_SHIFT_SECOND
  xor rdx, rsi
  mov rsi, rdx
  shl rsi, NOISE_SHIFT_THIRD
  xor rdx, rsi
  ret

// The next version of the page: announced, written, entered in the table, counted.
write_page:
  mov rax, [r14 + VCPU_WRITES]
  mov [r14 + VCPU_INFLIGHT_WRITES], rax
  mov esi, [r13 + r8 * 4]
  and esi, ENTRY_VERSION_MASK
  inc esi
  mov [r14 + VCPU_INFLIGHT_ENTRY], rsi
  mov [r14 + VCPU_INFLIGHT_PAGE], r9
  call mix
  mov [rdi], r9
  mov [rdi + 8], rsi
  mov [rdi + 16], rdx
  push rdi
  push rsi
  add rdi, 8 * CONTENT_FIRST_MIXED_WORD
  mov rdx, rax
  mov rcx, [r15 + HEADER_NOISE_WORDS]
  test rcx, rcx
  jz 2f
1:
  mov [rdi], rdx
  add rdi, 8
  call next_noise
  dec rcx
  jnz 1b
2:
  mov ecx, CONTENT_MIXED_WORDS
  sub rcx, [r15 + HEADER_NOISE_WORDS]
  rep stosq
  pop rsi
  pop rdi
  mov [r13 + r8 * 4], esi
  inc qword ptr [r14 + VCPU_WRITES]
  mov qword ptr [r14 + VCPU_INFLIGHT_PAGE], 0
  ret

// Gives the local granule r10 back to the VMM, without reading it first.
remove_granule:
  mov rcx, [r15 + HEADER_GRANULE_SHIFT]
  shl r10, cl
  call locate_page
  mov eax, ENTRY_REMOVED
  mov [r14 + VCPU_INFLIGHT_ENTRY], rax
  mov [r14 + VCPU_INFLIGHT_PAGE], r9
  mov rcx, [r15 + HEADER_GRANULE_SHIFT]
  mov eax, 1
  shl rax, cl
1:
  or dword ptr [r13 + r8 * 4], ENTRY_REMOVED
  inc r8
  dec rax
  jnz 1b
  mov eax, r9d
  mov dx, PORT_REMOVE
  out dx, eax
  inc qword ptr [r14 + VCPU_REMOVALS]
  mov qword ptr [r14 + VCPU_INFLIGHT_PAGE], 0
  ret

// The VMM reads r9 (image page) and rsi (entry) at this exit, and never lets the guest go on.
page_wrong:
  mov eax, MISMATCH_PAGE
  jmp report
vector_register_wrong:
  mov eax, MISMATCH_VECTOR_REGISTER
  jmp report
counter_wrong:
  mov eax, MISMATCH_COUNTER
report:
  mov dx, PORT_MISMATCH
  out dx, eax
  jmp report

finished:
  xor eax, eax
  mov dx, PORT_FINISHED
  out dx, eax
  jmp operation

guest_program_end:
  .section .note.GNU-stack, "", @progbits
