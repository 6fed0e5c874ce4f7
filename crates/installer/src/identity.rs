//! What a root tree says about itself: machine id, entry token, name, kernel
//! command line. Sources: machine-id(5), kernel-install(8), os-release(5).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::error::{ErrorKind, InstallError};

/// Each of these files is one or a few short lines.
const MAX_LEN: u64 = 64 << 10;

/// How the first part of the entry's name is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EntryToken {
    /// Of /etc/kernel/entry-token, the machine id and the product, the first
    /// that puts the image where the plan looks for it.
    #[default]
    Auto,
    /// The machine id in /etc/machine-id.
    MachineId,
    /// The product of the set.
    Product,
    /// This.
    Literal(String),
}

impl std::str::FromStr for EntryToken {
    type Err = String;

    /// Reads `auto`, `machine-id`, `product` or `literal:TOKEN`, as
    /// kernel-install's option of that name does.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "machine-id" => Ok(Self::MachineId),
            "product" => Ok(Self::Product),
            _ => match text.strip_prefix("literal:") {
                Some(token) => check_name(token).map(|()| Self::Literal(token.into())),
                None => Err("use auto, machine-id, product or literal:TOKEN".into()),
            },
        }
    }
}

/// Checks a part of the entry's name: what the Boot Loader Specification allows
/// in file names, so that it is the same on FAT.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-_.".contains(&b);
    if name.is_empty() || name.len() > 128 {
        return Err(format!("{name:?} must have 1 to 128 characters"));
    }
    if name.starts_with('.') || name.ends_with('.') || !name.bytes().all(allowed) {
        return Err(format!(
            "{name:?} may hold only letters, digits and + - _ . and no dot at either end"
        ));
    }
    Ok(())
}

/// The entry tokens to try, in order, each with where it comes from.
pub(crate) fn tokens(
    root: &Path,
    token: &EntryToken,
    product: &str,
) -> Result<Vec<(String, &'static str)>, InstallError> {
    let mut found = Vec::new();
    match token {
        EntryToken::Literal(token) => found.push((token.clone(), "--entry-token")),
        EntryToken::Product => found.push((product.to_owned(), "the product")),
        EntryToken::MachineId => match machine_id(root)? {
            Some(id) => found.push((id, "/etc/machine-id")),
            None => {
                return Err(InstallError::new(
                    ErrorKind::Invalid,
                    format!("{} has no machine id", root.display()),
                )
                .with_hint("run systemd-machine-id-setup, or use another --entry-token"));
            }
        },
        EntryToken::Auto => {
            if let Some(token) = first_line(&root.join("etc/kernel/entry-token"))? {
                found.push((token, "/etc/kernel/entry-token"));
            }
            if let Some(id) = machine_id(root)? {
                found.push((id, "/etc/machine-id"));
            }
            found.push((product.to_owned(), "the product"));
        }
    }
    for (token, origin) in &found {
        check_name(token).map_err(|why| {
            InstallError::new(
                ErrorKind::Invalid,
                format!("the entry token of {origin} cannot be used: {why}"),
            )
            .with_hint("choose one with --entry-token literal:TOKEN")
        })?;
    }
    Ok(found)
}

/// The machine id: 32 hex digits, or nothing if it is not set yet.
pub(crate) fn machine_id(root: &Path) -> Result<Option<String>, InstallError> {
    let id = first_line(&root.join("etc/machine-id"))?;
    Ok(id.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())))
}

/// `PRETTY_NAME` of the root's os-release.
pub(crate) fn pretty_name(root: &Path) -> Result<Option<String>, InstallError> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        let Some(text) = read(&root.join(path))? else {
            continue;
        };
        let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
        let name = name.map(|n| n.trim().trim_matches(['"', '\'']).replace('\\', ""));
        // It becomes a line of the entry: nothing but printable text.
        return Ok(name.filter(|n| !n.is_empty() && n.len() < 200 && !n.contains(char::is_control)));
    }
    Ok(None)
}

/// Kernel arguments of the root: its /etc/kernel/cmdline, else, if it is the
/// running system's, those that it was booted with.
///
/// `None` if there is neither.
pub(crate) fn cmdline(
    root: &Path,
    running: bool,
    proc: &Path,
) -> Result<Option<String>, InstallError> {
    if let Some(text) = read(&root.join("etc/kernel/cmdline"))? {
        return Ok(Some(one_line(&text)));
    }
    if !running {
        return Ok(None);
    }
    let text = read(&proc.join("cmdline"))?;
    Ok(text.map(|text| filtered(&text)))
}

/// A command line in one line, as kernel-install joins /etc/kernel/cmdline.
pub(crate) fn one_line(text: &str) -> String {
    text.split(['\n', '\r', '\0'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The command line without what the boot loader of this boot had added for
/// itself: `BOOT_IMAGE=` and `initrd=`, which name files of another entry.
fn filtered(text: &str) -> String {
    let text = one_line(text);
    let mut quoted = false;
    text.split(|c: char| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    })
    .filter(|word| {
        let bare = word.trim_start_matches('"');
        !word.is_empty() && !bare.starts_with("BOOT_IMAGE=") && !bare.starts_with("initrd=")
    })
    .collect::<Vec<_>>()
    .join(" ")
}

fn first_line(path: &Path) -> Result<Option<String>, InstallError> {
    let text = read(path)?;
    Ok(text.and_then(|text| {
        let line = text.lines().next().unwrap_or("").trim();
        (!line.is_empty()).then(|| line.to_owned())
    }))
}

/// The file's text, bytes that are not UTF-8 replaced; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, InstallError> {
    let mut bytes = Vec::new();
    let done = fs::metadata(path).and_then(|found| {
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        File::open(path)?.take(MAX_LEN).read_to_end(&mut bytes)
    });
    match done {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(InstallError::io("read", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_boot_loaders_own_words_are_dropped() {
        assert_eq!(
            filtered(
                "BOOT_IMAGE=/vmlinuz root=UUID=1 quiet  initrd=\\a\\b dyndbg=\"file a b\" rd.initrd=1\n"
            ),
            "root=UUID=1 quiet dyndbg=\"file a b\" rd.initrd=1"
        );
        assert_eq!(filtered("\"initrd=a b\" x"), "x");
    }

    #[test]
    fn lines_of_a_command_line_are_joined() {
        assert_eq!(
            one_line("root=/dev/vda2\n  quiet\n\n"),
            "root=/dev/vda2 quiet"
        );
    }

    #[test]
    fn a_token_cannot_leave_its_folder() {
        for bad in ["", "..", ".a", "a/b", "a b", "a\\b", "ä", "a.", "a~b"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("debian-13_6.12+deb13").unwrap();
    }

    #[test]
    fn an_unset_machine_id_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        assert_eq!(machine_id(dir.path()).unwrap(), None);
        fs::write(dir.path().join("etc/machine-id"), "uninitialized\n").unwrap();
        assert_eq!(machine_id(dir.path()).unwrap(), None);
        let id = "0123456789abcdef0123456789abcdef";
        fs::write(dir.path().join("etc/machine-id"), format!("{id}\n")).unwrap();
        assert_eq!(machine_id(dir.path()).unwrap().as_deref(), Some(id));
    }
}
