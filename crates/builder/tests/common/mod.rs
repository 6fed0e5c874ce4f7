//! What the tests share: trees, archives made by the real tools, listings.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use builder::{ImageRequest, Source};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a shell line in a folder; fails with what it said.
pub(crate) fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .env("LC_ALL", "C")
        .output()
        .expect("a shell");
    assert!(
        output.status.success(),
        "`{script}` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails by name if a program is missing.
pub(crate) fn need(tools: &[&str]) {
    for tool in tools {
        assert!(
            Command::new("sh")
                .args(["-c", &format!("command -v {tool}")])
                .stdout(Stdio::null())
                .status()
                .expect("a shell")
                .success(),
            "this test needs the program {tool}; install it"
        );
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes device nodes and mounts images: run it as root"
    );
}

/// GNU cpio of a folder, uncompressed.
pub(crate) fn cpio(tree: &Path) -> Vec<u8> {
    let output = Command::new("sh")
        .args([
            "-ec",
            "find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc",
        ])
        .current_dir(tree)
        .output()
        .expect("a shell");
    assert!(output.status.success(), "cpio failed");
    output.stdout
}

/// Pipes bytes through a program.
pub(crate) fn pipe(command: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    feeder.join().expect("no panic").expect("it reads");
    assert!(output.status.success(), "{command} failed");
    output.stdout
}

/// A tree with one of everything that cpio can carry.
pub(crate) fn sample_tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir(&tree).expect("a folder");
    sh(
        &tree,
        r#"
        mkdir -p etc usr/bin usr/lib dev run/private tmp
        ln -s usr/lib lib
        printf 'ID=test\nVERSION_ID=1\n' > etc/os-release
        echo root > etc/initrd-release
        seq 1 60000 > usr/lib/numbers
        head -c 300000 /dev/urandom > usr/lib/random
        cp /bin/true usr/bin/tool
        chmod 4755 usr/bin/tool
        ln usr/bin/tool usr/bin/tool-again
        ln usr/bin/tool usr/lib/tool-elsewhere
        ln -s ../../etc/os-release usr/lib/os-release
        ln -s /does/not/exist dangling
        chmod 1777 tmp
        chmod 0700 run/private
        mknod dev/null c 1 3
        mknod dev/disk b 8 17
        mknod dev/wide c 4095 1048575
        mkfifo run/pipe
        printf 'odd' > 'etc/a name with spaces [x] (y) $z'
        printf '' > etc/empty
        chown 1000:1001 etc/empty
        chown -h 12:34 dangling
        touch -d @1234567890 etc/os-release
        "#,
    );
    tree
}

/// What a tree holds, one line an entry, sorted: type, mode, owner, device,
/// hard-link partners, content, target, extended attributes.
pub(crate) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut links: BTreeMap<u64, String> = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.expect("a readable tree");
        let meta = entry.metadata().expect("an entry");
        let name = entry
            .path()
            .strip_prefix(root)
            .expect("it is inside")
            .to_string_lossy()
            .into_owned();
        let kind = meta.file_type();
        let what = if meta.is_dir() {
            "dir".to_owned()
        } else if meta.is_symlink() {
            format!(
                "link to {}",
                fs::read_link(entry.path()).expect("a link").display()
            )
        } else if meta.is_file() {
            let digest: [u8; 32] = Sha256::digest(fs::read(entry.path()).expect("a file")).into();
            format!("file {} {:02x?}", meta.len(), &digest[..8])
        } else if kind.is_block_device() {
            format!("block {:x}", meta.rdev())
        } else if kind.is_char_device() {
            format!("char {:x}", meta.rdev())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            "socket".to_owned()
        };
        let same_as = if meta.nlink() > 1 && !meta.is_dir() {
            links
                .entry(meta.ino())
                .or_insert_with(|| name.clone())
                .clone()
        } else {
            String::new()
        };
        let mode = if meta.is_symlink() {
            0
        } else {
            meta.permissions().mode() & 0o7777
        };
        let attributes = xattrs(entry.path());
        lines.insert(
            name,
            format!(
                "{what} {mode:o} {}:{} ={same_as} {attributes:?}",
                meta.uid(),
                meta.gid()
            ),
        );
    }
    lines
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 65536];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return Vec::new();
    };
    let mut found: Vec<(String, Vec<u8>)> = names[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = std::ffi::OsStr::from_bytes(name);
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("a value");
            (name.to_string_lossy().into_owned(), value[..len].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// An image, mounted by the kernel for as long as this lives.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn new(image: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m");
        fs::create_dir(&path).expect("a folder");
        sh(
            Path::new("/"),
            &format!(
                "mount -t erofs -o ro,loop '{}' '{}'",
                image.display(),
                path.display()
            ),
        );
        Self { path, _dir: dir }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

/// An order for an image of an initramfs with these bytes.
pub(crate) fn initrd_request(dir: &Path, bytes: &[u8]) -> ImageRequest {
    let file = dir.join("initrd");
    fs::write(&file, bytes).expect("written");
    plain(Source::Initrd(file), dir.join("image"))
}

/// A raw newc header and its name and data, padded: for archives that GNU cpio
/// would not make.
pub(crate) fn raw_entry(
    name: &str,
    mode: u32,
    rdev: (u32, u32),
    stated: u32,
    data: &[u8],
) -> Vec<u8> {
    let mut out = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{stated:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        7,
        0,
        0,
        1,
        0,
        0,
        0,
        rdev.0,
        rdev.1,
        name.len() + 1,
        0
    )
    .into_bytes();
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A file of an archive, whole.
pub(crate) fn raw_file(name: &str, data: &[u8]) -> Vec<u8> {
    let stated = u32::try_from(data.len()).expect("small");
    raw_entry(name, 0o100_644, (0, 0), stated, data)
}

pub(crate) fn raw_dir(name: &str) -> Vec<u8> {
    raw_entry(name, 0o040_755, (0, 0), 0, &[])
}

pub(crate) fn raw_link(name: &str, target: &str) -> Vec<u8> {
    let stated = u32::try_from(target.len()).expect("small");
    raw_entry(name, 0o120_777, (0, 0), stated, target.as_bytes())
}

pub(crate) fn trailer() -> Vec<u8> {
    raw_entry("TRAILER!!!", 0, (0, 0), 0, &[])
}

/// An order for a bare file system, which the kernel and fsck.erofs can read.
pub(crate) fn plain(source: Source, output: PathBuf) -> ImageRequest {
    ImageRequest {
        container: builder::Container::None,
        ..ImageRequest::new(source, output)
    }
}

/// The listing of an image of a tree: what the builder itself puts in is left
/// out, and its folders where the tree had none.
pub(crate) fn listing_of_image(
    root: &Path,
    expected: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut found = listing(root);
    let ours = "usr/lib/initoverlayfs/image-release";
    assert!(found.remove(ours).is_some(), "the image says what it is");
    for folder in ["usr/lib/initoverlayfs", "usr/lib", "usr"] {
        if !expected.contains_key(folder) {
            found.remove(folder);
        }
    }
    found
}
