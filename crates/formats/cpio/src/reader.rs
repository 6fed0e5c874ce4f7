//! Reading an archive.

use alloc::vec::Vec;

use crate::segment::check_magic;
use crate::{
    CpioError, CpioErrorKind, HEADER_LEN, MAGIC_CRC, MAX_NAME_LEN, TRAILER, TYPE_MASK, checksum,
};

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link; its data are the target.
    Symlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// None that Linux knows. The kernel passes over it.
    Unknown,
}

/// An entry of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Name, as stored, up to the first NUL. Never empty; see [`Self::path`].
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u32,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names that the file had when it was packed.
    pub nlink: u32,
    /// Time of modification, in seconds since 1970.
    pub mtime: u32,
    /// Major and minor number of the device that the file was on.
    pub dev: (u32, u32),
    /// Major and minor number of the device that the file is.
    pub rdev: (u32, u32),
    /// Contents of a regular file, target of a symbolic link.
    pub data: &'a [u8],
    /// Where the header lies, in bytes.
    pub offset: usize,
    /// Where the data lie, in bytes.
    pub data_offset: usize,
}

impl Entry<'_> {
    /// What the entry makes.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        match self.mode & TYPE_MASK {
            0o100_000 => FileType::Regular,
            0o040_000 => FileType::Directory,
            0o120_000 => FileType::Symlink,
            0o060_000 => FileType::BlockDevice,
            0o020_000 => FileType::CharDevice,
            0o010_000 => FileType::Fifo,
            0o140_000 => FileType::Socket,
            _ => FileType::Unknown,
        }
    }

    /// The name as a path from the archive's root: no leading slash, no empty
    /// or `.` components. The root itself is empty.
    ///
    /// # Errors
    /// [`CpioErrorKind::DotDot`] if a component is `..`.
    pub fn path(&self) -> Result<Vec<u8>, CpioError> {
        let mut path = Vec::with_capacity(self.name.len());
        for component in self.name.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    return Err(CpioError {
                        offset: self.offset,
                        kind: CpioErrorKind::DotDot,
                    });
                }
                _ => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(component);
                }
            }
        }
        Ok(path)
    }
}

/// Iterates over the entries of one archive.
///
/// It ends after the trailer, at the end of the bytes, or where something other
/// than an entry begins (the kernel needs no trailer); [`Self::position`] says
/// where, for [`crate::next_segment`]. After an error it ends too.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Trailer,
    Stopped,
}

impl<'a> Reader<'a> {
    /// Reads the archive that `bytes` begins with.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::at(bytes, 0)
    }

    /// Reads the archive that begins at offset `start` of an initramfs.
    #[must_use]
    pub fn at(bytes: &'a [u8], start: usize) -> Self {
        Self {
            bytes,
            position: start,
            state: State::Reading,
        }
    }

    /// Where the next entry begins; after the end, what follows the archive.
    /// Never beyond the bytes.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position.min(self.bytes.len())
    }

    /// Whether the archive ended with its trailer.
    #[must_use]
    pub fn saw_trailer(&self) -> bool {
        self.state == State::Trailer
    }

    fn read(&mut self) -> Result<Option<Entry<'a>>, CpioError> {
        let rest = self.bytes.get(self.position..).unwrap_or(&[]);
        let padding = rest.iter().take_while(|&&byte| byte == 0).count();
        let rest = rest.get(padding..).unwrap_or(&[]);
        let offset = self.position.saturating_add(padding);
        if !rest.starts_with(b"0") {
            self.state = State::Stopped;
            return Ok(None);
        }
        self.position = offset;
        let (entry, end) = read_entry(self.bytes, offset)?;
        self.position = end;
        if entry.name == TRAILER {
            self.state = State::Trailer;
            return Ok(None);
        }
        Ok(Some(entry))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Entry<'a>, CpioError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state != State::Reading {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.state = State::Stopped;
        }
        read.transpose()
    }
}

impl core::iter::FusedIterator for Reader<'_> {}

/// The numbers of a header, in their order.
const FIELDS: [&str; 13] = [
    "c_ino",
    "c_mode",
    "c_uid",
    "c_gid",
    "c_nlink",
    "c_mtime",
    "c_filesize",
    "c_devmajor",
    "c_devminor",
    "c_rdevmajor",
    "c_rdevminor",
    "c_namesize",
    "c_check",
];

fn numbers(header: &[u8], offset: usize) -> Result<[u32; 13], CpioError> {
    let mut values = [0; 13];
    let digits = header.get(6..).unwrap_or(&[]).chunks_exact(8);
    for ((value, digits), field) in values.iter_mut().zip(digits).zip(FIELDS) {
        *value = digits
            .iter()
            .try_fold(0, |number: u32, &digit| {
                Some(number << 4 | char::from(digit).to_digit(16)?)
            })
            .ok_or(CpioError {
                offset,
                kind: CpioErrorKind::BadNumber { field },
            })?;
    }
    Ok(values)
}

/// The entry at `offset`, and where the next one begins.
fn read_entry(bytes: &[u8], offset: usize) -> Result<(Entry<'_>, usize), CpioError> {
    let fail = |kind| CpioError { offset, kind };
    let rest = bytes.get(offset..).unwrap_or(&[]);
    check_magic(rest, offset)?;
    let (header, rest) = rest
        .split_at_checked(HEADER_LEN)
        .ok_or(fail(CpioErrorKind::TruncatedHeader))?;
    let [
        ino,
        mode,
        uid,
        gid,
        nlink,
        mtime,
        data_len,
        dev_major,
        dev_minor,
        rdev_major,
        rdev_minor,
        name_len,
        check,
    ] = numbers(header, offset)?;

    let (stored_len, name) = read_name(rest, name_len).map_err(fail)?;

    // The sums cannot overflow: header and name lie inside `bytes`, which has
    // at most isize::MAX bytes.
    let data_offset = (offset + HEADER_LEN + stored_len).next_multiple_of(4);
    let after = bytes.get(data_offset..).unwrap_or(&[]);
    let data = usize::try_from(data_len)
        .ok()
        .and_then(|len| after.get(..len))
        .ok_or(fail(CpioErrorKind::TruncatedData {
            len: data_len,
            present: after.len(),
        }))?;
    let entry = Entry {
        name,
        ino,
        mode,
        uid,
        gid,
        nlink,
        mtime,
        dev: (dev_major, dev_minor),
        rdev: (rdev_major, rdev_minor),
        data,
        offset,
        data_offset,
    };
    if header.starts_with(MAGIC_CRC) && entry.file_type() == FileType::Regular {
        let computed = checksum(data);
        if computed != check {
            return Err(fail(CpioErrorKind::Checksum {
                stated: check,
                computed,
            }));
        }
    }
    Ok((entry, (data_offset + data.len()).next_multiple_of(4)))
}

/// The name at the start of `rest` and the length of its field, in bytes, which
/// may hold more NULs than one.
fn read_name(rest: &[u8], len: u32) -> Result<(usize, &[u8]), CpioErrorKind> {
    let stored = usize::try_from(len)
        .ok()
        .filter(|len| (1..=MAX_NAME_LEN).contains(len))
        .ok_or(CpioErrorKind::BadNameLength { len })?;
    let stored = rest
        .get(..stored)
        .ok_or(CpioErrorKind::TruncatedName { len })?;
    let name = stored.split(|&byte| byte == 0).next().unwrap_or(&[]);
    if name.is_empty() || stored.last() != Some(&0) {
        return Err(CpioErrorKind::BadName);
    }
    Ok((stored.len(), name))
}
