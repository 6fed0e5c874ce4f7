//! The x86-64 system call convention (kernel: arch/x86/entry/entry_64.S).

/// Makes system call `number` with up to five arguments; a negative result is
/// a negated errno.
///
/// # Safety
/// The arguments must be what that system call asks for: every pointer valid
/// for the access that the kernel makes through it.
#[allow(
    unsafe_code,
    reason = "rustix does not offer these calls without libc's auxv"
)]
pub(crate) unsafe fn syscall5(number: u32, args: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the instruction clobbers rcx, r11 and rax only, all declared; the
    // memory behind the arguments is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as usize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// The time-stamp counter.
#[allow(unsafe_code, reason = "the instruction is an intrinsic")]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has rdtsc, and the kernel lets programs use it
    // unless they asked to be kept from it (prctl PR_SET_TSC).
    unsafe { core::arch::x86_64::_rdtsc() }
}
