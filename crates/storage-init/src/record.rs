//! Recording what a boot reads of its image, for `initoverlayfs profile collect`.
//!
//! A boot that is asked to (`initoverlayfs.profile=record`, or the credential that
//! `initoverlayfs profile record` leaves on the ESP) turns the kernel's read-ahead
//! for the image's device off, so that only pages that somebody wants are read, and
//! has the kernel note each page that it adds to its cache: the event
//! `mm_filemap_add_to_page_cache`, in an instance of the tracing file system. It
//! needs neither BPF nor kprobes, and distributions' kernels have it. Such a boot
//! is slower; nothing else about it changes, and when it cannot be recorded it goes
//! on without.

use alloc::format;

use kernel_abi::mount::{self, Flags};
use kernel_abi::{block, file, process};

use crate::image::Found;
use crate::log::Log;
use crate::stack::ImageDevice;

/// Where the tracing file system is mounted, by everybody.
const TRACING: &str = "/sys/kernel/tracing";

/// The instance, below that.
const INSTANCE: &str = "/sys/kernel/tracing/instances/initoverlayfs";

/// What was recorded, and of what.
const RECORD: &str = "/run/initoverlayfs/record.json";

/// Room for events of all CPUs, in KiB; one page takes some 40 bytes.
const BUFFER_KIB: usize = 8192;

/// Begins, for the image on `device`, before it is mounted.
pub fn start(device: &ImageDevice, found: &Found, log: &mut Log) {
    match arm(device, found) {
        Ok(()) => log.info(format_args!(
            "this boot is recorded, and slower for it: then run initoverlayfs profile collect"
        )),
        Err(error) => log.warn(format_args!("this boot is not recorded: {error}")),
    }
}

fn arm(device: &ImageDevice, found: &Found) -> kernel_abi::Result<()> {
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
    // A disk's own setting would stay: only devices that are the image's alone.
    if device.is_own() {
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        file::write(&path, b"0")?;
    }
    let root_hash = match &found.proof {
        Some(proof) => format!("\"{}\"", proof.trees.root),
        None => "null".into(),
    };
    let number = format!("{major}:{minor}");
    let text = format!(
        concat!(
            "{{\"version\":1,\"root_hash\":{root_hash},\"uuid\":\"{uuid}\",\"size\":{size},",
            "\"block_dev\":\"{number}\",\"fs_dev\":\"{number}\",\"method\":\"trace\"}}\n"
        ),
        root_hash = root_hash,
        uuid = found.uuid,
        size = found.size,
        number = number,
    );
    crate::boot_json::put(RECORD, text.as_bytes())
}
