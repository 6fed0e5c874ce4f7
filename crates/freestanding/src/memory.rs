//! The C memory functions that compiled Rust code calls. Simple rather than
//! fast, but for x86-64's string instructions, which are both.

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
    #[cfg(target_arch = "x86_64")]
    // SAFETY: copies what the caller promises is valid; the direction flag is
    // clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..len {
        // SAFETY: `at` is below `len`.
        unsafe { *to.add(at) = *from.add(at) };
    }
    to
}

/// Copies `len` bytes; the areas may overlap.
///
/// # Safety
/// As C's memmove.
// SAFETY: nothing else defines this symbol in a program without a libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // Copying upwards is safe unless the target begins inside the source.
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: bytes are read before they are overwritten.
        return unsafe { memcpy(to, from, len) };
    }
    for at in (0..len).rev() {
        // SAFETY: `at` is below `len`; downwards, bytes are read before they
        // are overwritten.
        unsafe { *to.add(at) = *from.add(at) };
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
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let byte = value as u8;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: writes what the caller promises is valid; the direction flag is
    // clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            in("al") byte,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..len {
        // SAFETY: `at` is below `len`.
        unsafe { *to.add(at) = byte };
    }
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
        let (x, y) = unsafe { (*a.add(at), *b.add(at)) };
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
    while unsafe { *text.add(len) } != 0 {
        len += 1;
    }
    len
}
