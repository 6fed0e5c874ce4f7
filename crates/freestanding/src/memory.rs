//! The C functions that compiled Rust code calls and that the gnu targets leave
//! to libc.
//!
//! Simple rather than fast: on x86-64 the string instructions, elsewhere loops
//! over volatile accesses. Either way the compiler cannot recognise what they do
//! and turn a function into a call of itself, which plain loops would invite.

#![allow(
    unsafe_code,
    reason = "named shims: these symbols are what the compiler calls"
)]

/// Copies `len` bytes; the areas do not overlap.
///
/// # Safety
/// As C's memcpy.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { imp::copy_up(to, from, len) };
    to
}

/// Copies `len` bytes; the areas may overlap.
///
/// # Safety
/// As C's memmove.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // Copying upwards is right unless the target begins inside the source.
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: the caller's promise; each byte is read before it is written.
        unsafe { imp::copy_up(to, from, len) };
    } else {
        // SAFETY: as above, from the end.
        unsafe { imp::copy_down(to, from, len) };
    }
    to
}

/// Fills `len` bytes with the low byte of `value`.
///
/// # Safety
/// As C's memset.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    let [byte, ..] = value.to_le_bytes();
    // SAFETY: the caller's promise.
    unsafe { imp::fill(to, byte, len) };
    to
}

/// Compares `len` bytes: negative, zero or positive.
///
/// # Safety
/// As C's memcmp.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: `at` is below `len`.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// Whether `len` bytes differ.
///
/// # Safety
/// As C's memcmp.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(a, b, len) }
}

/// Length of a C string.
///
/// # Safety
/// As C's strlen.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the string is NUL-terminated.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}

/// The standard library was compiled to unwind; this program aborts instead, so
/// its landing pads are never entered. The linker wants their symbols.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// See [`rust_eh_personality`].
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

#[cfg(target_arch = "x86_64")]
mod imp {
    /// # Safety
    /// Both areas are valid; each byte of the source is read before it is written.
    pub(super) unsafe fn copy_up(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: the caller's promise; the direction flag is clear by the ABI.
        unsafe {
            core::arch::asm!(
                "rep movsb",
                inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// # Safety
    /// As [`copy_up`], from the end; `len` is not 0.
    pub(super) unsafe fn copy_down(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: the caller's promise; the direction flag is cleared again.
        unsafe {
            core::arch::asm!(
                "std", "rep movsb", "cld",
                inout("rcx") len => _,
                inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
                options(nostack),
            );
        }
    }

    /// # Safety
    /// The area is valid.
    pub(super) unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
        // SAFETY: the caller's promise; the direction flag is clear by the ABI.
        unsafe {
            core::arch::asm!(
                "rep stosb",
                inout("rcx") len => _, inout("rdi") to => _, in("al") byte,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    /// # Safety
    /// Both areas are valid; each byte of the source is read before it is written.
    pub(super) unsafe fn copy_up(to: *mut u8, from: *const u8, len: usize) {
        for at in 0..len {
            // SAFETY: `at` is below `len`.
            unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        }
    }

    /// # Safety
    /// As [`copy_up`], from the end.
    pub(super) unsafe fn copy_down(to: *mut u8, from: *const u8, len: usize) {
        for at in (0..len).rev() {
            // SAFETY: `at` is below `len`.
            unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        }
    }

    /// # Safety
    /// The area is valid.
    pub(super) unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
        for at in 0..len {
            // SAFETY: `at` is below `len`.
            unsafe { to.add(at).write_volatile(byte) };
        }
    }
}
