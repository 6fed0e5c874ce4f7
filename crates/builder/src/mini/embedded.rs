//! The image in the mini-initramfs: an archive of its own, of one file that is not
//! compressed again and whose data begin at a page.
//!
//! The image may be as large as archives allow, so it is never in memory: the header
//! is made over no data, the data are copied behind it.

use super::archive::inside;
use crate::error::{Error, ErrorKind, Result};
use crate::request::MiniRequest;
use iofs_cpio::{Format, NewEntry, Writer};
use iofs_plan::Selector;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A page of every architecture's that images are made for, in bytes.
const PAGE: usize = 4096;

/// An image to pack.
#[derive(Debug)]
pub(crate) struct Embedded {
    path: PathBuf,
    file: File,
    /// Its size in bytes.
    pub(crate) len: u32,
}

impl Embedded {
    /// Opens the image of the request, if it is to be packed.
    pub(crate) fn open(request: &MiniRequest) -> Result<Option<Self>> {
        let mut candidates = request.candidates.iter();
        let wanted = candidates.any(|candidate| candidate.partition == Selector::Embedded);
        match (&request.embed, wanted) {
            (None, false) => Ok(None),
            (Some(path), true) => Self::of(path).map(Some),
            (None, true) => Err(Error::new(
                ErrorKind::Usage,
                "the boot plan looks for the image in the mini-initramfs, and none is to be packed",
            )),
            (Some(path), false) => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{} is to be packed, but no candidate of the boot plan looks for it there",
                    path.display()
                ),
            )),
        }
    }

    fn of(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("opening", path))?;
        let len = file
            .metadata()
            .map_err(Error::io("looking at", path))?
            .len();
        let len = u32::try_from(len).map_err(|_| {
            Error::new(
                ErrorKind::Limit,
                format!(
                    "{} has {len} bytes; an initramfs holds files of less than 4 GiB",
                    path.display()
                ),
            )
            .hint("Put the image on a disk (esp, partition) or in memory by the loader (pmem).")
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
        })
    }

    /// Writes the archive to `out`, which has `at` bytes; returns how many it has
    /// then.
    pub(crate) fn write(&self, out: &mut impl Write, at: u64) -> Result<u64> {
        // Only the place within a page counts for where data begin.
        let before = usize::try_from(at % PAGE as u64).unwrap_or(0);
        let mut writer = Writer::after(vec![0; before], Format::Newc);
        writer.align_data(PAGE);
        let name = inside(iofs_plan::EMBEDDED);
        let folder = name.split_once('/').map_or("", |(folder, _)| folder);
        writer
            .append(&NewEntry::directory(folder, 0o755))
            .and_then(|_| writer.append_header(&NewEntry::file(name, 0o600, &[]), self.len))
            .map_err(|source| {
                Error::new(ErrorKind::Usage, "the image cannot be packed").source(source)
            })?;
        let mut tail = vec![0; (self.len as usize).next_multiple_of(4) - self.len as usize];
        tail.extend(Writer::default().finish());
        let head = writer.into_bytes();
        let head = head.get(before..).unwrap_or_default();

        let writing = |source| Error::io("writing the archive of", &self.path)(source);
        out.write_all(head).map_err(writing)?;
        let mut image = (&self.file).take(self.len.into());
        let copied = std::io::copy(&mut image, out).map_err(writing)?;
        if copied != u64::from(self.len) {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "{} has become shorter while it was read",
                    self.path.display()
                ),
            ));
        }
        out.write_all(&tail).map_err(writing)?;
        Ok(at + head.len() as u64 + copied + tail.len() as u64)
    }
}
