//! `profile`: what a boot reads of its image.
//!
//! `record` leaves a credential on the ESP; the next boot that comes in time has
//! the kernel trace which pages of the image come into the page cache, or notes the
//! files that are opened where it cannot. `collect` makes a profile of that and
//! disarms: the next `build` takes it.

mod source;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use builder::Profile;
use builder::profile::{Recorder, Recording};
use iofs_erofs::tree::Tree;
use iofs_source::ReadAt;
use serde::{Deserialize, Serialize};

use crate::cli::{ProfileAction, ProfileArgs};
use crate::error::{CliError, Result};
use crate::esp::Credential;
use crate::ui;

/// The credential; storage-init knows it by this name.
const NAME: &str = "initoverlayfs.profile.cred";

/// How long a boot may be off that is to be recorded.
const ARMED: Duration = Duration::from_secs(3600);

/// The trace, below sysfs.
const INSTANCE: &str = "kernel/tracing/instances/initoverlayfs";

/// The most of a trace or of a list of paths that is read, in bytes.
const MAX_TRACE: u64 = 256 << 20;

/// How long the process that notes opened files may take to end.
const NOTING: Duration = Duration::from_secs(10);

/// The greatest size of the record, in bytes.
const MAX_RECORD: u64 = 64 << 10;

/// What storage-init leaves of a boot that it recorded.
#[derive(Debug, Deserialize)]
struct Record {
    version: u32,
    root_hash: Option<String>,
    uuid: String,
    block_dev: String,
    fs_dev: String,
    method: String,
}

/// The output of `--json`, but for `show`.
#[derive(Debug, Serialize)]
struct Said<'a> {
    action: &'static str,
    path: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

/// What is in a profile, and what is missing.
#[derive(Debug, Serialize)]
struct Summary {
    files: usize,
    bytes: u64,
    image_bytes: u64,
    lost_events: u64,
    left_out: u64,
}

pub(crate) fn run(args: &ProfileArgs) -> Result<()> {
    match args.action {
        ProfileAction::Record => record(args),
        ProfileAction::Collect => collect(args),
        ProfileAction::Show => show(args),
        ProfileAction::Clear => clear(args),
    }
}

fn record(args: &ProfileArgs) -> Result<()> {
    let credential = Credential::new(args.esp.as_deref(), NAME)?;
    let until = SystemTime::now() + ARMED;
    let until = until
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|error| CliError::new("this machine's clock is before 1970").source(error))?
        .as_secs();
    credential.write(&format!("until={until}\n"))?;
    if args.json {
        return ui::print_json(&Said {
            action: "record",
            path: credential.path(),
            until: Some(until),
            summary: None,
        });
    }
    anstream::println!("{}: armed for an hour", credential.path().display());
    anstream::println!("Restart now; after that, run `initoverlayfs profile collect`.");
    Ok(())
}

fn collect(args: &ProfileArgs) -> Result<()> {
    let record = read_record(&args.record)?;
    let instance = args.sysfs.join(INSTANCE);
    let source = source::find(args.image.as_deref(), &args.record, &record)?;
    let recording = source.with(&record.uuid, |image| {
        recording(&record, &args.record, &instance, image)
    })?;
    let profile = &recording.profile;
    if profile.files.is_empty() {
        return Err(CliError::new("this boot read no file of its image")
            .hint("record another one: `initoverlayfs profile record`"));
    }
    write(&args.output, profile)?;
    disarm(args, &instance);
    if recording.lost > 0 {
        ui::warn(&format!(
            "{} events were lost, so the profile lacks what came last",
            recording.lost
        ));
    }
    let summary = Summary {
        files: profile.files.len(),
        bytes: profile.bytes(),
        image_bytes: profile.image_bytes,
        lost_events: recording.lost,
        left_out: recording.left_out,
    };
    if args.json {
        return ui::print_json(&Said {
            action: "collect",
            path: &args.output,
            until: None,
            summary: Some(summary),
        });
    }
    anstream::println!("{}: {}", args.output.display(), in_short(profile));
    anstream::println!("The next `initoverlayfs build` puts these files first.");
    Ok(())
}

/// Removes what would have the next boot recorded, and the trace. Both are gone
/// by themselves in time, so a failure is a warning.
fn disarm(args: &ProfileArgs, instance: &Path) {
    match Credential::new(args.esp.as_deref(), NAME).and_then(|found| found.remove()) {
        Ok(()) => {}
        Err(error) => ui::warn(&format!("the credential is still there: {error}")),
    }
    match fs::remove_dir(instance) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => ui::warn(&format!(
            "the trace {} stays until the next boot: {error}",
            instance.display()
        )),
        _ => {}
    }
}

fn read_record(path: &Path) -> Result<Record> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_RECORD).read_to_string(&mut text))
        .map_err(|source| {
            CliError::io("read", path, source)
                .hint("arm a boot with `initoverlayfs profile record`, restart, and try again")
        })?;
    let record: Record = serde_json::from_str(&text).map_err(|error| {
        CliError::new(format!("{} is no record of a boot", path.display())).source(error)
    })?;
    match record.version {
        1 => Ok(record),
        other => Err(CliError::new(format!(
            "{} has version {other}, this program reads 1",
            path.display()
        ))),
    }
}

fn recording(
    record: &Record,
    path: &Path,
    instance: &Path,
    image: &dyn ReadAt,
) -> Result<Recording> {
    let bad = |why: &str| CliError::new(format!("{} {why}", path.display()));
    let tree = Tree::open(image)
        .map_err(|error| CliError::new("the image's files cannot be read").source(error))?;
    let release = kernel_release();
    let hash = record.root_hash.clone();
    match record.method.as_str() {
        "trace" => {
            let dev = device(&record.fs_dev).ok_or_else(|| bad("names no /fs_dev"))?;
            // What is read now is not the boot's.
            let _ = fs::write(instance.join("tracing_on"), "0");
            let trace = instance.join("trace");
            let failed = |source| {
                CliError::io("read", &trace, source)
                    .hint("the trace is of this boot only; is tracefs mounted?")
            };
            let file = File::open(&trace).map_err(failed)?;
            let mut lines = BufReader::new(file.take(MAX_TRACE));
            let mut recorder = Recorder::default();
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
                recorder.line(&String::from_utf8_lossy(&line), dev);
                line.clear();
            }
            Ok(recorder.finish(&tree, hash, release)?)
        }
        "fanotify" => {
            let opened = opened(path)?;
            Ok(Recording::of_opened(&opened, &tree, hash, release)?)
        }
        other => Err(bad(&format!("has the unknown method {other:?}"))),
    }
}

/// The record that a process of storage-init makes of the files that are opened. It ends
/// when it is told to.
fn opened(record: &Path) -> Result<String> {
    let list = record.with_extension("paths");
    let stop = record.with_extension("stop");
    let read = || -> Result<String> {
        let mut text = Vec::new();
        File::open(&list)
            .and_then(|file| file.take(MAX_TRACE).read_to_end(&mut text))
            .map_err(|source| CliError::io("read", &list, source))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let is_whole = |text: &str| text.lines().next_back() == Some("end") && text.ends_with('\n');
    let mut text = read()?;
    if !is_whole(&text) {
        fs::write(&stop, "").map_err(|source| CliError::io("write", &stop, source))?;
        let begun = Instant::now();
        while !is_whole(&text) && begun.elapsed() < NOTING {
            std::thread::sleep(Duration::from_millis(50));
            text = read()?;
        }
    }
    match is_whole(&text) {
        true => Ok(text),
        false => Err(
            CliError::new(format!("{} is not finished", list.display())).hint(
                "the process that writes it has ended early, or hangs (the kernel's log may say \
                 why); record another boot: `initoverlayfs profile record`",
            ),
        ),
    }
}

/// `MAJ:MIN`.
fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn kernel_release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

fn write(path: &Path, profile: &Profile) -> Result<()> {
    use std::io::Write;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = |source| CliError::io("write", path, source);
    fs::create_dir_all(folder).map_err(failed)?;
    let mut text = serde_json::to_vec(profile)?;
    text.push(b'\n');
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(&text).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn show(args: &ProfileArgs) -> Result<()> {
    let profile = Profile::read(&args.output)?;
    if args.json {
        return ui::print_json(&profile);
    }
    let rows: Vec<Vec<String>> = profile
        .files
        .iter()
        .enumerate()
        .map(|(index, file)| {
            let read = file.ranges().map(|range| range.bytes()).sum();
            vec![
                (index + 1).to_string(),
                ui::size(read),
                ui::size(file.size),
                file.path.clone(),
            ]
        })
        .collect();
    ui::table(&["", "read", "size", "file"], &rows);
    anstream::println!(
        "{}: {}; kernel {}, image {}",
        args.output.display(),
        in_short(&profile),
        profile.kernel_release,
        match &profile.root_hash {
            Some(hash) => format!("with root hash {hash}"),
            None => format!("with UUID {}", profile.uuid),
        }
    );
    Ok(())
}

/// `120 files, 24.0 MiB of 246 MiB (9 %)`.
fn in_short(profile: &Profile) -> String {
    let (bytes, all) = (profile.bytes(), profile.image_bytes);
    let share = match u64::try_from(u128::from(bytes) * 100 / u128::from(all.max(1))) {
        Ok(share) if all > 0 => format!(" ({} %)", share.min(100)),
        _ => String::new(),
    };
    format!(
        "{} files, {} of {}{share}",
        profile.files.len(),
        ui::size(bytes),
        ui::size(all)
    )
}

fn clear(args: &ProfileArgs) -> Result<()> {
    let credential = Credential::new(args.esp.as_deref(), NAME)?;
    credential.remove()?;
    match fs::remove_file(&args.output) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CliError::io("remove", &args.output, error));
        }
        _ => {}
    }
    if args.json {
        return ui::print_json(&Said {
            action: "clear",
            path: &args.output,
            until: None,
            summary: None,
        });
    }
    anstream::println!("{}: no profile", args.output.display());
    Ok(())
}

/// The record of the whole boot, beside that of what it read.
fn boot_json(record: &Path) -> PathBuf {
    record.with_file_name("boot.json")
}
