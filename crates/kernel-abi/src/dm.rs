//! The device mapper (kernel: drivers/md/dm-ioctl.c,
//! include/uapi/linux/dm-ioctl.h).
//!
//! Every request is one buffer: `struct dm_ioctl` (312 bytes), then the payload.
//! Offsets below are that structure's; all fields are of native byte order.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::c_void;

use linux_raw_sys::ioctl::{
    DM_DEV_CREATE, DM_DEV_REMOVE, DM_DEV_SUSPEND, DM_TABLE_LOAD, DM_TABLE_STATUS,
};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

use crate::{Error, Result, file};

const STRUCT_LEN: usize = 312;
const VERSION: [u32; 3] = [4, 0, 0];
const AT_DATA_SIZE: usize = 12;
const AT_DATA_START: usize = 16;
const AT_TARGET_COUNT: usize = 20;
const AT_FLAGS: usize = 28;
const AT_DEV: usize = 40;
const AT_NAME: usize = 48;
const NAME_LEN: usize = 128;
const AT_UUID: usize = 176;
const UUID_LEN: usize = 129;

const FLAG_READONLY: u32 = 1 << 0;
const FLAG_BUFFER_FULL: u32 = 1 << 8;
const FLAG_DEFERRED_REMOVE: u32 = 1 << 17;

/// `struct dm_target_spec`: sector_start u64, length u64, status i32, next u32,
/// target_type\[16\].
const SPEC_LEN: usize = 40;

/// Device-mapper sectors are 512 bytes, whatever the disk's are.
pub const SECTOR: u64 = 512;

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// First sector of the mapped device that it serves.
    pub start: u64,
    /// Number of sectors.
    pub len: u64,
    /// Target type: `linear`, `verity`.
    pub kind: String,
    /// Its parameters.
    pub params: String,
}

/// Opens `/dev/mapper/control`.
#[derive(Debug)]
pub struct Mapper {
    control: OwnedFd,
}

/// A mapped device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Its name in the device mapper.
    pub name: String,
    /// Its node, `/dev/dm-0`.
    pub path: String,
}

impl Mapper {
    /// Opens the control device.
    ///
    /// # Errors
    /// ENOENT if the dm-mod module is missing.
    pub fn open() -> Result<Self> {
        let control = file::open("/dev/mapper/control", OFlags::RDWR)?;
        Ok(Self { control })
    }

    /// Makes a read-only device from a table, activates it, and reads its
    /// status back: a table whose status is not as long as it was loaded is an
    /// error. On failure nothing is left behind.
    ///
    /// # Errors
    /// The kernel's, with the step that failed.
    pub fn create(&self, name: &str, uuid: &str, table: &[Target]) -> Result<Mapped> {
        let mut request = Request::new(name)?;
        request.put_text(AT_UUID, UUID_LEN, uuid)?;
        self.call("creating mapped device", DM_DEV_CREATE, &mut request)?;
        if let Err(error) = self.activate(name, table) {
            // What failed first is what has to be said.
            let _ = self.remove(name, 0);
            return Err(error);
        }
        Ok(Mapped {
            name: name.to_string(),
            path: format!("/dev/dm-{}", request.minor()),
        })
    }

    fn activate(&self, name: &str, table: &[Target]) -> Result<()> {
        let mut request = Request::new(name)?;
        request.put_u32(AT_FLAGS, FLAG_READONLY);
        request.add_table(table)?;
        self.call("loading the table of", DM_TABLE_LOAD, &mut request)?;
        // Resuming is suspending without the suspend flag.
        self.call("activating", DM_DEV_SUSPEND, &mut Request::new(name)?)?;
        let status = self.status(name)?;
        let sectors = |table: &[Target]| table.iter().map(|target| target.len).sum::<u64>();
        if status.len() != table.len() || sectors(&status) != sectors(table) {
            return Err(Error::new("reading back the table of", name, Errno::IO));
        }
        Ok(())
    }

    /// The live status of each target; for verity, `params` is `V` while all
    /// that was read is intact and `C` after a corruption.
    ///
    /// # Errors
    /// The kernel's; ENXIO if there is no such device.
    pub fn status(&self, name: &str) -> Result<Vec<Target>> {
        const OP: &str = "reading the status of";
        let mut room = 4096;
        while room <= 16 << 20 {
            let mut request = Request::new(name)?;
            request.make_room(room);
            self.call(OP, DM_TABLE_STATUS, &mut request)?;
            if request.u32(AT_FLAGS) & FLAG_BUFFER_FULL == 0 {
                return request
                    .targets()
                    .ok_or_else(|| Error::new(OP, name, Errno::BADMSG));
            }
            room *= 4;
        }
        Err(Error::new(OP, name, Errno::TOOBIG))
    }

    /// Removes the device as soon as nobody uses it any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_deferred(&self, name: &str) -> Result<()> {
        self.remove(name, FLAG_DEFERRED_REMOVE)
    }

    fn remove(&self, name: &str, flags: u32) -> Result<()> {
        let mut request = Request::new(name)?;
        request.put_u32(AT_FLAGS, flags);
        self.call("removing mapped device", DM_DEV_REMOVE, &mut request)
    }

    #[allow(unsafe_code, reason = "ioctl(2) is unsafe to the last")]
    fn call(&self, op: &'static str, opcode: u32, request: &mut Request<'_>) -> Result<()> {
        let call = Call {
            opcode,
            buffer: &mut request.bytes,
        };
        // SAFETY: see `Call`; a control descriptor of another driver would
        // answer ENOTTY.
        unsafe { rustix::ioctl::ioctl(self.control.as_fd(), call) }
            .map_err(|errno| Error::new(op, request.name, errno))
    }
}

/// A request buffer on the way to the kernel, an answer on the way back.
struct Request<'n> {
    bytes: Vec<u8>,
    name: &'n str,
}

impl<'n> Request<'n> {
    fn new(name: &'n str) -> Result<Self> {
        let mut request = Self {
            bytes: Vec::new(),
            name,
        };
        request.make_room(STRUCT_LEN);
        for (at, part) in VERSION.into_iter().enumerate() {
            request.put_u32(at * 4, part);
        }
        request.put_u32(AT_DATA_START, STRUCT_LEN as u32);
        request.put_text(AT_NAME, NAME_LEN, name)?;
        Ok(request)
    }

    /// Grows the buffer by `len` bytes of zeros.
    fn make_room(&mut self, len: usize) {
        self.bytes.resize(self.bytes.len() + len, 0);
        let size = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.put_u32(AT_DATA_SIZE, size);
    }

    fn add_table(&mut self, table: &[Target]) -> Result<()> {
        let error = |errno| Error::new("loading the table of", self.name, errno);
        let too_big = |_| error(Errno::TOOBIG);
        let count = u32::try_from(table.len()).map_err(too_big)?;
        let mut payload = Vec::new();
        for target in table {
            if target.kind.len() > 15 || target.params.as_bytes().contains(&0) {
                return Err(error(Errno::INVAL));
            }
            // The string, its NUL, and padding to eight bytes.
            let len = SPEC_LEN + (target.params.len() + 1).next_multiple_of(8);
            let next = u32::try_from(len).map_err(too_big)?;
            let end = payload.len() + len;
            payload.extend_from_slice(&target.start.to_ne_bytes());
            payload.extend_from_slice(&target.len.to_ne_bytes());
            payload.extend_from_slice(&0u32.to_ne_bytes());
            payload.extend_from_slice(&next.to_ne_bytes());
            payload.extend_from_slice(target.kind.as_bytes());
            payload.resize(end - len + SPEC_LEN, 0);
            payload.extend_from_slice(target.params.as_bytes());
            payload.resize(end, 0);
        }
        self.put_u32(AT_TARGET_COUNT, count);
        self.bytes.extend_from_slice(&payload);
        self.make_room(0);
        Ok(())
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn put_text(&mut self, at: usize, room: usize, text: &str) -> Result<()> {
        if text.len() >= room || text.as_bytes().contains(&0) {
            return Err(Error::new("naming mapped device", text, Errno::NAMETOOLONG));
        }
        self.bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        Ok(())
    }

    fn u32(&self, at: usize) -> u32 {
        read_u32(&self.bytes, at).unwrap_or(0)
    }

    /// Low byte and high part of the minor number, as the kernel's
    /// `huge_encode_dev` packs them into `dev`.
    fn minor(&self) -> u32 {
        let dev = self.u32(AT_DEV);
        (dev & 0xff) | ((dev >> 12) & 0xf_ff00)
    }

    fn targets(&self) -> Option<Vec<Target>> {
        let base = usize::try_from(self.u32(AT_DATA_START)).ok()?;
        let mut at = base;
        let mut targets = Vec::new();
        for _ in 0..self.u32(AT_TARGET_COUNT) {
            let spec = self.bytes.get(at..at.checked_add(SPEC_LEN)?)?;
            let rest = self.bytes.get(at + SPEC_LEN..)?;
            let params = rest.get(..rest.iter().position(|&byte| byte == 0)?)?;
            let kind = spec.get(24..)?;
            let kind = kind.get(..kind.iter().position(|&byte| byte == 0)?)?;
            targets.push(Target {
                start: read_u64(spec, 0)?,
                len: read_u64(spec, 8)?,
                kind: String::from_utf8_lossy(kind).into_owned(),
                params: String::from_utf8_lossy(params).into_owned(),
            });
            // In an answer `next` counts from the start of the payload.
            at = base.checked_add(usize::try_from(read_u32(spec, 20)?).ok()?)?;
        }
        Some(targets)
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(field.try_into().ok()?))
}

struct Call<'a> {
    opcode: u32,
    buffer: &'a mut [u8],
}

#[allow(unsafe_code, reason = "the trait is unsafe to implement")]
// SAFETY: every device-mapper ioctl takes a pointer to a `struct dm_ioctl` whose
// `data_size` field says how long the whole buffer is, and writes its answer
// into the same buffer; `Request` keeps that field equal to the buffer's length.
unsafe impl Ioctl for Call<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Target> {
        alloc::vec![
            Target {
                start: 0,
                len: 8,
                kind: "linear".into(),
                params: "7:0 2048".into(),
            },
            Target {
                start: 8,
                len: 16,
                kind: "linear".into(),
                params: "7:0 4096".into(),
            },
        ]
    }

    #[test]
    fn the_structure_has_the_kernels_size() {
        assert_eq!(
            core::mem::size_of::<u32>() * 10 + 8 + NAME_LEN + UUID_LEN + 7,
            STRUCT_LEN
        );
        // _IOC_SIZE of the opcode is the size of struct dm_ioctl.
        assert_eq!((DM_TABLE_LOAD as usize >> 16) & 0x3fff, STRUCT_LEN);
    }

    #[test]
    fn a_table_is_laid_out_as_the_kernel_reads_it() {
        let mut request = Request::new("image").unwrap();
        request.add_table(&sample()).unwrap();
        assert_eq!(request.u32(AT_TARGET_COUNT), 2);
        assert_eq!(request.u32(AT_DATA_SIZE) as usize, request.bytes.len());
        let payload = &request.bytes[STRUCT_LEN..];
        assert_eq!(read_u64(payload, 8), Some(8));
        let next = read_u32(payload, 20).unwrap() as usize;
        assert_eq!(next % 8, 0);
        assert_eq!(read_u64(payload, next), Some(8));
        assert_eq!(&payload[next + 24..next + 30], b"linear");
    }

    #[test]
    fn a_status_answer_is_read_within_its_bounds() {
        // In answers `next` counts from the payload's start: for the first
        // target both countings agree.
        let mut request = Request::new("image").unwrap();
        request.add_table(&sample()).unwrap();
        let second = STRUCT_LEN + read_u32(&request.bytes, STRUCT_LEN + 20).unwrap() as usize;
        assert_eq!(request.targets().unwrap(), sample());
        request.put_u32(second + 20, u32::MAX);
        request.put_u32(AT_TARGET_COUNT, 3);
        assert_eq!(request.targets(), None);
        request.bytes.truncate(second + 30);
        request.put_u32(AT_TARGET_COUNT, 2);
        assert_eq!(request.targets(), None);
    }

    #[test]
    fn names_have_limits() {
        assert!(Request::new(&"x".repeat(128)).is_err());
        assert!(Request::new("a\0b").is_err());
    }

    #[test]
    fn minors_beyond_a_byte_are_unpacked() {
        let mut request = Request::new("image").unwrap();
        // huge_encode_dev(254, 300)
        request.put_u32(AT_DEV, (300 & 0xff) | (254 << 8) | ((300 & !0xff) << 12));
        assert_eq!(request.minor(), 300);
    }
}
