//! Builds an init image: input, stage, modules, adjustments, image, check.

use super::file::ImageFile;
use super::scan::{Tree, derive_uuid};
use super::{ImageJob, ImageWriter, MkfsErofs, Pending, erofs, release, wrap};
use crate::adjust;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::input::{generator, segments};
use crate::osrelease;
use crate::profile;
use crate::progress::{Progress, Step};
use crate::request::{Container, ImageRequest, MiniRequest, Source};
use crate::stage::{Stage, StagedModules};
use crate::summary::{ImageSummary, PrefetchSummary};
use crate::system;
use crate::{BuiltImage, Expect};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The greatest size of an initramfs file, in bytes: it is held in memory.
const MAX_INITRD: u64 = 4 << 30;

/// A staged input.
struct Input {
    early: Vec<u8>,
    bytes: u64,
    product: Option<String>,
}

/// Builds with mkfs.erofs.
pub(crate) fn build(request: &ImageRequest, progress: &dyn Progress) -> Result<BuiltImage> {
    let writer = MkfsErofs::probe(request.compression.clone())?;
    build_with(request, &writer, progress)
}

/// Builds with any writer of EROFS images: input into the stage, modules
/// decompressed, adjustments, one pass over all files, the file system, its
/// check, what it is wrapped in, its name.
pub(crate) fn build_with(
    request: &ImageRequest,
    writer: &dyn ImageWriter,
    progress: &dyn Progress,
) -> Result<BuiltImage> {
    let mut clock = Clock::new(progress);
    let mut stage = Stage::new(request.work_dir.as_deref())?;
    let pending = Pending::new(&request.output)?;
    let input = fill(&mut stage, request, pending.path(), &mut clock, progress)?;
    let modules = StagedModules::find(&stage)?;
    clock.step(Step::StageModules, Some(modules.len()), || {
        modules.decompress(request.limits, progress)
    })?;
    let adjustments = match &request.system {
        Some(wanted) => {
            system::check(&stage, &MiniRequest::SYSTEM_INITS)?;
            system::adjust(&stage, wanted)?
        }
        None => adjust::adjust(&mut stage, request.run_init.as_deref())?,
    };
    let product = match request.product.as_str() {
        "" => product(input.product, &stage)?,
        product => product.to_owned(),
    };
    release::write(&stage, &product, &request.version)?;
    let hot = profile::stage(&mut stage, &request.hot)?;
    let tree = Tree::walk(stage.path())?;
    let mut scan = clock.step(Step::Scan, Some(tree.len()), || {
        tree.scan(writer.wants_plain(), progress)
    })?;
    hot.mix_into(&mut scan.digest);
    let uuid = match request.uuid {
        Some(uuid) => uuid,
        None => derive_uuid(&scan.digest, writer, request.timestamp),
    };
    let erofs = match request.container {
        Container::None => pending.path().to_owned(),
        Container::Ddi { .. } => stage.work().join("image.erofs"),
    };
    let job = ImageJob {
        stage: stage.path(),
        work: stage.work(),
        output: &erofs,
        uuid,
        timestamp: request.timestamp,
        plain: &scan.plain,
    };
    clock.step(Step::WriteImage, None, || writer.write(&job, progress))?;
    let expect = clock.step(Step::VerifyImage, None, || {
        verify(&erofs, uuid, &mut stage.warnings, progress)
    })?;
    // Inside what is hashed, and the file system's own size is not changed.
    let list = profile::append(&erofs, &hot)?;
    let (root_hash, signature) = match &request.container {
        Container::None => (None, None),
        Container::Ddi { signer } => {
            let (root, signature) = wrap::wrap(
                &erofs,
                pending.path(),
                signer.as_ref(),
                &mut clock,
                progress,
            )?;
            (Some(root), signature)
        }
    };
    let written = pending.path().metadata();
    let bytes = written
        .map_err(Error::io("looking at", pending.path()))?
        .len();
    pending.commit()?;
    for warning in &stage.warnings {
        progress.warn(warning);
    }
    let summary = ImageSummary {
        path: request.output.clone(),
        bytes,
        filesystem_bytes: expect.size,
        root_hash: root_hash.map(|root| root.to_string()),
        signed: signature.is_some(),
        raw_bytes: scan.raw_bytes,
        input_bytes: input.bytes,
        files: tree.len(),
        uuid: uuid.to_string(),
        writer: writer.name(),
        compression: writer.compression(),
        plain_files: scan.plain.len() as u64,
        plain_bytes: scan.plain_bytes,
        decompressed_modules: modules.len(),
        early_bytes: input.early.len() as u64,
        product,
        version: request.version.clone(),
        adjustments,
        prefetch: list.map(|(list, len)| PrefetchSummary {
            files: list.files.len() as u64,
            bytes: list.bytes(),
            metadata_bytes: list.metadata.iter().map(|range| range.bytes()).sum(),
            list_bytes: len,
            recorded: !hot.generic,
            skipped: hot.skipped,
        }),
        warnings: std::mem::take(&mut stage.warnings),
        times: clock.times(),
    };
    Ok(BuiltImage {
        summary,
        expect,
        root_hash,
        early: input.early,
    })
}

/// Fills the stage from whatever the source is. `output` is not part of it.
fn fill(
    stage: &mut Stage,
    request: &ImageRequest,
    output: &Path,
    clock: &mut Clock<'_>,
    progress: &dyn Progress,
) -> Result<Input> {
    match &request.source {
        Source::Initrd(file) => unpack(stage, file, request, clock, progress),
        Source::Root(root) => {
            let identity = |path: &Path| -> Result<(u64, u64)> {
                let meta = path.metadata().map_err(Error::io("looking at", path))?;
                Ok((meta.dev(), meta.ino()))
            };
            let leave_out = [identity(stage.work())?, identity(output)?];
            clock.step(Step::Stage, None, || {
                stage.copy_tree(root, &leave_out, request.limits, progress)
            })?;
            Ok(Input {
                early: Vec::new(),
                bytes: 0,
                product: None,
            })
        }
        Source::Generator(run) => {
            let work = stage.work().join("generator");
            std::fs::create_dir(&work).map_err(Error::io("making", &work))?;
            let file = clock.step(Step::Generate, None, || {
                generator::run(run, &work, progress)
            })?;
            let mut input = unpack(stage, &file, request, clock, progress)?;
            // An initramfs is named after its generator; its user means the
            // distribution that it starts.
            input.product = osrelease::product_of(run.sysroot.as_deref().unwrap_or(Path::new("/")));
            std::fs::remove_dir_all(&work).map_err(Error::io("removing", &work))?;
            Ok(input)
        }
    }
}

fn unpack(
    stage: &mut Stage,
    file: &Path,
    request: &ImageRequest,
    clock: &mut Clock<'_>,
    progress: &dyn Progress,
) -> Result<Input> {
    let meta = file.metadata().map_err(Error::io("looking at", file))?;
    if meta.len() > MAX_INITRD {
        return Err(Error::new(
            ErrorKind::Limit,
            format!("{} has more than {MAX_INITRD} bytes", file.display()),
        ));
    }
    let bytes = std::fs::read(file).map_err(Error::io("reading", file))?;
    let (early, rest) = bytes.split_at(segments::early_len(&bytes));
    if rest.iter().all(|&byte| byte == 0) {
        return Err(Error::new(
            ErrorKind::Input,
            format!("{} holds no initramfs", file.display()),
        ));
    }
    clock.step(Step::Stage, Some(rest.len() as u64), || {
        stage.unpack(&bytes, early.len(), request.limits, progress)
    })?;
    Ok(Input {
        early: early.to_vec(),
        bytes: bytes.len() as u64,
        product: None,
    })
}

/// What the image is of: what is known of its source, else what it says itself.
fn product(known: Option<String>, stage: &Stage) -> Result<String> {
    if let Some(product) = known {
        return Ok(product);
    }
    for place in osrelease::PLACES {
        if let Some(bytes) = stage.read(place, osrelease::MAX_LEN)? {
            if let Some(product) = osrelease::product(&String::from_utf8_lossy(&bytes)) {
                return Ok(product);
            }
        }
    }
    Ok("linux".to_owned())
}

/// What a plan should expect of an existing image.
///
/// # Errors
/// [`ErrorKind::Io`] if the file cannot be read, [`ErrorKind::Verify`] if it is
/// no EROFS file system or not whole.
pub fn expect_of(image: &Path) -> Result<Expect> {
    let file = ImageFile::open(image)?;
    let superblock = iofs_erofs::Superblock::read(&file).map_err(|source| {
        Error::new(
            ErrorKind::Verify,
            format!("{} is no init image", image.display()),
        )
        .source(source)
    })?;
    Ok(Expect {
        uuid: superblock.uuid,
        size: superblock.size_bytes(),
    })
}

/// Reads the image back: the right one, whole, and without a fault that
/// fsck.erofs would find.
pub(super) fn verify(
    image: &Path,
    uuid: crate::Uuid,
    warnings: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Expect> {
    let expect = expect_of(image)?;
    if expect.uuid != uuid {
        return Err(Error::new(
            ErrorKind::Verify,
            format!(
                "the image has UUID {} and not {uuid} as ordered",
                expect.uuid
            ),
        ));
    }
    if !erofs::fsck(image, progress)? {
        warnings.push(
            "fsck.erofs is not installed: only the image's superblock was checked".to_owned(),
        );
    }
    Ok(expect)
}
