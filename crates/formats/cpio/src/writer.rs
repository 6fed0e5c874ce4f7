//! Writing an archive.

use alloc::vec::Vec;
use core::fmt;

use crate::{HEADER_LEN, MAGIC_CRC, MAGIC_NEWC, MAX_NAME_LEN, TRAILER, TYPE_MASK, checksum};

/// Which of the two formats is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `070701`.
    #[default]
    Newc,
    /// `070702`, with checksums of regular files.
    Crc,
}

/// An entry to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEntry<'a> {
    /// Name, 1 to 4095 bytes without NUL.
    pub name: &'a [u8],
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification, in seconds since 1970.
    pub mtime: u32,
    /// Major and minor number, of a device.
    pub rdev: (u32, u32),
    /// Contents of a regular file, target of a symbolic link, else empty.
    pub data: &'a [u8],
}

impl<'a> NewEntry<'a> {
    fn new(name: &'a (impl AsRef<[u8]> + ?Sized), mode: u32, data: &'a [u8]) -> Self {
        Self {
            name: name.as_ref(),
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            rdev: (0, 0),
            data,
        }
    }

    /// A directory of root's, at the beginning of time.
    #[must_use]
    pub fn directory(name: &'a (impl AsRef<[u8]> + ?Sized), permissions: u32) -> Self {
        Self::new(name, 0o040_000 | permissions, &[])
    }

    /// A regular file of root's, at the beginning of time.
    #[must_use]
    pub fn file(name: &'a (impl AsRef<[u8]> + ?Sized), permissions: u32, data: &'a [u8]) -> Self {
        Self::new(name, 0o100_000 | permissions, data)
    }

    /// A symbolic link of root's, at the beginning of time.
    #[must_use]
    pub fn symlink(
        name: &'a (impl AsRef<[u8]> + ?Sized),
        target: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> Self {
        Self::new(name, 0o120_777, target.as_ref())
    }

    fn is(&self, file_type: u32) -> bool {
        self.mode & TYPE_MASK == file_type
    }
}

/// An entry that the format cannot hold or the kernel would pass over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// The name is empty, too long, holds a NUL, or is that of the trailer.
    Name {
        /// The name, cut to what is of use in a message.
        name: Vec<u8>,
    },
    /// The data have 4 GiB or more.
    TooLarge {
        /// The entry's name.
        name: Vec<u8>,
        /// Length of the data, in bytes.
        len: usize,
    },
    /// The target of a symbolic link is empty, holds a NUL or has more than
    /// 4095 bytes.
    Target {
        /// The entry's name.
        name: Vec<u8>,
    },
    /// Data for something that has none.
    UnexpectedData {
        /// The entry's name.
        name: Vec<u8>,
    },
    /// More than one name for a directory or a symbolic link, or no name.
    Links,
    /// More entries than there are inode numbers.
    TooMany,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name } => write!(
                f,
                "\"{}\" cannot be a name in a cpio archive (1 to 4095 bytes without NUL, not \
                 TRAILER!!!)",
                name.escape_ascii()
            ),
            Self::TooLarge { name, len } => write!(
                f,
                "\"{}\" has {len} bytes; a cpio archive holds files of less than 4 GiB",
                name.escape_ascii()
            ),
            Self::Target { name } => write!(
                f,
                "the symbolic link \"{}\" needs a target of 1 to 4095 bytes without NUL",
                name.escape_ascii()
            ),
            Self::UnexpectedData { name } => write!(
                f,
                "\"{}\" is neither a regular file nor a symbolic link and cannot have data",
                name.escape_ascii()
            ),
            Self::Links => write!(
                f,
                "hard links need at least one name and cannot be directories or symbolic links"
            ),
            Self::TooMany => write!(f, "a cpio archive holds at most 2^32 - 1 entries"),
        }
    }
}

impl core::error::Error for WriteError {}

/// Writes an archive into memory. The same calls give the same bytes: inode
/// numbers count from 1 in the order of the entries, the device is 0:0.
#[derive(Debug, Clone)]
pub struct Writer {
    out: Vec<u8>,
    format: Format,
    align: usize,
    last_ino: u32,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new(Format::Newc)
    }
}

impl Writer {
    /// An empty archive.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self::after(Vec::new(), format)
    }

    /// An archive after what is already in `initramfs` (which is padded to a
    /// multiple of 4, as the kernel wants it).
    #[must_use]
    pub fn after(mut initramfs: Vec<u8>, format: Format) -> Self {
        pad(&mut initramfs, 4);
        Self {
            out: initramfs,
            format,
            align: 4,
            last_ino: 0,
        }
    }

    /// Aligns the data of regular files that follow to `align` bytes from the
    /// start of the archive, by NULs after the name (which the kernel and cpio
    /// pass over), so that a file system can share their blocks. `align` is
    /// brought to a power of two from 4 to 4096. Where a name would grow beyond
    /// 4096 bytes the data stay at a multiple of 4: see what [`Self::append`]
    /// returns.
    pub fn align_data(&mut self, align: usize) {
        self.align = align.clamp(4, 4096).next_power_of_two();
    }

    /// Length of what has been written, in bytes.
    #[must_use]
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// Adds an entry; returns the offset of its data, in bytes.
    ///
    /// # Errors
    /// What [`WriteError`] names; then nothing has been written.
    pub fn append(&mut self, entry: &NewEntry<'_>) -> Result<usize, WriteError> {
        check(entry)?;
        let ino = self.next_ino()?;
        // What find and GNU cpio give for a directory without subdirectories.
        let nlink = if entry.is(0o040_000) { 2 } else { 1 };
        Ok(self.put(entry, ino, nlink))
    }

    /// Adds all of a file but its `len` bytes of data, which the caller writes behind
    /// [`Self::into_bytes`], with NULs up to a multiple of 4; returns their offset, in
    /// bytes. The entry's own data are not used.
    ///
    /// # Errors
    /// What [`WriteError`] names; then nothing has been written.
    pub fn append_header(&mut self, entry: &NewEntry<'_>, len: u32) -> Result<usize, WriteError> {
        let entry = NewEntry {
            data: &[],
            ..*entry
        };
        check(&entry)?;
        if !entry.is(0o100_000) {
            return Err(WriteError::UnexpectedData {
                name: entry.name.to_vec(),
            });
        }
        let ino = self.next_ino()?;
        Ok(self.put_with(&entry, len, ino, 1))
    }

    /// What has been written, without a trailer.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Adds one file under several names. The data are stored once, with the
    /// last name, as GNU cpio does; returns their offset, in bytes. The entry's
    /// own name is not used.
    ///
    /// # Errors
    /// What [`WriteError`] names; then nothing has been written.
    pub fn append_links(
        &mut self,
        names: &[&[u8]],
        entry: &NewEntry<'_>,
    ) -> Result<usize, WriteError> {
        if entry.is(0o040_000) || entry.is(0o120_000) {
            return Err(WriteError::Links);
        }
        for name in names {
            check(&NewEntry { name, ..*entry })?;
        }
        let (last, others) = names.split_last().ok_or(WriteError::Links)?;
        let nlink = u32::try_from(names.len()).map_err(|_| WriteError::TooMany)?;
        let ino = self.next_ino()?;
        for name in others {
            let data = &[];
            self.put(
                &NewEntry {
                    name,
                    data,
                    ..*entry
                },
                ino,
                nlink,
            );
        }
        Ok(self.put(
            &NewEntry {
                name: last,
                ..*entry
            },
            ino,
            nlink,
        ))
    }

    /// Adds the trailer and returns the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.align = 4;
        let trailer = NewEntry::new(TRAILER, 0, &[]);
        self.put(&trailer, 0, 1);
        self.out
    }

    /// As [`Self::finish`], with NULs up to a multiple of `block` bytes: 512 is
    /// what GNU cpio gives.
    #[must_use]
    pub fn finish_padded(self, block: usize) -> Vec<u8> {
        let mut out = self.finish();
        pad(&mut out, block.max(1));
        out
    }

    fn next_ino(&mut self) -> Result<u32, WriteError> {
        self.last_ino = self.last_ino.checked_add(1).ok_or(WriteError::TooMany)?;
        Ok(self.last_ino)
    }

    /// Writes an entry that has been checked.
    fn put(&mut self, entry: &NewEntry<'_>, ino: u32, nlink: u32) -> usize {
        self.put_with(entry, length(entry.data), ino, nlink)
    }

    /// The same, with room for `len` bytes of data of which the entry has none yet.
    fn put_with(&mut self, entry: &NewEntry<'_>, len: u32, ino: u32, nlink: u32) -> usize {
        let regular = entry.is(0o100_000);
        let name_start = self.out.len() + HEADER_LEN;
        let mut name_len = entry.name.len() + 1;
        if regular && len > 0 && self.align > 4 {
            let data_start = (name_start + name_len).next_multiple_of(self.align);
            if data_start - name_start <= MAX_NAME_LEN {
                name_len = name_len.max(data_start - name_start);
            }
        }
        let (magic, check) = match self.format {
            Format::Newc => (MAGIC_NEWC, 0),
            Format::Crc if regular => (MAGIC_CRC, checksum(entry.data)),
            Format::Crc => (MAGIC_CRC, 0),
        };
        self.out.extend_from_slice(magic);
        for number in [
            ino,
            entry.mode,
            entry.uid,
            entry.gid,
            nlink,
            entry.mtime,
            len,
            0,
            0,
            entry.rdev.0,
            entry.rdev.1,
            u32::try_from(name_len).expect("names have at most 4096 bytes"),
            check,
        ] {
            for shift in (0..32).step_by(4).rev() {
                let digit = char::from_digit(number >> shift & 0xf, 16).unwrap_or('0');
                self.out.push(digit.to_ascii_uppercase() as u8);
            }
        }
        self.out.extend_from_slice(entry.name);
        self.out.resize(name_start + name_len, 0);
        pad(&mut self.out, 4);
        let data_start = self.out.len();
        self.out.extend_from_slice(entry.data);
        pad(&mut self.out, 4);
        data_start
    }
}

fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("entries are checked before they are written")
}

fn pad(out: &mut Vec<u8>, block: usize) {
    out.resize(out.len().next_multiple_of(block), 0);
}

fn check(entry: &NewEntry<'_>) -> Result<(), WriteError> {
    let name = || entry.name.get(..64).unwrap_or(entry.name).to_vec();
    if entry.name.is_empty()
        || entry.name.len() >= MAX_NAME_LEN
        || entry.name.contains(&0)
        || entry.name == TRAILER
    {
        return Err(WriteError::Name { name: name() });
    }
    if u32::try_from(entry.data.len()).is_err() {
        return Err(WriteError::TooLarge {
            name: name(),
            len: entry.data.len(),
        });
    }
    if entry.is(0o120_000) {
        let target = entry.data;
        if target.is_empty() || target.len() >= MAX_NAME_LEN || target.contains(&0) {
            return Err(WriteError::Target { name: name() });
        }
    } else if !entry.is(0o100_000) && !entry.data.is_empty() {
        return Err(WriteError::UnexpectedData { name: name() });
    }
    Ok(())
}
