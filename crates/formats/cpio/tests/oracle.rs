//! GNU cpio reads what we write, and we read what GNU cpio writes.

// In tests, helpers included.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use iofs_cpio::{
    Entry, FileType, Format, NewEntry, Reader, SegmentKind, Writer, next_segment, resolve_links,
};

/// Runs GNU cpio in `dir` with this standard input.
fn cpio(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("cpio")
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs GNU cpio: apt-get install cpio");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cpio {args:?}: {stderr}");
    let complaints: Vec<_> = stderr
        .lines()
        .filter(|line| !line.contains("block"))
        .collect();
    assert!(complaints.is_empty(), "cpio {args:?}: {complaints:?}");
    feeder.join().unwrap().unwrap();
    output.stdout
}

/// A tree with everything in it that needs no privilege to make.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("usr/lib/deep")).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("usr/lib/a"), b"a").unwrap();
    fs::write(at("usr/lib/big"), vec![0xff; 100_001]).unwrap();
    fs::write(at("caf\u{e9} with space"), b"name\n").unwrap();
    fs::set_permissions(at("usr/lib/a"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(at("usr/lib/big"), at("usr/lib/deep/big-2")).unwrap();
    fs::hard_link(at("usr/lib/big"), at("zz-big-3")).unwrap();
    fs::hard_link(at("empty"), at("empty-2")).unwrap();
    symlink("usr/lib", at("lib")).unwrap();
    let made = Command::new("mkfifo").arg(at("fifo")).status().unwrap();
    assert!(made.success());
    dir
}

fn names(dir: &Path) -> Vec<u8> {
    let output = Command::new("find").arg(".").current_dir(dir).output();
    output.expect("this test needs find").stdout
}

fn read(bytes: &[u8]) -> Vec<Entry<'_>> {
    let mut reader = Reader::new(bytes);
    let entries = reader.by_ref().map(Result::unwrap).collect();
    assert!(reader.saw_trailer());
    let rest = next_segment(bytes, reader.position()).unwrap();
    assert_eq!(rest.kind, SegmentKind::End);
    entries
}

#[test]
fn we_read_what_gnu_cpio_writes() {
    let dir = tree();
    let names = names(dir.path());
    for format in ["newc", "crc"] {
        let bytes = cpio(dir.path(), &["-o", "-H", format], &names);
        let entries = read(&bytes);
        let links = resolve_links(&entries);
        assert_eq!(entries.len(), names.iter().filter(|&&b| b == b'\n').count());
        let mut first_inodes = BTreeMap::new();
        for (index, (entry, link)) in entries.iter().zip(&links).enumerate() {
            let name = String::from_utf8(entry.path().unwrap()).unwrap();
            let path = dir.path().join(&name);
            let meta = fs::symlink_metadata(&path).unwrap();
            assert_eq!(entry.mode, meta.mode(), "{name}");
            assert_eq!((entry.uid, entry.gid), (meta.uid(), meta.gid()), "{name}");
            assert_eq!(i64::from(entry.mtime), meta.mtime(), "{name}");
            assert_eq!(u64::from(entry.nlink), meta.nlink(), "{name}");
            match entry.file_type() {
                FileType::Regular => {
                    assert_eq!(link.data, fs::read(&path).unwrap(), "{name}");
                    let first = *first_inodes.entry(meta.ino()).or_insert(index);
                    assert_eq!(link.first, first, "{name}");
                }
                FileType::Symlink => {
                    let target = fs::read_link(&path).unwrap();
                    assert_eq!(entry.data, target.as_os_str().as_encoded_bytes());
                }
                FileType::Directory => assert!(meta.is_dir()),
                FileType::Fifo => assert_eq!(name, "fifo"),
                other => panic!("{name} is no {other:?}"),
            }
        }
    }
}

#[test]
fn we_read_devices_that_gnu_cpio_packs() {
    let bytes = cpio(Path::new("/dev"), &["-o", "-H", "newc"], b"null\nzero\n");
    let entries = read(&bytes);
    let devices: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name, entry.file_type(), entry.rdev))
        .collect();
    assert_eq!(
        devices,
        [
            (&b"null"[..], FileType::CharDevice, (1, 3)),
            (&b"zero"[..], FileType::CharDevice, (1, 5)),
        ]
    );
}

fn ours(format: Format, align: usize) -> Vec<u8> {
    let mut writer = Writer::new(format);
    writer.align_data(align);
    let big = vec![0xff; 100_001];
    let mut append = |entry: NewEntry<'_>| writer.append(&entry).unwrap();
    append(NewEntry::directory("usr", 0o755));
    append(NewEntry::directory("usr/lib", 0o1777));
    append(NewEntry {
        uid: 12,
        gid: 34,
        mtime: 86_400,
        ..NewEntry::file("usr/a", 0o4751, b"contents of a\n")
    });
    append(NewEntry::file("usr/empty", 0o600, b""));
    append(NewEntry::symlink("lib", "usr/lib"));
    append(NewEntry {
        mode: 0o020_620,
        rdev: (5, 1),
        ..NewEntry::file("console", 0, b"")
    });
    append(NewEntry {
        mode: 0o060_660,
        rdev: (259, 65_537),
        ..NewEntry::file("disk", 0, b"")
    });
    append(NewEntry {
        mode: 0o010_644,
        ..NewEntry::file("fifo", 0, b"")
    });
    let links: [&[u8]; 3] = [b"usr/big", b"usr/lib/big-2", b"zz"];
    writer
        .append_links(&links, &NewEntry::file("", 0o644, &big))
        .unwrap();
    writer.finish_padded(512)
}

#[test]
fn gnu_cpio_lists_what_we_write() {
    let here = tempfile::tempdir().unwrap();
    let listing = cpio(here.path(), &["-itvn", "--quiet"], &ours(Format::Newc, 4));
    let listing = String::from_utf8(listing).unwrap();
    let lines: Vec<String> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 usr",
            "drwxrwxrwt 2 0 0 0 Jan 1 1970 usr/lib",
            "-rwsr-x--x 1 12 34 14 Jan 2 1970 usr/a",
            "-rw------- 1 0 0 0 Jan 1 1970 usr/empty",
            "lrwxrwxrwx 1 0 0 7 Jan 1 1970 lib -> usr/lib",
            "crw--w---- 1 0 0 5, 1 Jan 1 1970 console",
            "brw-rw---- 1 0 0 259, 65537 Jan 1 1970 disk",
            "prw-r--r-- 1 0 0 0 Jan 1 1970 fifo",
            "-rw-r--r-- 3 0 0 0 Jan 1 1970 usr/big",
            "-rw-r--r-- 3 0 0 0 Jan 1 1970 usr/lib/big-2",
            "-rw-r--r-- 3 0 0 100001 Jan 1 1970 zz",
        ]
    );
}

#[test]
fn gnu_cpio_unpacks_what_we_write() {
    for (format, align) in [(Format::Newc, 4), (Format::Crc, 4), (Format::Newc, 4096)] {
        let dir = tempfile::tempdir().unwrap();
        // Devices need privilege to make; `-t` above has seen them.
        let args = [
            "-idm",
            "--quiet",
            "--no-preserve-owner",
            "usr*",
            "lib",
            "zz",
            "fifo",
        ];
        cpio(dir.path(), &args, &ours(format, align));
        let at = |name: &str| dir.path().join(name);
        assert_eq!(fs::read(at("usr/a")).unwrap(), b"contents of a\n");
        let meta = fs::metadata(at("usr/a")).unwrap();
        assert_eq!(meta.mtime(), 86_400);
        assert_eq!(fs::read(at("usr/empty")).unwrap(), b"");
        assert_eq!(fs::read_link(at("lib")).unwrap(), Path::new("usr/lib"));
        let big = fs::metadata(at("usr/big")).unwrap();
        assert_eq!((big.len(), big.nlink()), (100_001, 3));
        assert_eq!(fs::metadata(at("zz")).unwrap().ino(), big.ino());
        assert_eq!(fs::read(at("usr/lib/big-2")).unwrap(), vec![0xff; 100_001]);
    }
}

#[test]
fn gnu_cpio_checks_our_checksums() {
    let good = ours(Format::Crc, 4);
    let here = tempfile::tempdir().unwrap();
    cpio(here.path(), &["-i", "--only-verify-crc", "--quiet"], &good);
}
