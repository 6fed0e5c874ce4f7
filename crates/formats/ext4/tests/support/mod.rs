//! Images made by the real tools, and ways to look at them.

// Each test binary uses a part of this; helpers of tests may panic as tests do.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use iofs_ext4::{Ext4, Ext4Error};
use iofs_source::{Mapped, ReadAt, ReadError, ReadErrorKind};
use tempfile::TempDir;

/// A file as a medium.
#[derive(Debug)]
pub(crate) struct Disk(pub(crate) File);

impl ReadAt for Disk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_exact_at(buf, offset).map_err(|_| ReadError {
            offset,
            len: buf.len() as u64,
            kind: ReadErrorKind::OutOfBounds { size: self.size() },
        })
    }

    fn size(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }
}

/// Runs a tool of e2fsprogs; panics with its output if it fails.
pub(crate) fn tool(name: &str, args: &[&str]) -> Output {
    let output = run(name, args);
    assert!(
        output.status.success(),
        "{name} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub(crate) fn run(name: &str, args: &[&str]) -> Output {
    Command::new(name)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("MKE2FS_DEVICE_SECTSIZE", "512")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{name} is needed (Debian: e2fsprogs): {error}"))
}

/// A file system image and a folder for whatever else the test needs.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) dir: TempDir,
    pub(crate) path: PathBuf,
}

impl Image {
    /// An image of `size` (as mke2fs takes it) with the contents of `tree`.
    pub(crate) fn make(options: &[&str], size: &str, tree: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut args = vec!["-q", "-F", "-E", "root_owner=0:0"];
        args.extend_from_slice(options);
        if let Some(tree) = tree {
            args.extend_from_slice(&["-d", tree.to_str().unwrap()]);
        }
        args.extend_from_slice(&[path.to_str().unwrap(), size]);
        tool("mke2fs", &args);
        Self { dir, path }
    }

    pub(crate) fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        // Keeps the holes, so that a large image stays cheap.
        tool(
            "cp",
            &[
                "--sparse=always",
                self.path.to_str().unwrap(),
                path.to_str().unwrap(),
            ],
        );
        Self { dir, path }
    }

    pub(crate) fn open(&self) -> Result<Ext4<Disk>, Ext4Error> {
        Ext4::open(Disk(File::open(&self.path).unwrap()))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Runs debugfs commands, one a line, on the image. debugfs exits with 0
    /// whatever happens: what it complains about is returned.
    pub(crate) fn debugfs(&self, commands: &[u8]) -> String {
        let mut child = Command::new("/sbin/debugfs")
            .args(["-w", "-f", "-"])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("debugfs is needed (Debian: e2fsprogs): {error}"));
        child.stdin.take().unwrap().write_all(commands).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout)
    }

    /// One query; debugfs' answer.
    pub(crate) fn ask(&self, query: &str) -> String {
        let output = tool("debugfs", &["-R", query, self.path.to_str().unwrap()]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The bytes of a file, as debugfs reads them.
    pub(crate) fn dump(&self, path: &str) -> Vec<u8> {
        let out = self.dir.path().join("dump");
        let _ = fs::remove_file(&out);
        tool(
            "debugfs",
            &[
                "-R",
                &format!("dump {path} {}", out.display()),
                self.path.to_str().unwrap(),
            ],
        );
        fs::read(&out).unwrap()
    }

    /// Checks the image and repairs nothing.
    pub(crate) fn assert_clean(&self) {
        tool("e2fsck", &["-fn", self.path.to_str().unwrap()]);
    }
}

/// The bytes of a file, through the map of its extents.
pub(crate) fn contents(image: &Image, ext4: &Ext4<Disk>, path: &str) -> Vec<u8> {
    let map = ext4
        .locate(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut bytes = vec![0; usize::try_from(map.size).unwrap()];
    Mapped::new(Disk(File::open(&image.path).unwrap()), &map)
        .read_at(0, &mut bytes)
        .unwrap();
    bytes
}

/// Bytes that differ in every block and repeat nowhere.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
