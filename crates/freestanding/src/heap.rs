//! An allocator for a program with one thread and a short life.
//!
//! Memory comes from a fixed arena in .bss, of which the kernel backs only the
//! pages that are touched: the arena's size is the program's memory limit. Sizes
//! are rounded up to powers of two from 16 bytes; freed blocks go onto a list of
//! their size and are taken from there first, so a long wait for a device, which
//! allocates and frees the same few sizes over and over, does not grow.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;

const MIN_SHIFT: u32 = 4;
const CLASSES: usize = 28;

/// The allocator; `SIZE` is the arena's length in bytes.
#[derive(Debug)]
pub struct Heap<const SIZE: usize> {
    arena: UnsafeCell<Arena<SIZE>>,
}

/// Blocks are aligned to their size up to a page, so the arena is too.
#[repr(C, align(4096))]
#[derive(Debug)]
struct Arena<const SIZE: usize> {
    bytes: [u8; SIZE],
    used: usize,
    free: [*mut u8; CLASSES],
}

#[allow(unsafe_code, reason = "an allocator")]
// SAFETY: only for programs with one thread, as the module says; child processes
// get a copy.
unsafe impl<const SIZE: usize> Sync for Heap<SIZE> {}

impl<const SIZE: usize> Heap<SIZE> {
    /// An empty heap.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "only ever a static")]
    pub const fn new() -> Self {
        Self {
            arena: UnsafeCell::new(Arena {
                bytes: [0; SIZE],
                used: 0,
                free: [ptr::null_mut(); CLASSES],
            }),
        }
    }
}

/// The list that blocks for `layout` come from, and their size.
fn class(layout: Layout) -> (usize, usize) {
    let size = layout
        .size()
        .max(layout.align())
        .max(1 << MIN_SHIFT)
        .checked_next_power_of_two()
        .unwrap_or(usize::MAX);
    (
        (size.trailing_zeros() - MIN_SHIFT.min(size.trailing_zeros())) as usize,
        size,
    )
}

#[allow(unsafe_code, reason = "an allocator")]
// SAFETY: blocks are disjoint, at least as large and aligned as asked for (up to
// a page, beyond which null is returned), and reused only after they were freed.
unsafe impl<const SIZE: usize> GlobalAlloc for Heap<SIZE> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (class, size) = class(layout);
        if class >= CLASSES || layout.align() > 4096 {
            return ptr::null_mut();
        }
        // SAFETY: one thread, and no reference is held across calls.
        let arena = unsafe { &mut *self.arena.get() };
        let head = arena.free[class];
        if !head.is_null() {
            // SAFETY: a block on the list is at least 16 bytes long, aligned to
            // 16, and holds the pointer to the next one.
            arena.free[class] = unsafe { *head.cast::<*mut u8>() };
            return head;
        }
        let start = arena.used.next_multiple_of(size.min(4096));
        match start.checked_add(size) {
            Some(end) if end <= SIZE => {
                arena.used = end;
                // SAFETY: `start` is inside the arena.
                unsafe { arena.bytes.as_mut_ptr().add(start) }
            }
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (class, _) = class(layout);
        // SAFETY: one thread, and no reference is held across calls.
        let arena = unsafe { &mut *self.arena.get() };
        // SAFETY: the block is the caller's to give up, at least 16 bytes long
        // and aligned to 16.
        unsafe { *block.cast::<*mut u8>() = arena.free[class] };
        arena.free[class] = block;
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else {
            return ptr::null_mut();
        };
        if class(new) == class(layout) {
            return block;
        }
        // SAFETY: as this function's own contract.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "tests an allocator")]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn freed_blocks_are_used_again() {
        let heap = std::boxed::Box::new(Heap::<65536>::new());
        // SAFETY: blocks are freed with the layout that they were made with.
        unsafe {
            let first = heap.alloc(layout(100, 8));
            heap.dealloc(first, layout(100, 8));
            for _ in 0..10_000 {
                let again = heap.alloc(layout(128, 1));
                assert_eq!(again, first);
                heap.dealloc(again, layout(128, 1));
            }
        }
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_limited() {
        let heap = std::boxed::Box::new(Heap::<65536>::new());
        let mut seen = std::vec::Vec::new();
        // SAFETY: only written within the size that was asked for.
        unsafe {
            for (size, align) in [(1, 1), (17, 16), (5000, 4096), (24, 8), (3, 1), (4096, 64)] {
                let block = heap.alloc(layout(size, align));
                assert!(!block.is_null());
                assert_eq!(block.addr() % align, 0);
                for &(start, len) in &seen {
                    assert!(block.addr() + size <= start || start + len <= block.addr());
                }
                seen.push((block.addr(), size));
                block.write_bytes(0xa5, size);
            }
            assert!(heap.alloc(layout(65536, 1)).is_null());
            assert!(heap.alloc(layout(8, 8192)).is_null());
        }
    }

    #[test]
    fn growing_keeps_the_content() {
        let heap = std::boxed::Box::new(Heap::<65536>::new());
        // SAFETY: only read and written within the sizes that were asked for.
        unsafe {
            let block = heap.alloc(layout(16, 1));
            block.write_bytes(7, 16);
            let same = heap.realloc(block, layout(16, 1), 12);
            assert_eq!(same, block);
            let grown = heap.realloc(block, layout(16, 1), 300);
            assert_ne!(grown, block);
            for at in 0..16 {
                assert_eq!(*grown.add(at), 7);
            }
        }
    }
}
