//! The arm64 system call convention (kernel: arch/arm64/kernel/entry.S).

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
    // SAFETY: the kernel preserves every register but x0; the memory behind the
    // arguments is the caller's promise.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            options(nostack),
        );
    }
    result
}

/// The virtual counter.
#[allow(unsafe_code, reason = "the register has no other way to it")]
pub(crate) fn ticks() -> u64 {
    let ticks;
    // SAFETY: the kernel lets programs read the virtual counter (CNTKCTL_EL1); the
    // instruction changes nothing.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}
