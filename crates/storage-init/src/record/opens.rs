//! The record of kernels that cannot trace: which files were opened, in what order, and
//! which of their pages are in memory at the end.
//!
//! fanotify tells of files that are opened through the overlay; their pages are the
//! image's own files', which is why the image is held by an open folder until then. The
//! process that does this begins when all is mounted and has to outlive the switch to
//! the root, as systemd lets processes that ask for it. It ends when `profile collect`
//! says so, or after [`LIMIT_US`]; the image is not freed before.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use iofs_prefetch::opened::{self, Line};
use iofs_prefetch::{MAX_FILES, MAX_RANGES, ranges_of};
use kernel_abi::fanotify::{self, Event};
use kernel_abi::file::{self, Output};
use kernel_abi::kmsg::{Held, Level};
use kernel_abi::readahead::Folder;
use kernel_abi::{AsFd, Errno, OwnedFd, Result, clock, pages, process};

use super::RECORD;
use crate::boot_json::{self, FOLDER};
use crate::image::Found;
use crate::log::{Log, PREFIX};
use crate::stack::ImageDevice;

/// How long files are noted at most, in microseconds: ten minutes.
const LIMIT_US: u64 = 600_000_000;

/// How often it is asked whether that is enough, in microseconds.
const EVERY_US: u64 = 500_000;

/// Where the record goes, and what in it says that it is enough.
const PATHS: &str = "/run/initoverlayfs/record.paths";
const STOP: &str = "/run/initoverlayfs/record.stop";

/// How often more than once is taken what has come, in the end.
const MAX_TAKEN: u32 = 16;

/// Where something may be mounted over the image's root: extensions extend these.
const ROOTS: [&str; 4] = ["/", "/usr", "/opt", "/etc"];

/// What is needed of the image, while it has a mount of its own.
#[derive(Debug)]
pub struct Opens {
    image: Folder,
    /// What `profile collect` has to know.
    about: String,
}

impl Opens {
    /// For the image that is mounted at `root`; `None` if that cannot be, of which the
    /// log has the reason.
    pub fn of(root: &str, device: &ImageDevice, found: &Found, log: &mut Log) -> Option<Self> {
        let opened = Folder::open(root).and_then(|image| {
            let about = super::render(device, found, "fanotify")?;
            Ok(Self { image, about })
        });
        opened.map_err(|error| refuse(&error, log)).ok()
    }

    /// Whether the kernel can do what this takes.
    ///
    /// # Errors
    /// The kernel's, if not.
    pub(super) fn check() -> Result<()> {
        if !pages::are_ours() {
            let what = "pages of more than 4 KiB";
            return Err(kernel_abi::Error::new("recording", what, Errno::OPNOTSUPP));
        }
        fanotify::Opens::new().map(drop)
    }

    /// Begins, as the last thing before the next init: the image is at `/`.
    pub fn start(&self, log: &mut Log) {
        match self.watch() {
            Ok(()) => super::said(log),
            Err(error) => refuse(&error, log),
        }
    }

    fn watch(&self) -> Result<()> {
        let opens = fanotify::Opens::new()?;
        for root in ROOTS {
            match opens.watch(root) {
                Err(error) if root == "/" || error.errno() != Errno::NOENT => return Err(error),
                _ => {}
            }
        }
        boot_json::put(RECORD, self.about.as_bytes())?;
        // All that the process needs is open before this one goes on.
        let job = Job {
            image: &self.image,
            opens,
            proc: Folder::open("/proc")?,
            run: Folder::open(FOLDER)?,
            output: Output::make(PATHS)?,
            log: Held::open(),
        };
        // Init's to collect when it ends.
        process::fork(|| job.live()).map(drop)
    }
}

pub(super) fn refuse(error: &kernel_abi::Error, log: &mut Log) {
    log.warn(format_args!("this boot is not recorded: {error}"));
}

struct Job<'a> {
    image: &'a Folder,
    opens: fanotify::Opens,
    proc: Folder,
    run: Folder,
    output: Output,
    log: Option<Held>,
}

/// What has been opened.
#[derive(Debug, Default)]
struct Seen {
    /// Device and inode number of each file, ascending.
    files: Vec<(u64, u64)>,
    /// Their paths, in the order in which they came.
    paths: Vec<String>,
    /// How many there was no room for, as far as that is known.
    lost: u64,
}

impl Job<'_> {
    /// The whole life of the process.
    fn live(self) -> u8 {
        let mut kept = alloc::vec![
            self.image.as_fd(),
            self.opens.as_fd(),
            self.proc.as_fd(),
            self.run.as_fd(),
            self.output.as_fd(),
        ];
        kept.extend(self.log.as_ref().map(AsFd::as_fd));
        process::keep_only(&kept);
        if let Err(error) = process::be_spared() {
            self.say(&format!("the record may end with the initrd: {error}"));
        }
        match self.note() {
            Ok(()) => 0,
            Err(error) => {
                self.say(&format!("the record of this boot is not whole: {error}"));
                1
            }
        }
    }

    fn say(&self, text: &str) {
        if let Some(log) = &self.log {
            log.write(Level::Warning, PREFIX, text);
        }
    }

    fn note(&self) -> Result<()> {
        let mut seen = Seen::default();
        let until = clock::micros().saturating_add(LIMIT_US);
        loop {
            let _ = process::wait(&[], Some(self.opens.as_fd()), EVERY_US);
            let here = self.run.file(file::base_name(STOP)).is_ok();
            // Behind initramfs-tools, which has a /run of its own, the folder that is
            // open here is nobody's; but this process's root is the system's by then.
            let elsewhere = !here && file::exists(STOP);
            if !here && !elsewhere && clock::micros() <= until {
                self.take(&mut seen)?;
                continue;
            }
            // What came before it was enough. Somebody may open files all the time.
            let mut all = false;
            for _ in 0..=MAX_TAKEN {
                all = all || self.take(&mut seen)?;
            }
            seen.lost += u64::from(!all);
            return match elsewhere {
                true => self.write(&seen, &Output::make(PATHS)?),
                false => self.write(&seen, &self.output),
            };
        }
    }

    /// Notes what has come; whether that was all.
    fn take(&self, seen: &mut Seen) -> Result<bool> {
        self.opens.take(&mut |event| match event {
            Event::Opened(file) => seen.add(&file, &self.proc),
            Event::Lost => seen.lost += 1,
        })
    }

    fn write(&self, seen: &Seen, output: &Output) -> Result<()> {
        let line = |line: &Line<'_>| output.write(format!("{line}\n").as_bytes());
        let mut lost = seen.lost;
        let mut room = MAX_RANGES;
        for path in &seen.paths {
            let file = match self.image.file(path) {
                Ok(file) => file,
                // Of the overlay's writable layer, or an extension's.
                Err(error) if error.errno() == Errno::NOENT => continue,
                Err(_) => {
                    lost += 1;
                    continue;
                }
            };
            let mut there = Vec::new();
            let looked = pages::cached(file.as_fd(), &mut |page| there.push(page));
            let ranges = ranges_of(there, 0);
            if looked.is_err() || ranges.len() > room {
                lost += 1;
            } else if !ranges.is_empty() {
                room -= ranges.len();
                line(&Line::File { path, ranges })?;
            }
        }
        if lost > 0 {
            line(&Line::Lost(lost))?;
        }
        line(&Line::End)
    }
}

impl Seen {
    /// Notes a file, once.
    fn add(&mut self, file: &OwnedFd, proc: &Folder) {
        let Some(identity) = file::identity(file) else {
            return;
        };
        let Err(at) = self.files.binary_search(&identity) else {
            return;
        };
        if self.files.len() == MAX_FILES {
            self.lost += 1;
            return;
        }
        self.files.insert(at, identity);
        match proc.read_link(&file::number_path(file)) {
            Ok(path) if opened::can_name(path.trim_start_matches('/')) => {
                self.paths.push(path.trim_start_matches('/').into());
            }
            _ => self.lost += 1,
        }
    }
}
