//! `/run/initoverlayfs/boot.json`: what the boot did, for `initoverlayfs analyze`
//! and for anyone who asks later.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use iofs_plan::Auth;
use kernel_abi::{file, process};

use crate::image::{Found, Place};
use crate::log::{Log, Stage};
use crate::modules::Loader;
use crate::settings::Settings;
use crate::stack::ImageDevice;

const FOLDER: &str = "/run/initoverlayfs";

/// Writes it. A boot does not fail for want of a record: failures are logged.
pub fn write(
    log: &mut Log,
    settings: &Settings,
    found: &Found,
    device: &ImageDevice,
    modules: &Loader<'_>,
    init: &str,
) {
    let text = render(&log.stages, settings, found, device, modules, init);
    let result = file::mkdir(FOLDER)
        .and_then(|()| file::write(&format!("{FOLDER}/boot.json"), text.as_bytes()));
    if let Err(error) = result {
        log.warn(format_args!("no record of this boot: {error}"));
    }
}

/// The document, of format version 1: times are microseconds, sizes bytes.
#[must_use]
pub fn render(
    stages: &[Stage],
    settings: &Settings,
    found: &Found,
    device: &ImageDevice,
    modules: &Loader<'_>,
    init: &str,
) -> String {
    let extents = match &found.place {
        Place::Partition => 0,
        Place::File(map) => map.extents.len(),
    };
    let stages: Vec<String> = stages
        .iter()
        .map(|stage| format!("{{\"name\":{},\"us\":{}}}", quote(stage.name), stage.micros))
        .collect();
    let records: Vec<String> = modules
        .records
        .iter()
        .map(|record| {
            format!(
                "{{\"name\":{},\"us\":{},\"errno\":{}}}",
                quote(modules.name(record.index)),
                record.micros,
                record.errno
            )
        })
        .collect();
    let optional = |text: Option<&str>| text.map_or("null".into(), quote);
    let auth = match settings.plan.auth {
        Auth::None => "none",
    };
    format!(
        concat!(
            "{{\"version\":1,",
            "\"storage_init\":{storage_init},\"kernel\":{kernel},\"product\":{product},",
            "\"auth\":{auth},",
            "\"image\":{{\"candidate\":{candidate},\"partition\":{partition},",
            "\"partuuid\":{partuuid},\"file\":{file},\"extents\":{extents},",
            "\"uuid\":{uuid},\"size\":{size},\"device\":{device},\"layout\":{layout}}},",
            "\"init\":{init},\"stages\":[{stages}],\"modules\":[{modules}]}}\n"
        ),
        storage_init = quote(env!("CARGO_PKG_VERSION")),
        kernel = quote(&process::kernel_release()),
        product = quote(&settings.plan.product),
        auth = quote(auth),
        candidate = quote(&found.candidate.name),
        partition = quote(found.device.path()),
        partuuid = quote(&format!("{}", found.part.entry.part_guid)),
        file = optional(found.candidate.file.as_deref()),
        extents = extents,
        uuid = quote(&format!("{}", found.uuid)),
        size = found.size,
        device = quote(&device.path),
        layout = quote(&device.describe()),
        init = quote(init),
        stages = stages.join(","),
        modules = records.join(","),
    )
}

/// A JSON string (RFC 8259): quotes, backslashes and controls escaped.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            control if u32::from(control) < 0x20 => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quote("a\"b\\c\nü"), "\"a\\\"b\\\\c\\u000aü\"");
    }
}
