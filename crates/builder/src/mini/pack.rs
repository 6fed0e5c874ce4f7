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
use crate::progress::{Progress, Silent, Step};
use crate::request::{Compression, Limits, MiniRequest, Modules};
use crate::summary::{MiniSummary, ModuleSummary, PackSummary, StepTime};
use crate::{BuiltMini, Expect};
use iofs_plan::Auth;
use rayon::prelude::*;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// The greatest size of storage-init, in bytes: it is an executable, not a disk.
const MAX_INIT: u64 = 64 << 20;

/// What does not depend on the image: the kernel's metadata, the modules and their
/// packs, which are most of the work.
#[derive(Debug)]
struct Collected {
    kernel: Option<KernelModules>,
    /// The names of the modules, in load order.
    names: Vec<String>,
    modules: Vec<Vec<u8>>,
    frames: Vec<Vec<u8>>,
    compression: Compression,
}

impl Collected {
    fn new(request: &MiniRequest, clock: &mut Clock<'_>, progress: &dyn Progress) -> Result<Self> {
        let kernel = match request.modules {
            Modules::None => None,
            _ => Some(clock.step(Step::ReadIndex, None, || {
                KernelModules::open(&request.kernel, request.modules != Modules::Builtin)
            })?),
        };
        let chosen = clock.step(Step::SelectModules, None, || {
            choose(kernel.as_ref(), request, &mut Vec::new())
        })?;
        let names = names(&chosen);
        let modules = clock.step(
            Step::ReadModules,
            Some(chosen.len() as u64),
            || match &kernel {
                None => Ok(Vec::new()),
                Some(kernel) => read_modules(kernel, &chosen, progress),
            },
        )?;
        let layout = Layout::new(&chosen, &modules)?;
        let frames = clock.step(Step::PackModules, None, || {
            layout.compress(&modules, request.compression)
        })?;
        Ok(Self {
            kernel,
            names,
            modules,
            frames,
            compression: request.compression,
        })
    }
}

fn choose<'k>(
    kernel: Option<&'k KernelModules>,
    request: &MiniRequest,
    warnings: &mut Vec<String>,
) -> Result<Vec<Chosen<'k>>> {
    match kernel {
        None => Ok(Vec::new()),
        Some(kernel) => select::select(kernel, request, warnings),
    }
}

fn names(chosen: &[Chosen<'_>]) -> Vec<String> {
    let names = chosen.iter().map(|chosen| chosen.module.name.clone());
    names.collect()
}

/// A mini-initramfs whose modules are packed beside the work on its image: writers of
/// images have one thread for most of their time.
#[derive(Debug)]
pub struct MiniAhead {
    thread: JoinHandle<Result<(Collected, Vec<StepTime>)>>,
    begin: Sender<()>,
}

impl MiniAhead {
    /// Prepares it. The work begins when the steps of the image that use every processor
    /// are over ([`Self::beside`]). Of `outline`, what is only known with the image (root
    /// hash, UUID, size, product) can be left open.
    #[must_use]
    pub fn start(outline: MiniRequest) -> Self {
        let (begin, begun) = mpsc::channel();
        let work = move || {
            if begun.recv().is_err() {
                return Err(Error::new(ErrorKind::Usage, "nobody wants it any more"));
            }
            let mut clock = Clock::new(&Silent);
            // The image goes first, as it takes longer. Without this it takes longer
            // still, and no less is done.
            let give_way = |_| {
                let _ = rustix::process::setpriority_process(None, AHEAD);
            };
            let pool = rayon::ThreadPoolBuilder::new()
                .start_handler(give_way)
                .build()
                .map_err(|source| {
                    Error::new(ErrorKind::Io, "threads cannot be started").source(source)
                })?;
            let collected = pool.install(|| Collected::new(&outline, &mut clock, &Silent))?;
            Ok((collected, clock.times()))
        };
        Self {
            thread: std::thread::spawn(work),
            begin,
        }
    }

    /// What the work on the image is to tell how it goes, for this to begin in time;
    /// `progress` hears it too.
    pub fn beside<'a>(&'a self, progress: &'a dyn Progress) -> impl Progress + 'a {
        Beside {
            begin: &self.begin,
            progress,
        }
    }

    /// Builds. What of the work ahead does not fit `request` is done again.
    ///
    /// # Errors
    /// As [`crate::build_mini`].
    pub fn build(self, request: &MiniRequest, progress: &dyn Progress) -> Result<BuiltMini> {
        let checked = check(request)?;
        // A thread that has ended is joined next.
        let _ = self.begin.send(());
        // What went wrong is found, and told, where it is needed.
        let ahead = self.thread.join().ok().and_then(Result::ok);
        let mut clock = Clock::new(progress);
        let (collected, times) = match ahead {
            Some(ahead) => ahead,
            None => (Collected::new(request, &mut clock, progress)?, Vec::new()),
        };
        finish(request, checked, collected, times, clock, progress)
    }
}

struct Beside<'a> {
    begin: &'a Sender<()>,
    progress: &'a dyn Progress,
}

impl Progress for Beside<'_> {
    fn begin(&self, step: Step, total: Option<u64>) {
        // Both are another program's, with hardly more than one thread.
        if matches!(step, Step::Generate | Step::WriteImage) {
            // Sent twice is begun once; the build finds a thread that has ended.
            let _ = self.begin.send(());
        }
        self.progress.begin(step, total);
    }

    fn advance(&self, by: u64) {
        self.progress.advance(by);
    }

    fn end(&self, step: Step) {
        self.progress.end(step);
    }

    fn warn(&self, message: &str) {
        self.progress.warn(message);
    }

    fn tool_output(&self, line: &str) {
        self.progress.tool_output(line);
    }
}

/// The nice value of threads that work ahead. For Linux, threads are processes here
/// (setpriority(2)).
const AHEAD: i32 = 10;

/// Builds a mini-initramfs.
pub(crate) fn build(request: &MiniRequest, progress: &dyn Progress) -> Result<BuiltMini> {
    let mut clock = Clock::new(progress);
    let checked = check(request)?;
    let collected = Collected::new(request, &mut clock, progress)?;
    finish(request, checked, collected, Vec::new(), clock, progress)
}

/// storage-init's bytes, and what the user should know of the request.
fn check(request: &MiniRequest) -> Result<(Vec<u8>, Vec<String>)> {
    let mut warnings = Vec::new();
    let init = read_init(&request.storage_init)?;
    check_candidates(request, &mut warnings)?;
    check_level(request.compression)?;
    Ok((init, warnings))
}

fn finish(
    request: &MiniRequest,
    (init, mut warnings): (Vec<u8>, Vec<String>),
    mut collected: Collected,
    mut times: Vec<StepTime>,
    mut clock: Clock<'_>,
    progress: &dyn Progress,
) -> Result<BuiltMini> {
    let embedded = Embedded::open(request)?;
    let fits = |collected: &Collected| -> Result<bool> {
        let chosen = choose(collected.kernel.as_ref(), request, &mut Vec::new())?;
        let compression = collected.compression == request.compression;
        Ok(compression && names(&chosen) == collected.names)
    };
    if !fits(&collected)? {
        times.clear();
        collected = Collected::new(request, &mut clock, progress)?;
    }
    let Collected {
        kernel,
        modules,
        frames,
        ..
    } = &collected;
    let chosen = choose(kernel.as_ref(), request, &mut warnings)?;
    let layout = Layout::new(&chosen, modules)?;
    let plan = plan::compile(request, kernel.as_ref(), &chosen, modules, &layout)?;
    let encoded = plan::encode(&plan)?;
    let absent = match kernel {
        None => None,
        Some(kernel) => absent::compile(kernel, &chosen)?,
    };
    let written = clock.step(Step::WriteMini, None, || {
        let parts = archive::Parts {
            init: &init,
            plan: &encoded,
            chosen: &chosen,
            modules,
            layout: &layout,
            frames,
            absent: absent.as_deref(),
            embedded: embedded.as_ref(),
        };
        archive::write(request, &parts)
    })?;
    for warning in &warnings {
        progress.warn(warning);
    }
    times.extend(clock.times());
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
            modules: summarize(&chosen, modules, &layout),
            packs: summarize_packs(&layout, frames),
            absent_bytes: absent.map_or(0, |absent| absent.len() as u64),
            embedded_bytes: embedded.map_or(0, |image| image.len.into()),
            aliases: plan.aliases.len() as u64,
            kernel_release: request.kernel.release.clone(),
            warnings,
            times,
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
