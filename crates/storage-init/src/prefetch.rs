//! Reading ahead what the next init is going to read.
//!
//! The builder has left a list behind the image's file system, within what
//! dm-verity covers ([`iofs_prefetch`]). A process of its own asks the kernel for
//! it while PID 1 goes on: first inodes and folders, through the image's device,
//! for which no read-ahead of the kernel's helps; then the files' pages, through
//! the files, since what is read of the device would be read again for them.
//!
//! It must never slow or break a boot. It asks and does not wait for what it asked
//! for; takes half of the free memory at most; ends after [`LIMIT_US`]; holds the
//! image's mount no longer than that, and a signal ends it. A list that is damaged
//! or of another image is named in the log and is no list. `initoverlayfs.prefetch=off`
//! turns it off.

use alloc::format;
use alloc::string::String;

use iofs_prefetch::{PrefetchError, PrefetchList, Range, close_gaps};
use kernel_abi::block::Device;
use kernel_abi::kmsg::{Held, Level};
use kernel_abi::readahead::{self, Folder};
use kernel_abi::{AsFd, clock, file, process};

use crate::boot_json::FOLDER;
use crate::image::Found;
use crate::log::{Log, PREFIX};
use crate::stack::ImageDevice;

/// How long it may go on, in microseconds: a second stage takes less.
pub const LIMIT_US: u64 = 20_000_000;

/// Ranges of a file are joined over so many pages between them. One cluster of
/// the default compression on flash; what a disk reads in the time of one seek
/// where there is a head to move.
const GAP_FLASH: u32 = 15;
/// See [`GAP_FLASH`].
const GAP_ROTATIONAL: u32 = 255;

/// Where it says what it did, beside boot.json. Empty until it is done.
const RECORD: &str = "/run/initoverlayfs/prefetch.json";

/// All that the process needs, open: PID 1 moves /dev and /sys away from under it.
struct Job {
    /// The image's mount.
    root: Folder,
    /// The block device under it.
    device: Device,
    rotational: bool,
    log: Option<Held>,
    record: Option<file::Output>,
}

/// What it has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Asked {
    files: u32,
    /// Of files and metadata.
    bytes: u64,
}

/// Starts it for the image that is mounted at `root`. It begins to ask when PID 1
/// executes the next init: before that, what it has decompressed would keep the
/// only CPU of a machine from getting there.
pub fn start(root: &str, device: &ImageDevice, found: &Found, log: &mut Log) {
    let started = Folder::open(root).and_then(|root| {
        let job = Job {
            root,
            device: Device::open(&device.path)?,
            rotational: is_rotational(&found.part.name),
            log: Held::open(),
            record: file::mkdir(FOLDER)
                .and_then(|()| file::Output::make(RECORD))
                .ok(),
        };
        // What is left of it when it ends is the next init's to collect.
        process::fork_until_exec(LIMIT_US, || {
            job.live(found);
            0
        })
    });
    if let Err(error) = started {
        log.warn(format_args!("nothing is read ahead: {error}"));
    }
}

impl Job {
    /// The whole life of the process. What it did, it leaves in the log and for
    /// `initoverlayfs analyze`.
    fn live(&self, found: &Found) {
        let at = clock::micros();
        let result = self.run(found, at);
        let micros = clock::micros().saturating_sub(at);
        let (level, text) = match &result {
            Ok(Some(Asked { files, bytes })) => (
                Level::Info,
                format!(
                    "read ahead: {} KiB of {files} files and of metadata asked for in {} ms",
                    bytes >> 10,
                    micros / 1000
                ),
            ),
            Ok(None) => (
                Level::Info,
                "the image has no list of what to read ahead".into(),
            ),
            Err(error) => (Level::Warning, format!("nothing is read ahead: {error}")),
        };
        if let Some(log) = &self.log {
            log.write(level, PREFIX, &text);
        }
        if let (Some(record), Ok(Some(asked))) = (&self.record, &result) {
            // The log has said it.
            let _ = record.write(render(*asked, at, micros, self.rotational).as_bytes());
        }
    }

    /// Asks for all that the list has, if there is one, as far as the budget goes.
    fn run(&self, found: &Found, begun: u64) -> Result<Option<Asked>, PrefetchError> {
        let Some(list) = PrefetchList::read(&self.device, found.uuid, found.size)? else {
            return Ok(None);
        };
        let mut budget = Budget {
            left: readahead::free_memory() / 2,
            until: begun.saturating_add(LIMIT_US),
            asked: 0,
        };
        for &range in &list.metadata {
            if !budget.ask(self.device.as_fd(), range) {
                break;
            }
        }
        let gap = match self.rotational {
            true => GAP_ROTATIONAL,
            false => GAP_FLASH,
        };
        let mut files = 0_u32;
        'files: for wanted in &list.files {
            // One that is not there is not this image's: the list is not worse for it.
            let Ok(file) = self.root.file(&wanted.path) else {
                continue;
            };
            files += 1;
            for range in close_gaps(wanted.ranges.iter().copied(), gap) {
                if !budget.ask(file.as_fd(), range) {
                    break 'files;
                }
            }
        }
        Ok(Some(Asked {
            files,
            bytes: budget.asked,
        }))
    }
}

/// The record, of format version 1: times in microseconds, `at` since the kernel
/// started.
fn render(asked: Asked, at: u64, micros: u64, rotational: bool) -> String {
    let Asked { files, bytes } = asked;
    format!(
        "{{\"version\":1,\"at\":{at},\"us\":{micros},\"files\":{files},\"bytes\":{bytes},\
         \"rotational\":{rotational}}}\n"
    )
}

/// What may still be asked for.
struct Budget {
    /// In bytes.
    left: u64,
    /// Until when, in microseconds since the kernel started.
    until: u64,
    /// What has been, in bytes.
    asked: u64,
}

impl Budget {
    /// Asks for a range; false if nothing more is to be asked for.
    fn ask(&mut self, file: kernel_abi::BorrowedFd<'_>, range: Range) -> bool {
        let bytes = range.bytes();
        if bytes > self.left || clock::micros() > self.until {
            return false;
        }
        self.left -= bytes;
        self.asked += bytes;
        readahead::will_need(file, range.offset(), bytes).is_ok()
    }
}

/// Whether the disk of this partition has a head to move, as far as the kernel
/// knows.
fn is_rotational(name: &str) -> bool {
    // A partition's folder is in its disk's.
    ["queue", "../queue"].iter().any(|queue| {
        file::read_line(&format!("/sys/class/block/{name}/{queue}/rotational"))
            .is_ok_and(|text| text == "1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_a_line_of_json() {
        let asked = Asked {
            files: 3,
            bytes: 20_480,
        };
        assert_eq!(
            render(asked, 2_700_000, 15, false),
            "{\"version\":1,\"at\":2700000,\"us\":15,\"files\":3,\"bytes\":20480,\
             \"rotational\":false}\n"
        );
    }

    #[test]
    fn a_budget_ends_with_memory_and_time() {
        let file = tempfile::tempfile().unwrap();
        let range = |start, len| Range { start, len };
        let mut budget = Budget {
            left: 3 * 4096,
            until: u64::MAX,
            asked: 0,
        };
        assert!(budget.ask(file.as_fd(), range(0, 2)));
        assert!(!budget.ask(file.as_fd(), range(2, 2)));
        assert!(budget.ask(file.as_fd(), range(2, 1)));
        assert_eq!((budget.left, budget.asked), (0, 3 * 4096));
        let mut late = Budget {
            left: u64::MAX,
            until: 0,
            asked: 0,
        };
        assert!(!late.ask(file.as_fd(), range(0, 1)));
    }
}
