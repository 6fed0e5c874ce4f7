//! Damaged and hostile volumes: errors are fine; panics and endless work are
//! bugs. What is damaged is metadata, so that checksums do not end every case.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::OnceLock;

use iofs_ext4::{Checked, Ext4, Ext4Error};
use iofs_source::{ReadAt, ReadError};
use proptest::prelude::*;
use support::{Image, noise};

/// Counts what is read.
struct Meter<'a> {
    bytes: &'a [u8],
    read: Cell<u64>,
}

impl ReadAt for Meter<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read.set(self.read.get() + buf.len() as u64);
        self.bytes.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.bytes.size()
    }
}

struct Victim {
    bytes: Vec<u8>,
    /// Offsets that hold metadata in use, block by block.
    metadata: Vec<usize>,
}

const PATHS: &[&str] = &["a/b/c/target", "link", "a/piece", "a", "a/many/0100"];

fn victim(options: &[&str], dirty: bool) -> Victim {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("a/b/c")).unwrap();
    fs::create_dir_all(tree.path().join("a/many")).unwrap();
    for index in 0..200 {
        fs::write(tree.path().join(format!("a/many/{index:04}")), []).unwrap();
    }
    fs::write(tree.path().join("a/b/c/target"), noise(90_000, 1)).unwrap();
    symlink(
        format!("{}a/b/c/target", "./".repeat(60)),
        tree.path().join("link"),
    )
    .unwrap();
    let mut all = vec!["-b", "1024", "-N", "512", "-J", "size=1"];
    all.extend_from_slice(options);
    let image = Image::make(&all, "6M", Some(tree.path()));
    // A file in many pieces, so that its tree has a node of its own.
    let block = image.dir.path().join("block");
    fs::write(&block, noise(1024, 1)).unwrap();
    let mut commands = String::new();
    for index in 0..60 {
        commands += &format!("write {} s{index}\n", block.display());
    }
    for index in (0..60).step_by(2) {
        commands += &format!("rm s{index}\n");
    }
    let piece = image.dir.path().join("piece");
    fs::write(&piece, noise(40_000, 2)).unwrap();
    commands += &format!("write {} a/piece\n", piece.display());
    if dirty {
        // The root directory's block, as it is, twice.
        let root = image.ask("blocks /");
        let root: usize = root.trim().parse().unwrap();
        let copy = image.dir.path().join("copy");
        fs::write(&copy, &image.bytes()[root * 1024..][..1024]).unwrap();
        let write = format!("jw -b {root} {}\n", copy.display());
        commands += &format!("jo\n{write}jw -r 4000\n{write}jc\n");
    }
    image.debugfs(commands.as_bytes());
    let bytes = image.bytes();
    let data = [noise(90_000, 1), noise(40_000, 2), noise(1024, 1)];
    let is_data = |block: &[u8]| {
        data.iter()
            .any(|data| data.chunks(1024).any(|d| d == block))
    };
    let metadata = (1..bytes.len() / 1024)
        .filter(|&index| {
            let block = &bytes[index * 1024..][..1024];
            block.iter().any(|&b| b != 0) && !is_data(block)
        })
        .map(|index| index * 1024)
        .collect();
    Victim { bytes, metadata }
}

fn victims() -> &'static [Victim] {
    static VICTIMS: OnceLock<Vec<Victim>> = OnceLock::new();
    VICTIMS.get_or_init(|| {
        vec![
            victim(&["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"], false),
            victim(&["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"], true),
            victim(&["-t", "ext3"], true),
            victim(
                &[
                    "-t",
                    "ext4",
                    "-O",
                    "^metadata_csum,inline_data",
                    "-I",
                    "512",
                ],
                false,
            ),
            victim(&["-t", "ext4", "-O", "metadata_csum"], true),
        ]
    })
}

/// Does all that there is to do; the bytes that were read.
fn exhaust(bytes: &[u8]) -> (u64, Vec<Ext4Error>) {
    let meter = Meter {
        bytes,
        read: Cell::new(0),
    };
    let mut errors = Vec::new();
    match Ext4::open(&meter) {
        Ok(ext4) => {
            for path in PATHS {
                match ext4.locate(path) {
                    Ok(map) => map.check(bytes.len() as u64, 512).unwrap(),
                    Err(error) => errors.push(error),
                }
                errors.extend(ext4.entries(path).err());
            }
            let _ = ext4.info();
        }
        Err(error) => errors.push(error),
    }
    for error in &errors {
        assert!(!error.to_string().is_empty());
    }
    (meter.read.get(), errors)
}

/// What the limits of the reader come to: ten walks, of at most 128 names of
/// 16 MiB. Real cases stay far below; a case near it would show as a hang.
const BOUND: u64 = 256 << 20;

#[test]
fn undamaged_volumes_cost_little() {
    for victim in victims() {
        let (read, errors) = exhaust(&victim.bytes);
        let wrong: Vec<_> = errors
            .iter()
            .filter(|error| {
                !matches!(
                    error,
                    Ext4Error::NotAFile { .. }
                        | Ext4Error::NotADirectory { .. }
                        | Ext4Error::Inline { .. }
                )
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(read < 600_000, "{read} bytes read");
    }
}

/// With checksums no single damaged byte of what is read goes unseen.
#[test]
fn every_damaged_byte_is_seen_by_a_checksum() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("boot")).unwrap();
    fs::write(tree.path().join("boot/image"), noise(50_000, 1)).unwrap();
    let image = Image::make(&["-t", "ext4", "-b", "1024"], "8M", Some(tree.path()));
    let mut bytes = image.bytes();
    let imap = |inode: &str| {
        let text = image.ask(&format!("imap {inode}"));
        let word = |name: &str| {
            let at = text.find(name).unwrap() + name.len();
            text[at..]
                .split([',', '\n'])
                .next()
                .unwrap()
                .trim()
                .to_string()
        };
        let offset = word("offset 0x");
        word("located at block").parse::<usize>().unwrap() * 1024
            + usize::from_str_radix(&offset, 16).unwrap()
    };
    let block = |path: &str| {
        image
            .ask(&format!("blocks {path}"))
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let places = [
        (1024, 1024, "the superblock"),
        (2048, 64, "the descriptor of block group 0"),
        (imap("/"), 256, "inode 2"),
        (imap("boot"), 256, "inode "),
        (imap("boot/image"), 256, "inode "),
        (block("/") * 1024, 1024, "the directory block"),
        (block("boot") * 1024, 1024, "the directory block"),
    ];
    for (start, len, name) in places {
        for at in start..start + len {
            bytes[at] ^= 0x40;
            match Ext4::open(&bytes).and_then(|ext4| ext4.locate("boot/image")) {
                Err(Ext4Error::Checksum(what)) => {
                    assert!(what.to_string().starts_with(name), "{at}: {what}");
                    assert!(!matches!(what, Checked::ExtentNode(_)));
                }
                // Fields that are looked at before the sum, which they tell of.
                Err(error) => assert!(
                    matches!(
                        error,
                        Ext4Error::NoSuperblock { .. } | Ext4Error::Superblock { .. }
                    ) && start == 1024,
                    "{at}: {error}"
                ),
                Ok(_) => assert!(
                    // Without the flag, or in a revision without flags, there
                    // are no checksums to look at.
                    start == 1024 && matches!(at - start, 0x4c..=0x4f | 0x64..=0x67),
                    "{name}: byte {} makes no difference",
                    at - start
                ),
            }
            bytes[at] ^= 0x40;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn damaged_metadata(
        index in 0usize..5,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..1024, any::<u8>()), 1..8),
    ) {
        let victim = &victims()[index];
        let mut bytes = victim.bytes.clone();
        for (block, within, value) in damage {
            bytes[block.get(&victim.metadata) + within] = value;
        }
        let (read, _) = exhaust(&bytes);
        prop_assert!(read < BOUND, "{read} bytes read");
    }

    /// One block in place of another: loops, trees that share nodes, logs
    /// that lead into files.
    #[test]
    fn swapped_blocks(
        index in 0usize..5,
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let victim = &victims()[index];
        let mut bytes = victim.bytes.clone();
        for (from, to) in swaps {
            let (from, to) = (from.get(&victim.metadata), to.get(&victim.metadata));
            bytes.copy_within(*from..*from + 1024, *to);
        }
        let (read, _) = exhaust(&bytes);
        prop_assert!(read < BOUND, "{read} bytes read");
    }

    #[test]
    fn damaged_superblocks(
        index in 0usize..4,
        damage in prop::collection::vec((0usize..0x280, any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = victims()[index].bytes.clone();
        for (at, value) in damage {
            bytes[1024 + at] = value;
        }
        let (read, _) = exhaust(&bytes);
        prop_assert!(read < BOUND, "{read} bytes read");
        let len = cut.index(bytes.len());
        exhaust(&bytes[..len]);
    }
}
