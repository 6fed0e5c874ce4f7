//! Merged hierarchies: overlays over `/usr`, `/opt` and `/etc` of the new root, made
//! as systemd-sysext and systemd-confext make theirs.
//!
//! The uppermost layer holds nothing but a record of who is merged, by which systemd
//! knows such a mount for one of its own: `systemd-sysext status` shows it, `refresh`
//! and `unmerge` take it away. Below are the extensions, the last in order first, and
//! at the bottom what the root has there itself. All of it is read-only.

use alloc::format;
use alloc::string::String;

use iofs_extension::Kind;
use kernel_abi::file;
use kernel_abi::mount::{self, Flags};

/// A mounted extension: its name and where.
pub type Layer<'a> = (&'a str, &'a str);

/// Merges `layers`, which are in order, into the root at `root`. The records lie in
/// the folder `work`, which outlives the overlays' making only. Returns the
/// hierarchies that have something of them.
///
/// # Errors
/// The kernel's. What was merged before stays.
pub fn merge(
    kind: Kind,
    layers: &[Layer<'_>],
    root: &str,
    work: &str,
) -> kernel_abi::Result<String> {
    let mut merged = String::new();
    for hierarchy in kind.hierarchies() {
        let target = format!("{root}/{hierarchy}");
        let below = file::folder(&target);
        // A link would lead out of the new root.
        if below.is_none() && file::exists(&target) {
            continue;
        }
        let mut lower = String::new();
        for (_, mounted) in layers.iter().rev() {
            let path = format!("{mounted}/{hierarchy}");
            if file::folder(&path).is_some() && !file::list(&path)?.is_empty() {
                lower.push(':');
                lower.push_str(&path);
            }
        }
        if lower.is_empty() {
            continue;
        }
        let meta = format!("{work}/{}-{hierarchy}", kind.name());
        let record = format!("{meta}/.systemd-{}", kind.name());
        file::mkdir(&meta)?;
        file::mkdir(&record)?;
        match below {
            // The hierarchy's own mode is that of the uppermost layer.
            Some(below) => file::chmod(&meta, below.mode)?,
            None => file::mkdir(&target)?,
        }
        let mut names = String::new();
        for (name, _) in layers {
            names.push_str(name);
            names.push('\n');
        }
        file::write(&format!("{record}/{}", kind.plural()), names.as_bytes())?;
        let options = format!("lowerdir={meta}{lower}:{target}");
        mount::mount(kind.name(), &target, "overlay", flags(kind), &options)?;
        // Only now is there a number to be written.
        if let Some(folder) = file::folder(&target) {
            let (major, minor) = folder.device;
            let number = format!("{major}:{minor}\n");
            file::write(&format!("{record}/dev"), number.as_bytes())?;
        }
        merged.push_str(" /");
        merged.push_str(hierarchy);
    }
    Ok(merged)
}

/// The mount flags that systemd gives such an overlay.
fn flags(kind: Kind) -> Flags {
    let common = Flags::RDONLY | Flags::NODEV;
    match kind {
        Kind::Sysext => common,
        Kind::Confext => common | Flags::NOSUID | Flags::NOEXEC,
    }
}
