//! Running the oracles, and disks for them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use iofs_gpt::{Layout, NewPartition, Uuid, types};
use tempfile::TempDir;

/// Runs a tool to its end and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} is needed for this test (Debian: gdisk, fdisk, util-linux): {error}")
        });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A disk in a sparse file.
pub(crate) struct Disk {
    _folder: TempDir,
    path: PathBuf,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("disk");
        File::create(&path).unwrap().set_len(size).unwrap();
        Self {
            _folder: folder,
            path,
        }
    }

    pub(crate) fn written(size: u64, layout: &Layout) -> Self {
        let disk = Self::new(size);
        let file = File::options().write(true).open(&disk.path).unwrap();
        for (offset, bytes) in layout.runs() {
            file.write_all_at(&bytes, offset).unwrap();
        }
        disk
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

pub(crate) fn guid(number: u128) -> Uuid {
    Uuid::from_u128(0x1234_5678_9abc_4def_8000_0000_0000_0000 + number)
}

/// A disk with an ESP, a root of an odd size and a partition to the end.
pub(crate) fn sample(size: u64, block_size: u32) -> Layout {
    let mut layout = Layout::new(size, block_size, guid(0)).unwrap();
    let mut add = |number, type_guid, name: &str, size, attributes| {
        let left = layout.left();
        layout
            .add(&NewPartition {
                type_guid,
                part_guid: guid(number),
                name,
                size: if size == 0 { left } else { size },
                attributes,
            })
            .unwrap();
    };
    add(1, types::ESP, "EFI system", 5 << 20, 0);
    add(2, types::ROOT_X86_64, "Wurzel ☂ 𝄞", (3 << 20) + 1, 1 << 60);
    add(3, types::LINUX_GENERIC, &"x".repeat(36), 0, 5);
    layout
}

/// A written disk, in memory.
pub(crate) fn image(size: u64, layout: &Layout) -> Vec<u8> {
    let mut image = vec![0; usize::try_from(size).unwrap()];
    for (offset, bytes) in layout.runs() {
        let at = usize::try_from(offset).unwrap();
        image[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    image
}

/// Sets bytes of a header or its entries and mends both checksums.
pub(crate) fn reseal(
    image: &mut [u8],
    header: usize,
    entries: usize,
    change: impl FnOnce(&mut [u8]),
) {
    change(image);
    let entries_len = 128 * 128;
    let checksum = crc32fast::hash(&image[entries..entries + entries_len]);
    image[header + 88..header + 92].copy_from_slice(&checksum.to_le_bytes());
    reseal_header(image, header);
}

/// Mends a header's own checksum.
pub(crate) fn reseal_header(image: &mut [u8], header: usize) {
    image[header + 16..header + 20].fill(0);
    let checksum = crc32fast::hash(&image[header..header + 92]);
    image[header + 16..header + 20].copy_from_slice(&checksum.to_le_bytes());
}
