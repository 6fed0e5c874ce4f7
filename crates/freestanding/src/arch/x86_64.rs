//! Entry on x86-64: the stack pointer is at argc (System V ABI, "Process
//! Initialization"); the frame pointer is cleared to end back traces, the stack
//! aligned to 16 bytes as a call expects it.

core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call freestanding_main",
    "ud2",
);
