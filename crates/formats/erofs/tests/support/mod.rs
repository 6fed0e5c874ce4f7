//! Images made by mkfs.erofs, and what the other erofs-utils say of them.

// Each test binary uses a part of this; helpers of tests may panic as tests do.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{XattrFlags, lsetxattr};
use tempfile::TempDir;

/// `cap_net_raw+ep` as `struct vfs_cap_data`, revision 2.
const CAP_NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Runs a tool; panics with its output if it fails.
pub(crate) fn tool(name: &str, args: &[&str]) -> Output {
    let output = Command::new(name)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{name} is needed (Debian: erofs-utils): {error}"));
    assert!(
        output.status.success(),
        "{name} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) dir: TempDir,
    pub(crate) path: PathBuf,
}

impl Image {
    pub(crate) fn make(options: &[&str], tree: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut args = vec!["--quiet"];
        args.extend_from_slice(options);
        args.extend_from_slice(&[path.to_str().unwrap(), tree.to_str().unwrap()]);
        tool("mkfs.erofs", &args);
        Self { dir, path }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// What dump.erofs prints with these options.
    pub(crate) fn dump(&self, options: &[&str]) -> String {
        let mut args = options.to_vec();
        args.push(self.path.to_str().unwrap());
        String::from_utf8(tool("dump.erofs", &args).stdout).unwrap()
    }
}

/// The value behind `name:` in a listing.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix(':'))
        .map(str::trim)
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// Bytes that do not compress.
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

/// A tree with everything that an initrd has.
pub(crate) fn plant(root: &Path) {
    for dir in ["etc/deep/er", "usr/bin", "many", "!hot", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let text = "all work and no play makes jack a dull boy\n".repeat(9000);
    fs::write(root.join("usr/bin/tool"), &text).unwrap();
    fs::write(root.join("usr/bin/noise"), noise(300_000, 1)).unwrap();
    for len in [0, 1, 100, 4000, 4095, 4096, 4097, 8191, 8192, 65_536] {
        fs::write(root.join(format!("etc/deep/{len}")), noise(len, len as u64)).unwrap();
    }
    fs::hard_link(root.join("usr/bin/tool"), root.join("!hot/0001")).unwrap();
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/again")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink("x".repeat(1000), root.join("etc/long-link")).unwrap();
    for index in 0..900 {
        fs::write(root.join(format!("many/{index:04}-of-many-files")), []).unwrap();
    }
    let path = |name: &str| root.join(name).to_str().unwrap().to_string();
    tool("mknod", &[&path("etc/null"), "c", "1", "3"]);
    tool("mknod", &[&path("etc/disk"), "b", "259", "70000"]);
    tool("mknod", &[&path("etc/pipe"), "p"]);
    tool("chown", &["70000:80000", &path("etc/deep/100")]);
    tool("chown", &["12:34", &path("etc/deep/1")]);
    tool("chmod", &["4751", &path("usr/bin/noise")]);
    let set = |name: &str, key: &str, value: &[u8]| {
        lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("usr/bin/noise", "security.capability", &CAP_NET_RAW);
    for index in 0..6 {
        let name = format!("many/{index:04}-of-many-files");
        set(&name, "user.shared", b"the same value everywhere");
    }
    set("etc/deep/1", "user.own", b"one");
    set("etc/deep/1", "trusted.other", b"two");
}

/// All paths of a tree on this machine, from `/`, ascending in bytes by
/// component, as a walk of the image yields them.
pub(crate) fn paths(root: &Path) -> Vec<(Vec<u8>, fs::Metadata)> {
    let mut found = vec![(b"/".to_vec(), fs::symlink_metadata(root).unwrap())];
    list(root, b"", &mut found);
    found
}

fn list(dir: &Path, prefix: &[u8], found: &mut Vec<(Vec<u8>, fs::Metadata)>) {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for name in names {
        let path = dir.join(&name);
        let full = [prefix, b"/", name.as_bytes()].concat();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let is_dir = metadata.is_dir();
        found.push((full.clone(), metadata));
        if is_dir {
            list(&path, &full, found);
        }
    }
}
