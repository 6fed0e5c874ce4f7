//! From a file system to a disk image that proves itself.

use super::Pending;
use super::file::ImageFile;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{Progress, Step};
use crate::sign::Signer;
use ddi::write::{Image, Options, WriteError};
use ddi::{Arch, Ddi, Uuid};
use iofs_source::{ReadAt, Window};
use iofs_verity::{RootHash, RootHashError, Signature};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes the disk image of the file system `erofs` to `output`, and proves
/// what it wrote.
pub(crate) fn wrap(
    erofs: &Path,
    output: &Path,
    signer: Option<&Signer>,
    clock: &mut Clock<'_>,
    progress: &dyn Progress,
) -> Result<(RootHash, Option<Signature>)> {
    let source = ImageFile::open(erofs)?;
    let blocks = source.size().div_ceil(4096);
    let mut image = clock
        .step(Step::HashImage, Some(blocks), || {
            Image::new(&source, Options::new(Arch::NATIVE), |done| {
                progress.advance(done);
            })
        })
        .map_err(|error| failed(output, error))?;
    let root = *image.root_hash();
    let signature = match signer {
        None => None,
        Some(signer) => Some(clock.step(Step::SignImage, None, || signer.sign(&root))?),
    };
    if let Some(signature) = &signature {
        image
            .sign(signature)
            .map_err(|error| failed(output, error))?;
    }
    clock.step(Step::WrapImage, None, || write(&image, output))?;
    clock.step(Step::ProveImage, Some(blocks), || {
        prove(output, &root, signature.as_ref(), progress)
    })?;
    Ok((root, signature))
}

fn write<S: ReadAt + Sync + ?Sized>(image: &Image<'_, S>, output: &Path) -> Result<()> {
    let file = File::create(output).map_err(Error::io("writing", output))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    image
        .write(&mut file)
        .map_err(|error| failed(output, error))?;
    file.flush().map_err(Error::io("writing", output))
}

/// Reads the image back as a boot would: its table, its PARTUUIDs, and every
/// block under the root hash, on every core, which takes a twentieth of the time
/// that the writer of the file system took. What comes back is the page cache's,
/// not the medium's: the installer reads from the medium what it has written
/// there. Not read again are the backup table and the space between partitions.
fn prove(
    output: &Path,
    root: &RootHash,
    signature: Option<&Signature>,
    progress: &dyn Progress,
) -> Result<()> {
    let wrong = |source: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Verify,
            "the disk image does not read back as it was written",
        )
        .source(source.to_string())
    };
    let file = ImageFile::open(output)?;
    let image = Ddi::read(&file, Arch::NATIVE).map_err(|error| wrong(&error))?;
    image
        .verify_all(&file, root, |done| progress.advance(done))
        .map_err(|error| wrong(&error))?;
    match image.signature(&file) {
        Ok(read) if read.as_ref() == signature => Ok(()),
        Ok(_) => Err(wrong(&"its signature is another one")),
        Err(error) => Err(wrong(&error)),
    }
}

fn failed(output: &Path, source: WriteError) -> Error {
    let kind = match source {
        WriteError::Write(_) | WriteError::Read(_) => ErrorKind::Io,
        _ => ErrorKind::Input,
    };
    Error::new(
        kind,
        format!("the disk image {} cannot be made", output.display()),
    )
    .source(source)
}

/// Signs an existing disk image: proves it, and writes it anew with the
/// signature in its place, under its own name, which it keeps until the new one
/// is whole and proven.
pub(crate) fn sign_image(
    path: &Path,
    signer: &Signer,
    progress: &dyn Progress,
) -> Result<RootHash> {
    let mut clock = Clock::new(progress);
    // What a link leads to is signed, not the link replaced.
    let path = &path
        .canonicalize()
        .map_err(Error::io("looking for", path))?;
    let file = ImageFile::open(path)?;
    let bad = |source: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Input,
            format!("{} cannot be signed", path.display()),
        )
        .source(source.to_string())
    };
    let image = Ddi::read(&file, Arch::NATIVE).map_err(|error| bad(&error))?;
    let root = claimed_root(&image).map_err(|error| bad(&error))?;
    // Others' images may have partitions that would be lost.
    if image.disk_guid != ddi::disk_guid(&root) {
        return Err(
            bad(&"it was not made by this program, which would write it anew")
                .hint("Sign it with what made it, such as systemd-repart."),
        );
    }
    // A signature that is there goes, so it is not to keep the image from being
    // read; what it signs is proven below.
    let unsigned = Ddi {
        signature: None,
        ..image
    };
    let trees = unsigned.trees(&file, &root).map_err(|error| bad(&error))?;
    let params = &trees.superblock.params;
    let data =
        Window::new(&file, image.root.start, params.data_len()).map_err(|error| bad(&error))?;
    let options = Options {
        salt: Some(params.salt().to_vec()),
        ..Options::new(Arch::NATIVE)
    };
    let blocks = params.data_blocks();
    let mut new = clock
        .step(Step::HashImage, Some(blocks), || {
            Image::new(&data, options, |done| progress.advance(done))
        })
        .map_err(|error| failed(path, error))?;
    if *new.root_hash() != root {
        return Err(
            bad(&"its content does not have the root hash that its partition table says")
                .hint("It was changed: build it anew."),
        );
    }
    let signature = clock.step(Step::SignImage, None, || signer.sign(&root))?;
    new.sign(&signature).map_err(|error| failed(path, error))?;
    let pending = Pending::new(path)?;
    clock.step(Step::WrapImage, None, || write(&new, pending.path()))?;
    clock.step(Step::ProveImage, Some(blocks), || {
        prove(pending.path(), &root, Some(&signature), progress)
    })?;
    pending.commit()?;
    Ok(root)
}

/// The root hash by the PARTUUIDs of root and verity partition, its two halves.
/// It is proven only once the image is verified against it.
pub fn claimed_root(image: &Ddi) -> std::result::Result<RootHash, RootHashError> {
    let halves = [image.root.part_guid, image.verity.part_guid].map(Uuid::into_bytes);
    RootHash::from_bytes(&halves.concat())
}
