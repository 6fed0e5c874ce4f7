//! A file, read by position.

use crate::error::{Error, Result};
use iofs_source::{ReadAt, ReadError, ReadErrorKind};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An image file.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    size: u64,
}

impl ImageFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("opening", path))?;
        let meta = file.metadata().map_err(Error::io("looking at", path))?;
        Ok(Self {
            file,
            size: meta.len(),
        })
    }
}

impl ReadAt for ImageFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), ReadError> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| ReadError {
                offset,
                len: buf.len() as u64,
                kind: match error.raw_os_error() {
                    Some(errno) => ReadErrorKind::Io { errno },
                    None => ReadErrorKind::OutOfBounds { size: self.size },
                },
            })
    }

    fn size(&self) -> u64 {
        self.size
    }
}
