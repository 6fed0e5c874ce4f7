//! Recording what a boot reads of its image, for `initoverlayfs profile collect`.
//!
//! A boot that is asked to (`initoverlayfs.profile=record`, or the credential that
//! `initoverlayfs profile record` leaves on the ESP) turns the kernel's read-ahead
//! for the image's device off, so that only pages that somebody wants are read, and
//! has the kernel note each page that it adds to its cache: the event
//! `mm_filemap_add_to_page_cache`, in an instance of the tracing file system. It
//! needs neither BPF nor kprobes, and distributions' kernels have it. Where it is
//! missing, or with `initoverlayfs.profile=fanotify`, a process notes the files that
//! are opened, and in the end which of their pages are in memory ([`Opens`]). Such a
//! boot is slower; nothing else about it changes, and when it cannot be recorded it
//! goes on without.

mod opens;

use alloc::format;
use alloc::string::String;

use iofs_cmdline::Record;
use kernel_abi::mount::{self, Flags};
use kernel_abi::{Errno, block, file, process};

use crate::boot_json;
use crate::image::Found;
use crate::log::Log;
use crate::stack::ImageDevice;
pub use opens::Opens;

/// Where the tracing file system is mounted, by everybody.
const TRACING: &str = "/sys/kernel/tracing";

/// The instance, below that.
const INSTANCE: &str = "/sys/kernel/tracing/instances/initoverlayfs";

/// What was recorded, how, and of what.
pub const RECORD: &str = "/run/initoverlayfs/record.json";

/// Where it is too, in the image's own root: [`crate::run_init`] carries it on from there,
/// as it does [`crate::boot_json::COPY`].
pub const COPY: &str = "/.initoverlayfs/record.json";

/// The greatest size of [`RECORD`], in bytes.
const MAX_RECORD: usize = 64 << 10;

/// Room for events of all CPUs, in KiB; one page takes some 40 bytes.
const BUFFER_KIB: usize = 8192;

/// Begins, for the image on `device`, before it is mounted; whether the files that are
/// opened have to be watched.
pub fn start(how: Record, device: &ImageDevice, found: &Found, log: &mut Log) -> bool {
    let by_opens = match how {
        Record::Opens => true,
        Record::Best => match trace(device, found) {
            Ok(()) => false,
            Err(error) => {
                log.info(format_args!(
                    "the kernel cannot trace what is read, so opened files are noted: {error}"
                ));
                true
            }
        },
    };
    if by_opens {
        // Not slower for nothing.
        if let Err(error) = Opens::check() {
            opens::refuse(&error, log);
            return false;
        }
    } else {
        said(log);
    }
    if let Err(error) = read_only_what_is_wanted(device) {
        log.warn(format_args!(
            "the record of this boot will have more than it needs: {error}"
        ));
    }
    by_opens
}

/// Says that this boot is recorded.
fn said(log: &mut Log) {
    log.info(format_args!(
        "this boot is recorded, and slower for it: then run initoverlayfs profile collect"
    ));
}

/// Leaves the record where it is carried on, once the image is at `/`.
pub fn keep(log: &mut Log) {
    let kept = file::read(RECORD, MAX_RECORD).and_then(|text| boot_json::put(COPY, &text));
    match kept {
        Err(error) if error.errno() != Errno::NOENT => log.warn(format_args!(
            "behind a /run of its own, the record of this boot is not found: {error}"
        )),
        _ => {}
    }
}

/// Turns the kernel's read-ahead off. A disk's own setting would stay, so only for
/// devices that are the image's alone.
fn read_only_what_is_wanted(device: &ImageDevice) -> kernel_abi::Result<()> {
    if !device.is_own() {
        return Ok(());
    }
    let (major, minor) = block::device_number(&device.path)?;
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    file::write(&path, b"0")
}

fn trace(device: &ImageDevice, found: &Found) -> kernel_abi::Result<()> {
    let (major, minor) = block::device_number(&device.path)?;
    if !file::exists(&format!("{TRACING}/instances")) {
        mount::mount("tracefs", TRACING, "tracefs", Flags::empty(), "")?;
    }
    file::mkdir(INSTANCE)?;
    let set =
        |name: &str, value: &str| file::write(&format!("{INSTANCE}/{name}"), value.as_bytes());
    let each = (BUFFER_KIB / process::cpus()).max(256);
    set("buffer_size_kb", &format!("{each}"))?;
    let event = "events/filemap/mm_filemap_add_to_page_cache";
    // The kernel's own dev_t (include/linux/kdev_t.h).
    let device_number = u64::from(major) << 20 | u64::from(minor);
    set(
        &format!("{event}/filter"),
        &format!("s_dev == {device_number}"),
    )?;
    set(&format!("{event}/enable"), "1")?;
    let text = render(device, found, "trace")?;
    boot_json::put(RECORD, text.as_bytes())
}

/// What `profile collect` has to know of this boot.
fn render(device: &ImageDevice, found: &Found, method: &str) -> kernel_abi::Result<String> {
    let (major, minor) = block::device_number(&device.path)?;
    let root_hash = match &found.proof {
        Some(proof) => format!("\"{}\"", proof.trees.root),
        None => "null".into(),
    };
    let number = format!("{major}:{minor}");
    Ok(format!(
        concat!(
            "{{\"version\":1,\"root_hash\":{root_hash},\"uuid\":\"{uuid}\",\"size\":{size},",
            "\"block_dev\":\"{number}\",\"fs_dev\":\"{number}\",\"method\":\"{method}\"}}\n"
        ),
        root_hash = root_hash,
        uuid = found.uuid,
        size = found.size,
        number = number,
        method = method,
    ))
}
