//! What the kernel hands a new program.

use alloc::ffi::CString;
use alloc::vec::Vec;

/// Arguments and environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// The arguments, the program's own name first.
    pub args: Vec<CString>,
    /// The environment, `NAME=value`.
    pub env: Vec<CString>,
}

impl Start {
    /// Copies arguments and environment off the initial stack: argc, argc
    /// pointers, a null, pointers, a null (kernel: fs/binfmt_elf.c,
    /// create_elf_tables).
    ///
    /// # Safety
    /// `stack` must be the stack pointer at the program's entry.
    #[must_use]
    #[allow(unsafe_code, reason = "reads the kernel's initial stack")]
    pub unsafe fn from_stack(stack: *const usize) -> Self {
        // SAFETY: the caller passes the initial stack, whose first word is argc.
        let count = unsafe { *stack };
        // SAFETY: as laid out above, both arrays lie behind it.
        let (argv, envp) = unsafe { (stack.add(1), stack.add(count.wrapping_add(2))) };
        Self {
            // SAFETY: both point at null-terminated arrays of C strings.
            args: unsafe { strings(argv) },
            // SAFETY: as above.
            env: unsafe { strings(envp) },
        }
    }
}

/// # Safety
/// `array` must point at a null-terminated array of pointers to C strings.
#[allow(unsafe_code, reason = "reads the kernel's initial stack")]
unsafe fn strings(array: *const usize) -> Vec<CString> {
    let mut at = array.cast::<*const core::ffi::c_char>();
    let mut all = Vec::new();
    loop {
        // SAFETY: `at` is inside the array until the null was read.
        let text = unsafe { *at };
        if text.is_null() {
            return all;
        }
        // SAFETY: a non-null entry points at a C string.
        all.push(unsafe { core::ffi::CStr::from_ptr(text) }.into());
        // SAFETY: the entry was not the last.
        at = unsafe { at.add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "tests the function")]
    fn a_stack_is_read() {
        let text = |s: &std::ffi::CStr| s.as_ptr().expose_provenance();
        let stack = [2, text(c"init"), text(c"single"), 0, text(c"HOME=/"), 0];
        // SAFETY: laid out as the kernel does.
        let start = unsafe { Start::from_stack(stack.as_ptr()) };
        assert_eq!(
            start.args,
            [CString::from(c"init"), CString::from(c"single")]
        );
        assert_eq!(start.env, [CString::from(c"HOME=/")]);
    }
}
