//! Volumes as a power cut leaves them: the newest metadata in the journal only.
//!
//! A volume is changed with debugfs. The blocks that then differ are written
//! into the journal of a copy of the old state, file data in place, as ordered
//! mode does it. What e2fsck makes of that copy is the oracle.

// Tests may panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use iofs_ext4::{Ext4Error, JournalError};
use support::{Image, contents, noise, run};

/// A folder whose name and a link whose target begin with the journal's own
/// magic, so that the block with the target is escaped in the journal.
const MAGIC: &[u8] = &[0xc0, 0x3b, 0x39, 0x98];

struct Crash {
    dirty: Image,
    block_size: usize,
    /// Blocks of metadata that the journal must bring.
    blocks: Vec<u64>,
    /// Their contents.
    content: Vec<u8>,
    /// Blocks of the new file's data, which are in place.
    data: Vec<u64>,
}

fn new_image() -> Vec<u8> {
    noise(300_000, 11)
}

impl Crash {
    fn new(options: &[&str]) -> Self {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("boot")).unwrap();
        fs::write(tree.path().join("boot/old.img"), noise(200_000, 5)).unwrap();
        fs::write(tree.path().join("kept.img"), noise(50_000, 6)).unwrap();
        let mut all = vec!["-t", "ext4", "-J", "size=4"];
        all.extend_from_slice(options);
        let dirty = Image::make(&all, "32M", Some(tree.path()));
        let block_size = usize::try_from(dirty.open().unwrap().info().block_size).unwrap();

        let after = dirty.copy();
        let new = after.dir.path().join("new");
        fs::write(&new, new_image()).unwrap();
        let mut commands = format!(
            // The old file goes last: its blocks must not be used again before
            // the transaction is on the disk.
            "mkdir boot/next\nwrite {} boot/next/new.img\nrm boot/old.img\n",
            new.display()
        )
        .into_bytes();
        commands.extend_from_slice(b"mkdir ");
        commands.extend_from_slice(MAGIC);
        commands.extend_from_slice(b"\nsymlink escaped ");
        commands.extend_from_slice(MAGIC);
        commands.extend_from_slice(b"/../");
        commands.extend_from_slice("./".repeat(40).as_bytes());
        commands.extend_from_slice(b"boot/next/new.img\n");
        after.debugfs(&commands);
        after.assert_clean();

        let data: Vec<u64> = after
            .ask("blocks boot/next/new.img")
            .split_whitespace()
            .map(|block| block.parse().unwrap())
            .collect();
        let (old, new) = (dirty.bytes(), after.bytes());
        let disk = File::options().write(true).open(&dirty.path).unwrap();
        let (mut blocks, mut content) = (Vec::new(), Vec::new());
        let pairs = old.chunks(block_size).zip(new.chunks(block_size));
        for (block, (old, new)) in (0u64..).zip(pairs) {
            if data.contains(&block) {
                disk.write_all_at(new, block * block_size as u64).unwrap();
            } else if old != new {
                blocks.push(block);
                content.extend_from_slice(new);
            }
        }
        assert!(blocks.len() > 8, "{blocks:?}");
        Self {
            dirty,
            block_size,
            blocks,
            content,
            data,
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dirty.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// `jw` with these blocks and their right contents.
    fn write(&self, name: &str, from: usize, to: usize) -> String {
        let bytes = &self.content[from * self.block_size..to * self.block_size];
        format!(
            "jw -b {} {}\n",
            list(&self.blocks[from..to]),
            self.file(name, bytes)
        )
    }

    /// `jw` with garbage in place of `count` blocks.
    fn garbage(&self, blocks: &[u64], options: &str) -> String {
        let bytes = noise(blocks.len() * self.block_size, 99);
        format!(
            "jw {options} -b {} {}\n",
            list(blocks),
            self.file("garbage", &bytes)
        )
    }

    fn journal(&self, open: &str, commands: &str) {
        let answer = self
            .dirty
            .debugfs(format!("jo {open}\n{commands}jc\n").as_bytes());
        assert!(!answer.contains("while"), "debugfs complains: {answer}");
    }

    /// The new state is seen, and is what e2fsck makes of a copy.
    fn check(&self) {
        let ext4 = self.dirty.open().unwrap();
        let info = ext4.info();
        assert!(info.needs_recovery && info.replayed_blocks > 0);
        assert!(contents(&self.dirty, &ext4, "boot/next/new.img") == new_image());
        assert!(contents(&self.dirty, &ext4, "escaped") == new_image());
        assert!(contents(&self.dirty, &ext4, "kept.img") == noise(50_000, 6));
        assert!(matches!(
            ext4.locate("boot/old.img"),
            Err(Ext4Error::NotFound { .. })
        ));

        let fixed = self.dirty.copy();
        let fsck = run("e2fsck", &["-fy", fixed.path.to_str().unwrap()]);
        assert_eq!(fsck.status.code(), Some(0), "{fsck:?}");
        let after = fixed.open().unwrap();
        assert!(!after.info().needs_recovery);
        for path in ["", "boot", "boot/next"] {
            assert_eq!(ext4.entries(path).unwrap(), after.entries(path).unwrap());
        }
        for path in ["boot/next/new.img", "kept.img"] {
            assert_eq!(ext4.locate(path).unwrap(), after.locate(path).unwrap());
            assert!(contents(&self.dirty, &ext4, path) == fixed.dump(path));
        }
    }

    /// Nothing is replayed: the old state is seen.
    fn check_old(&self) {
        let ext4 = self.dirty.open().unwrap();
        assert_eq!(ext4.info().replayed_blocks, 0);
        assert!(contents(&self.dirty, &ext4, "boot/old.img") == noise(200_000, 5));
        assert!(ext4.locate("boot/next/new.img").is_err());
    }

    /// The offset in the image of the log's block `index`, from its start.
    fn log_offset(&self, index: u64) -> u64 {
        let journal = self.dirty.ask("blocks <8>");
        let blocks: Vec<u64> = journal
            .split_whitespace()
            .map(|block| block.parse().unwrap())
            .collect();
        // Block 0 is the superblock, 1 the start of the log.
        blocks[usize::try_from(index).unwrap() + 1] * self.block_size as u64
    }

    fn flip(&self, offset: u64) {
        let disk = File::options()
            .read(true)
            .write(true)
            .open(&self.dirty.path)
            .unwrap();
        let mut byte = [0];
        disk.read_exact_at(&mut byte, offset).unwrap();
        disk.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    }
}

fn list(blocks: &[u64]) -> String {
    let words: Vec<String> = blocks.iter().map(u64::to_string).collect();
    words.join(",")
}

/// Tag formats: 32 and 64 bits, no checksums, version 2 and 3.
#[test]
fn one_transaction_in_every_format() {
    for options in [
        ["-b", "1024", "-O", "64bit,metadata_csum"],
        ["-b", "4096", "-O", "64bit,metadata_csum"],
        ["-b", "1024", "-O", "^64bit,metadata_csum"],
        ["-b", "4096", "-O", "^64bit,^metadata_csum"],
        ["-b", "2048", "-O", "64bit,^metadata_csum"],
        ["-b", "1024", "-O", "^64bit,^metadata_csum,^extents"],
    ] {
        for open in ["", "-c -v 2", "-c -v 3"] {
            let crash = Crash::new(&options);
            crash.journal(open, &crash.write("all", 0, crash.blocks.len()));
            crash.check();
        }
    }
}

#[test]
fn the_newest_committed_copy_counts() {
    let crash = Crash::new(&["-b", "1024"]);
    let (all, half) = (crash.blocks.len(), crash.blocks.len() / 2);
    let commands = crash.garbage(&crash.blocks, "")
        + &crash.write("first", 0, half)
        + &crash.write("second", half, all);
    crash.journal("-c -v 3", &commands);
    crash.check();
}

#[test]
fn an_uncommitted_transaction_is_not_replayed() {
    let crash = Crash::new(&["-b", "1024"]);
    crash.journal("-c -v 3", &crash.garbage(&crash.blocks, "-c"));
    crash.check_old();

    let crash = Crash::new(&["-b", "1024"]);
    let commands = crash.write("all", 0, crash.blocks.len()) + &crash.garbage(&crash.blocks, "-c");
    crash.journal("", &commands);
    crash.check();
}

/// A block that was metadata, was freed and then holds file data must not be
/// overwritten with the metadata; one that is written again after must be.
#[test]
fn revoked_blocks() {
    for (options, open) in [
        (["-b", "1024", "-O", "64bit"], "-c -v 3"),
        (["-b", "4096", "-O", "^64bit"], ""),
    ] {
        let crash = Crash::new(&options);
        let all = crash.blocks.len();
        let both: Vec<u64> = crash.data.iter().chain(&crash.blocks).copied().collect();
        let commands = crash.garbage(&both[..all.min(crash.data.len())], "")
            + &format!("jw -r {}\n", list(&both[..all.min(crash.data.len())]))
            + &format!("jw -r {}\n", list(&crash.blocks))
            + &crash.write("all", 0, all);
        crash.journal(open, &commands);
        crash.check();
    }
}

/// `data=journal`: dm-linear would map the stale block.
#[test]
fn data_in_the_journal_is_refused() {
    let crash = Crash::new(&["-b", "1024"]);
    let commands =
        crash.write("all", 0, crash.blocks.len()) + &crash.garbage(&crash.data[7..8], "");
    crash.journal("-c -v 3", &commands);
    let ext4 = crash.dirty.open().unwrap();
    let error = ext4.locate("boot/next/new.img").unwrap_err();
    assert_eq!(error, Ext4Error::OnlyInJournal { at: 7 * 1024 });
    assert!(ext4.locate("kept.img").is_ok());
}

#[test]
fn damage_is_named() {
    let fresh = || {
        let crash = Crash::new(&["-b", "1024"]);
        crash.journal("-c -v 3", &crash.write("all", 0, crash.blocks.len()));
        crash
    };
    // The descriptor of the transaction.
    let crash = fresh();
    crash.flip(crash.log_offset(0) + 20);
    let error = crash.dirty.open().unwrap_err();
    assert!(
        matches!(
            error,
            Ext4Error::Journal(JournalError::Checksum { block: 1, .. })
        ),
        "{error}"
    );
    // Its commit block.
    let crash = fresh();
    let commit = crash.blocks.len() as u64 + 1;
    crash.flip(crash.log_offset(commit) + 0x3a);
    let error = crash.dirty.open().unwrap_err();
    assert!(
        matches!(error, Ext4Error::Journal(JournalError::Checksum { block, .. })
            if u64::from(block) == commit + 1),
        "{error}"
    );
    // A block that it carries, seen when that block is read.
    let crash = fresh();
    for index in 1..commit {
        crash.flip(crash.log_offset(index) + 100);
    }
    let error = crash.dirty.open().unwrap_err();
    assert!(
        matches!(error, Ext4Error::Journal(JournalError::Checksum { .. })),
        "{error}"
    );
    // The journal's superblock.
    let crash = fresh();
    let first = crash.log_offset(0);
    crash.flip(first - crash.block_size as u64 + 0x40);
    let error = crash.dirty.open().unwrap_err();
    assert!(
        matches!(
            error,
            Ext4Error::Journal(JournalError::Checksum { block: 0, .. })
        ),
        "{error}"
    );
}

/// A flag left over from a kernel that wrote the journal out: nothing to do.
#[test]
fn an_empty_journal() {
    let crash = Crash::new(&["-b", "1024"]);
    crash.dirty.debugfs(b"feature needs_recovery\n");
    crash.check_old();
    assert!(crash.dirty.open().unwrap().info().needs_recovery);
}

#[test]
fn journals_that_are_elsewhere_or_missing() {
    let crash = Crash::new(&["-b", "1024"]);
    crash
        .dirty
        .debugfs(b"feature needs_recovery\nssv journal_inum 0\nssv journal_dev 0x801\n");
    assert_eq!(
        crash.dirty.open().unwrap_err(),
        Ext4Error::Journal(JournalError::External)
    );
    crash.dirty.debugfs(b"ssv journal_dev 0\n");
    assert_eq!(
        crash.dirty.open().unwrap_err(),
        Ext4Error::Journal(JournalError::Missing)
    );
}
