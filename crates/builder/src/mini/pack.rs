//! Reads the modules, packs the archive, compresses it.

use super::index::KernelModules;
use super::plan;
use super::select::{self, Chosen};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Pending;
use crate::input::decode::decode_all;
use crate::progress::{Progress, Step};
use crate::request::{Compression, Limits, MiniRequest, Modules};
use crate::summary::{MiniSummary, ModuleSummary};
use crate::{BuiltMini, Expect};
use iofs_cpio::{Format, NewEntry, WriteError, Writer};
use iofs_plan::{Auth, Role};
use rayon::prelude::*;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// The greatest size of storage-init, in bytes: it is an executable, not a disk.
const MAX_INIT: u64 = 64 << 20;

/// What the kernel and storage-init need to find: folders to mount on.
const FOLDERS: [&str; 6] = [
    "dev",
    "proc",
    "sys",
    "run",
    "initoverlayfs",
    "initoverlayfs/modules",
];

/// The level of zstd that is worth its time: 9 to 12 save 1 % for twice the
/// time, 17 and up 10 % for ten times.
const LEVEL: i32 = 9;

/// The greatest window, as a power of two: the kernel allocates it while it
/// decompresses. Kernels take up to 27.
const WINDOW_LOG: u32 = 22;

/// The size of a block in LZ4's legacy format.
const LZ4_BLOCK: usize = 8 << 20;

/// Builds a mini-initramfs.
pub(crate) fn build(request: &MiniRequest, progress: &dyn Progress) -> Result<BuiltMini> {
    let mut clock = Clock::new(progress);
    let mut warnings = Vec::new();
    let init = read_init(&request.storage_init)?;
    check_candidates(request, &mut warnings)?;

    let kernel = match request.modules {
        Modules::None => None,
        _ => Some(clock.step(Step::ReadIndex, None, || {
            KernelModules::open(&request.kernel)
        })?),
    };
    let mapping = request
        .candidates
        .iter()
        .any(|candidate| candidate.file.is_some());
    let chosen = clock.step(Step::SelectModules, None, || match &kernel {
        None => Ok(Vec::new()),
        Some(kernel) => select::select(
            kernel,
            &request.modules,
            mapping,
            &request.auth,
            &mut warnings,
        ),
    })?;
    let modules = clock.step(
        Step::ReadModules,
        Some(chosen.len() as u64),
        || match &kernel {
            None => Ok(Vec::new()),
            Some(kernel) => read_modules(kernel, &chosen, progress),
        },
    )?;
    let plan = plan::compile(request, kernel.as_ref(), &chosen, &modules)?;
    let encoded = plan::encode(&plan)?;
    let (raw_bytes, bytes, compression) = clock.step(Step::WriteMini, None, || {
        let archive = archive(&init, &encoded, &chosen, &modules)?;
        write(request, &archive)
    })?;
    for warning in &warnings {
        progress.warn(warning);
    }
    Ok(BuiltMini {
        summary: MiniSummary {
            path: request.output.clone(),
            bytes,
            raw_bytes,
            early_bytes: request.early.len() as u64,
            compression,
            storage_init_bytes: init.len() as u64,
            plan_bytes: encoded.len() as u64,
            module_bytes: modules.iter().map(|module| module.len() as u64).sum(),
            modules: summarize(&chosen, &modules),
            aliases: plan.aliases.len() as u64,
            kernel_release: request.kernel.release.clone(),
            warnings,
            times: clock.times(),
        },
        plan,
    })
}

fn read_init(path: &Path) -> Result<Vec<u8>> {
    let init = read_file(path, MAX_INIT)?;
    if init.starts_with(b"\x7fELF") {
        return Ok(init);
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("{} is no executable", path.display()),
    )
    .hint("It has to be the storage-init binary."))
}

/// A plan whose candidates cannot be met would only fail at boot.
fn check_candidates(request: &MiniRequest, warnings: &mut Vec<String>) -> Result<()> {
    if request.candidates.is_empty() {
        return Err(Error::new(
            ErrorKind::Usage,
            "the boot plan names no place for the image",
        ));
    }
    if request.inits.is_empty() {
        return Err(Error::new(
            ErrorKind::Usage,
            "the boot plan names no init to execute",
        ));
    }
    for candidate in &request.candidates {
        if let Some(file) = candidate
            .file
            .as_deref()
            .filter(|file| !file.starts_with('/'))
        {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the candidate {} names the file {file:?}, which is no absolute path on its partition",
                    candidate.name
                ),
            ));
        }
        // A signed image may be another one than that of this build.
        let any = matches!(request.auth, Auth::Signed(_));
        if candidate.expect == Expect::default() && !any {
            warnings.push(format!(
                "the candidate {} accepts any image: a stale one would go unnoticed",
                candidate.name
            ));
        }
    }
    Ok(())
}

fn summarize(chosen: &[Chosen<'_>], modules: &[Vec<u8>]) -> Vec<ModuleSummary> {
    chosen
        .iter()
        .zip(modules)
        .map(|(chosen, bytes)| ModuleSummary {
            name: chosen.module.name.clone(),
            bytes: bytes.len() as u64,
            role: match chosen.role {
                Role::Dependency => "dependency",
                Role::Disk => "disk",
                Role::Image => "image",
                Role::Mapping => "mapping",
                Role::Bus => "bus",
            },
            reason: chosen.reason.clone(),
        })
        .collect()
}

/// Reads and decompresses the modules, on every core: xz takes most of the time
/// of a build.
fn read_modules(
    kernel: &KernelModules,
    chosen: &[Chosen<'_>],
    progress: &dyn Progress,
) -> Result<Vec<Vec<u8>>> {
    let limit = Limits::default().module_bytes;
    chosen
        .par_iter()
        .map(|chosen| {
            let module = read_module(&kernel.file(chosen.module), limit);
            progress.advance(1);
            module
        })
        .collect()
}

/// The bytes of a module's ELF file (with its signature, if it has one).
pub(crate) fn read_module(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let bytes = read_file(path, limit)?;
    let bytes = match iofs_cpio::Compression::detect(&bytes) {
        None => bytes,
        Some(format) => decode_all(format, &bytes, limit).map_err(|source| {
            Error::new(
                source.kind(),
                format!("the module {} cannot be decompressed", path.display()),
            )
            .source(source)
        })?,
    };
    if bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    Err(Error::new(
        ErrorKind::Input,
        format!("{} is no kernel module (no ELF file)", path.display()),
    ))
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("opening", path))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io("reading", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(
            ErrorKind::Limit,
            format!("{} has more than {limit} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

/// The archive. Owner, group and times are 0 and the order is fixed, so that
/// the same parts give the same bytes.
fn archive(
    init: &[u8],
    plan: &[u8],
    chosen: &[Chosen<'_>],
    modules: &[Vec<u8>],
) -> Result<Vec<u8>> {
    let failed = |source: WriteError| {
        Error::new(ErrorKind::Usage, "the mini-initramfs cannot be packed").source(source)
    };
    let inside = |path: &str| path.trim_start_matches('/').to_owned();
    let mut writer = Writer::new(Format::Newc);
    for folder in FOLDERS {
        writer
            .append(&NewEntry::directory(folder, 0o755))
            .map_err(failed)?;
    }
    // The kernel opens it before anything can mount a devtmpfs.
    writer
        .append(&NewEntry {
            mode: 0o020_600,
            rdev: (5, 1),
            ..NewEntry::file("dev/console", 0, &[])
        })
        .map_err(failed)?;
    writer
        .append(&NewEntry::file("init", 0o755, init))
        .map_err(failed)?;
    writer
        .append(&NewEntry::file(&inside(iofs_plan::PATH), 0o644, plan))
        .map_err(failed)?;
    for (chosen, bytes) in chosen.iter().zip(modules) {
        let name = format!(
            "{}/{}",
            inside(iofs_plan::MODULES_DIR),
            plan::file_name(chosen)
        );
        writer
            .append(&NewEntry::file(&name, 0o644, bytes))
            .map_err(failed)?;
    }
    Ok(writer.finish())
}

/// Writes early segment and archive; gives the sizes before and after, and what
/// the compression was.
fn write(request: &MiniRequest, archive: &[u8]) -> Result<(u64, u64, String)> {
    let (packed, name) = compress(request.compression, archive)?;
    let mut early = request.early.clone();
    // An uncompressed archive must lie at a multiple of 4.
    early.resize(early.len().next_multiple_of(4), 0);
    let pending = Pending::new(&request.output)?;
    let mut file = File::create(pending.path()).map_err(Error::io("writing", pending.path()))?;
    file.write_all(&early)
        .and_then(|()| file.write_all(&packed))
        .map_err(Error::io("writing", pending.path()))?;
    drop(file);
    pending.commit()?;
    Ok((
        archive.len() as u64,
        (early.len() + packed.len()) as u64,
        name,
    ))
}

fn compress(compression: Compression, archive: &[u8]) -> Result<(Vec<u8>, String)> {
    let level = match compression {
        Compression::None => return Ok((archive.to_vec(), "none".to_owned())),
        Compression::Lz4 => return Ok((lz4_legacy(archive), "lz4".to_owned())),
        Compression::Zstd => LEVEL,
        Compression::ZstdLevel(level) if (1..=19).contains(&level) => level,
        Compression::ZstdLevel(level) => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("zstd has levels from 1 to 19, not {level}"),
            ));
        }
    };
    match zstd_frame(archive, level, workers()) {
        Ok(packed) => Ok((packed, format!("zstd-{level}"))),
        Err(source) => {
            Err(Error::new(ErrorKind::Io, "compressing with zstd failed").source(source))
        }
    }
}

fn workers() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores.min(8)).unwrap_or(1)
}

/// One frame. The number of workers (at least 1) does not change its bytes:
/// zstd cuts its jobs by the window.
fn zstd_frame(archive: &[u8], level: i32, workers: u32) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.multithread(workers)?;
    encoder.write_all(archive)?;
    encoder.finish()
}

/// The only lz4 format that kernels read.
fn lz4_legacy(archive: &[u8]) -> Vec<u8> {
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    for block in archive.chunks(LZ4_BLOCK) {
        let packed = lz4_flex::block::compress(block);
        let len = u32::try_from(packed.len()).expect("a block of 8 MiB stays below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::zstd_frame;

    #[test]
    fn cores_do_not_change_the_bytes() {
        // More than one job's worth, neither random nor constant.
        let archive: Vec<u8> = (0..20_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8)
            .collect();
        let one = zstd_frame(&archive, 3, 1).unwrap();
        assert!(one == zstd_frame(&archive, 3, 2).unwrap());
        assert!(one == zstd_frame(&archive, 3, 5).unwrap());
        assert!(zstd::decode_all(one.as_slice()).unwrap() == archive);
    }
}
