//! Loop devices (kernel: drivers/block/loop.c, include/uapi/linux/loop.h).

use alloc::format;
use alloc::string::String;
use core::ffi::c_void;

use linux_raw_sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LOOP_CONFIGURE, LOOP_CTL_GET_FREE,
    loop_config, loop_info64,
};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

use crate::{Error, Result, file};

/// A loop device that goes away when its last user does.
#[derive(Debug)]
pub struct Loop {
    /// Its path, `/dev/loop0`.
    pub path: String,
    /// Keeps it attached until something else uses it.
    _fd: OwnedFd,
}

/// Attaches the `len` bytes of `backing` from `offset` to a free loop device:
/// read-only, autoclear, direct I/O (no second copy in the page cache) with
/// `block_size`, the backing device's logical block size. All are in bytes.
///
/// Unlike device-mapper it does not claim the backing device, which can be
/// mounted at the same time.
///
/// # Errors
/// The kernel's; ENOENT on `/dev/loop-control` if the loop module is missing.
pub fn attach(
    backing: BorrowedFd<'_>,
    name: &str,
    offset: u64,
    len: u64,
    block_size: u32,
) -> Result<Loop> {
    let control = file::open("/dev/loop-control", OFlags::RDONLY)?;
    // Another process may take the free device between the two calls: EBUSY.
    for _ in 0..64 {
        let number = ioctl(control.as_fd(), GetFree)
            .map_err(|errno| Error::new("asking for a free loop device of", name, errno))?;
        let path = format!("/dev/loop{number}");
        let fd = file::open(&path, OFlags::RDONLY)?;
        let configure = Configure(config(backing, offset, len, block_size));
        match ioctl(fd.as_fd(), configure) {
            Ok(()) => return Ok(Loop { path, _fd: fd }),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(Error::new("attaching a loop device to", name, errno)),
        }
    }
    Err(Error::new("attaching a loop device to", name, Errno::BUSY))
}

fn config(backing: BorrowedFd<'_>, offset: u64, len: u64, block_size: u32) -> loop_config {
    loop_config {
        // Never negative in a borrowed descriptor.
        fd: backing.as_raw_fd().unsigned_abs(),
        block_size,
        info: loop_info64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: offset,
            lo_sizelimit: len,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: LO_FLAGS_READ_ONLY as u32
                | LO_FLAGS_AUTOCLEAR as u32
                | LO_FLAGS_DIRECT_IO as u32,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        },
        __reserved: [0; 8],
    }
}

#[allow(unsafe_code, reason = "ioctl(2) is unsafe to the last")]
fn ioctl<I: Ioctl>(fd: BorrowedFd<'_>, request: I) -> rustix::io::Result<I::Output> {
    // SAFETY: the two requests below carry the argument that loop.c defines for
    // their opcodes; the descriptors come from the loop driver's own nodes, and
    // a file of another kind answers ENOTTY.
    unsafe { rustix::ioctl::ioctl(fd, request) }
}

struct GetFree;

#[allow(unsafe_code, reason = "the trait is unsafe to implement")]
// SAFETY: LOOP_CTL_GET_FREE takes no argument and returns the device's number.
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        core::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

struct Configure(loop_config);

#[allow(unsafe_code, reason = "the trait is unsafe to implement")]
// SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which is what the
// pointer points at for as long as the call takes.
unsafe impl Ioctl for Configure {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CONFIGURE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        core::ptr::from_mut(&mut self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}
