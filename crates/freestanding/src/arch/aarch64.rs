//! Entry on arm64: the stack pointer is at argc; frame pointer and link register
//! are cleared to end back traces. The kernel aligns the stack to 16 bytes.

core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "bl freestanding_main",
    "brk #1",
);
