//! `/run/initoverlayfs/boot.json`: what the boot did, for `initoverlayfs analyze`
//! and for anyone who asks later.

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};

use iofs_cmdline::Mode;
use iofs_plan::Stage as What;
use kernel_abi::{file, process};

use crate::direct;
use crate::extensions::Outcome;
use crate::image::{Found, Place};
use crate::log::{Log, Stage};
use crate::modules::Loader;
use crate::report::join;
use crate::schedule::Node;
use crate::settings::Settings;
use crate::stack::ImageDevice;

/// Where this and other records of the boot are.
pub const FOLDER: &str = "/run/initoverlayfs";

/// Where it is for everyone.
pub const PATH: &str = "/run/initoverlayfs/boot.json";

/// Where it is too, in the image's own root: initramfs-tools mounts a `/run` of
/// its own over the one that it is handed. [`crate::run_init`] carries this one
/// on then.
pub const COPY: &str = "/.initoverlayfs/boot.json";

/// Writes it. A boot does not fail for want of a record: failures are logged.
pub fn write(
    log: &mut Log,
    settings: &Settings,
    found: &Found,
    device: &ImageDevice,
    merged: &[Outcome],
    modules: &Loader<'_>,
    init: &str,
) {
    let text = render(&log.stages, settings, found, device, merged, modules, init);
    for path in [PATH, COPY] {
        if let Err(error) = put(path, text.as_bytes()) {
            log.warn(format_args!("no record of this boot: {error}"));
        }
    }
}

/// Writes the record of a boot without the image, whose place `root` takes; `usr` is
/// said of a /usr of its own.
pub fn write_direct(
    log: &mut Log,
    settings: &Settings,
    root: &direct::Found,
    usr: Option<&str>,
    modules: &Loader<'_>,
    init: &str,
) {
    let usr = match usr {
        Some(usr) => format!("{}", Quoted(usr)),
        None => "null".into(),
    };
    let text = format!(
        "{{{head},\"auth\":\"none\",\"root_hash\":null,\"image\":null,\
         \"root\":{{\"partition\":{device},\"file_system\":{kind},\"usr\":{usr}}},{tail}}}\n",
        head = head(settings, Mode::Direct.name()),
        device = Quoted(&root.device),
        kind = Quoted(&root.kind),
        tail = tail(&log.stages, modules, init),
    );
    if let Err(error) = put(PATH, text.as_bytes()) {
        log.warn(format_args!("no record of this boot: {error}"));
    }
}

/// Writes a record, making its folder.
///
/// # Errors
/// The kernel's.
pub fn put(path: &str, text: &[u8]) -> kernel_abi::Result<()> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    file::mkdir(folder)?;
    file::write(path, text)
}

/// The document, of format version 1: times are microseconds, sizes bytes. `at` is
/// since the kernel started, as a stage's `us`; a module's or pack's `us` is how
/// long it took, up to now for one that is `running`.
#[must_use]
pub fn render(
    stages: &[Stage],
    settings: &Settings,
    found: &Found,
    device: &ImageDevice,
    merged: &[Outcome],
    modules: &Loader<'_>,
    init: &str,
) -> String {
    let extents = match &found.place {
        Place::Partition | Place::Disk | Place::Partitions { .. } => 0,
        Place::File(map) => map.extents.len(),
    };
    let file = match &found.candidate.file {
        Some(file) => format!("{}", Quoted(file)),
        None => "null".into(),
    };
    // No device: the mini-initramfs, which is gone.
    let partition = match found.part.is_embedded() {
        true => "null".into(),
        false => format!("{}", Quoted(&found.part.device())),
    };
    let auth = settings.plan.auth.name();
    let root_hash = match &found.proof {
        Some(proof) => format!("\"{}\"", proof.trees.root),
        None => "null".into(),
    };
    format!(
        concat!(
            "{{{head},",
            "\"auth\":{auth},\"root_hash\":{root_hash},",
            "\"image\":{{\"candidate\":{candidate},\"partition\":{partition},",
            "\"partuuid\":\"{partuuid}\",\"file\":{file},\"extents\":{extents},",
            "\"uuid\":\"{uuid}\",\"size\":{size},\"device\":{device},\"layout\":{layout}}},",
            "\"extensions\":[{extensions}],{tail}}}\n"
        ),
        head = head(settings, mode(settings)),
        auth = Quoted(auth),
        root_hash = root_hash,
        candidate = Quoted(&found.candidate.name),
        partition = partition,
        partuuid = found.part.entry.part_guid,
        file = file,
        extents = extents,
        uuid = found.uuid,
        size = found.size,
        device = Quoted(&device.path),
        layout = Quoted(&device.describe()),
        extensions = join(&mut merged.iter().map(extension), ","),
        tail = tail(stages, modules, init),
    )
}

/// The record of an extension: `merged`, and why it is trusted, or `refused`, and why.
fn extension(outcome: &Outcome) -> String {
    format!(
        "{{\"name\":{},\"kind\":{},\"state\":\"{}\",\"why\":{}}}",
        Quoted(&outcome.name),
        outcome
            .kind
            .map_or_else(|| "null".into(), |kind| format!("\"{}\"", kind.name())),
        if outcome.merged { "merged" } else { "refused" },
        Quoted(&outcome.why),
    )
}

/// The members that every record begins with.
fn head(settings: &Settings, mode: &str) -> String {
    format!(
        "\"version\":1,\"storage_init\":{},\"kernel\":{},\"product\":{},\"mode\":\"{}\"",
        Quoted(env!("CARGO_PKG_VERSION")),
        Quoted(&process::kernel_release()),
        Quoted(&settings.plan.product),
        mode
    )
}

/// How a boot through the image goes on.
fn mode(settings: &Settings) -> &'static str {
    match settings.plan.stage {
        What::Initrd => Mode::Initrd.name(),
        What::System => "stay",
    }
}

/// The members that every record ends with.
fn tail(stages: &[Stage], modules: &Loader<'_>, init: &str) -> String {
    let mut stages = stages.iter().map(|stage| {
        format!(
            "{{\"name\":{},\"us\":{}}}",
            Quoted(stage.name),
            stage.micros
        )
    });
    let mut records = of_kind(modules, |node| matches!(node, Node::Module(_)));
    let mut packs = of_kind(modules, |node| matches!(node, Node::Pack(_)));
    format!(
        "\"init\":{},\"stages\":[{}],\"modules\":[{}],\"packs\":[{}]",
        Quoted(init),
        join(&mut stages, ","),
        join(&mut records, ","),
        join(&mut packs, ",")
    )
}

/// The records of modules or of packs, each an object; `running` are those whose
/// end this process does not see.
fn of_kind<'a>(
    modules: &'a Loader<'_>,
    wanted: fn(Node) -> bool,
) -> impl Iterator<Item = String> + 'a {
    let ended = modules
        .records
        .iter()
        .cloned()
        .map(|record| (record, false));
    let running = modules.running().map(|record| (record, true));
    ended
        .chain(running)
        .filter(move |(record, _)| wanted(record.node))
        .map(|(record, running)| {
            format!(
                "{{\"name\":{},\"at\":{},\"us\":{},\"errno\":{}{}}}",
                Quoted(modules.node_name(record.node)),
                record.at,
                record.micros,
                record.errno,
                if running { ",\"running\":true" } else { "" },
            )
        })
}

/// A JSON string (RFC 8259): quotes, backslashes and controls escaped.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => {
                    f.write_char('\\')?;
                    f.write_char(character)?;
                }
                control if u32::from(control) < 0x20 => {
                    write!(f, "\\u{:04x}", u32::from(control))?;
                }
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(
            format!("{}", Quoted("a\"b\\c\nü")),
            "\"a\\\"b\\\\c\\u000aü\""
        );
    }
}
