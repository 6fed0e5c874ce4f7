//! Makes a mini-initramfs: chooses and reads the modules, has them packed.

use super::absent;
use super::archive;
use super::embedded::Embedded;
use super::index::KernelModules;
use super::packs::Layout;
use super::plan;
use super::select::{self, Chosen};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::input::decode::decode_all;
use crate::progress::{Progress, Step};
use crate::request::{Compression, Limits, MiniRequest, Modules};
use crate::summary::{MiniSummary, ModuleSummary, PackSummary};
use crate::{BuiltMini, Expect};
use iofs_plan::Auth;
use rayon::prelude::*;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The greatest size of storage-init, in bytes: it is an executable, not a disk.
const MAX_INIT: u64 = 64 << 20;

/// Builds a mini-initramfs.
pub(crate) fn build(request: &MiniRequest, progress: &dyn Progress) -> Result<BuiltMini> {
    let mut clock = Clock::new(progress);
    let mut warnings = Vec::new();
    let init = read_init(&request.storage_init)?;
    check_candidates(request, &mut warnings)?;
    check_level(request.compression)?;
    let embedded = Embedded::open(request)?;

    let kernel = match request.modules {
        Modules::None => None,
        _ => Some(clock.step(Step::ReadIndex, None, || {
            KernelModules::open(&request.kernel, request.modules != Modules::Builtin)
        })?),
    };
    let chosen = clock.step(Step::SelectModules, None, || match &kernel {
        None => Ok(Vec::new()),
        Some(kernel) => select::select(kernel, request, &mut warnings),
    })?;
    let modules = clock.step(
        Step::ReadModules,
        Some(chosen.len() as u64),
        || match &kernel {
            None => Ok(Vec::new()),
            Some(kernel) => read_modules(kernel, &chosen, progress),
        },
    )?;
    let layout = Layout::new(&chosen, &modules)?;
    let plan = plan::compile(request, kernel.as_ref(), &chosen, &modules, &layout)?;
    let encoded = plan::encode(&plan)?;
    let frames = clock.step(Step::PackModules, None, || {
        layout.compress(&modules, request.compression)
    })?;
    let absent = match &kernel {
        None => None,
        Some(kernel) => absent::compile(kernel, &chosen)?,
    };
    let written = clock.step(Step::WriteMini, None, || {
        let parts = archive::Parts {
            init: &init,
            plan: &encoded,
            chosen: &chosen,
            modules: &modules,
            layout: &layout,
            frames: &frames,
            absent: absent.as_deref(),
            embedded: embedded.as_ref(),
        };
        archive::write(request, &parts)
    })?;
    for warning in &warnings {
        progress.warn(warning);
    }
    Ok(BuiltMini {
        summary: MiniSummary {
            path: request.output.clone(),
            bytes: written.bytes,
            raw_bytes: written.raw_bytes,
            early_bytes: request.early.len() as u64,
            compression: written.compression,
            storage_init_bytes: init.len() as u64,
            plan_bytes: encoded.len() as u64,
            module_bytes: modules.iter().map(|module| module.len() as u64).sum(),
            modules: summarize(&chosen, &modules, &layout),
            packs: summarize_packs(&layout, &frames),
            absent_bytes: absent.map_or(0, |absent| absent.len() as u64),
            embedded_bytes: embedded.map_or(0, |image| image.len.into()),
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
    let readable = |name: &String| MiniRequest::KERNEL_MOUNTS.contains(&name.as_str());
    if let Some(name) = request.kernel_mounts.iter().find(|name| !readable(name)) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("storage-init does not know what to do with a mount of {name}"),
        )
        .hint(format!(
            "It has the kernel read {}, and reads FAT and ext4 by itself.",
            MiniRequest::KERNEL_MOUNTS.join(" and ")
        )));
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

fn check_level(compression: Compression) -> Result<()> {
    match compression {
        Compression::ZstdLevel(level) if !(1..=19).contains(&level) => Err(Error::new(
            ErrorKind::Usage,
            format!("zstd has levels from 1 to 19, not {level}"),
        )),
        _ => Ok(()),
    }
}

fn summarize(chosen: &[Chosen<'_>], modules: &[Vec<u8>], layout: &Layout) -> Vec<ModuleSummary> {
    let name = |number: usize| chosen.get(number).map(|user| user.module.name.clone());
    let users = |needed: usize| {
        let needs_it = |user: &Chosen<'_>| user.needs.iter().any(|&n| usize::from(n) == needed);
        let users = chosen.iter().enumerate().filter(|(_, user)| needs_it(user));
        users.filter_map(|(number, _)| name(number)).collect()
    };
    chosen
        .iter()
        .zip(modules)
        .enumerate()
        .map(|(number, (chosen, bytes))| ModuleSummary {
            name: chosen.module.name.clone(),
            bytes: bytes.len() as u64,
            role: chosen.role.name(),
            reason: chosen.reason.clone(),
            needed_by: users(number),
            required: chosen.required,
            pack: layout
                .place(number)
                .and_then(|place| layout.packs.get(usize::from(place.pack)))
                .map(|pack| pack.file.clone()),
        })
        .collect()
}

fn summarize_packs(layout: &Layout, frames: &[Vec<u8>]) -> Vec<PackSummary> {
    let packs = layout.packs.iter().zip(frames);
    packs
        .map(|(pack, frame)| PackSummary {
            file: pack.file.clone(),
            bytes: frame.len() as u64,
            unpacked_bytes: pack.size.into(),
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
