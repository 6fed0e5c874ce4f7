//! What the firmware booted from.
//!
//! systemd-stub and systemd-boot say it in EFI variables (the Boot Loader
//! Interface): a partition's GUID as text. That needs efivarfs, a module in most
//! kernels, so it is only asked for where it decides something. The variables
//! choose among partitions that are there; what is on them proves itself.

use alloc::format;
use alloc::string::String;

use iofs_plan::Uuid;
use kernel_abi::file;
use kernel_abi::mount::{self, Flags};

use crate::log::Log;
use crate::modules::Loader;
use crate::paths::Paths;

/// The vendor of systemd's variables.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The stub knows best: it is what was started last.
const VARIABLES: [&str; 2] = ["StubDevicePartUUID", "LoaderDevicePartUUID"];

/// A variable has four bytes of attributes, then the text of a GUID in UTF-16,
/// perhaps with braces and an end.
const MAX_LEN: usize = 4 + 2 * 48;

/// The GUID of the partition that the kernel came from, where the machine has
/// EFI and the loader says it.
pub fn booted_from(paths: &Paths, modules: &mut Loader<'_>, log: &mut Log) -> Option<Uuid> {
    let efi = format!("{}/firmware/efi", paths.sys);
    if !file::exists(&efi) {
        return None;
    }
    let folder = format!("{efi}/efivars");
    let find = || {
        VARIABLES
            .iter()
            .find_map(|name| read(&format!("{folder}/{name}-{VENDOR}")))
    };
    if let Some(guid) = find() {
        return Some(guid);
    }
    modules.load_named("efivarfs", log);
    let flags = Flags::NOSUID | Flags::NODEV | Flags::NOEXEC | Flags::RDONLY;
    if let Err(error) = mount::mount("efivarfs", &folder, "efivarfs", flags, "") {
        log.debug(format_args!("the firmware's variables: {error}"));
        return None;
    }
    let guid = find();
    // The next init mounts it as it likes.
    if let Err(error) = mount::detach(&folder) {
        log.warn(format_args!("{error}"));
    }
    match guid {
        Some(guid) => log.info(format_args!("booted from PARTUUID={guid}")),
        None => log.debug(format_args!(
            "the boot loader does not say what it booted from"
        )),
    }
    guid
}

fn read(path: &str) -> Option<Uuid> {
    parse(&file::read(path, MAX_LEN).ok()?)
}

/// The GUID that a variable's bytes say.
fn parse(bytes: &[u8]) -> Option<Uuid> {
    let units = bytes.get(4..)?.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let text: String = char::decode_utf16(units.take_while(|&unit| unit != 0))
        .collect::<Result<_, _>>()
        .ok()?;
    Uuid::parse_str(text.trim_matches(['{', '}'])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn variable(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        [6, 0, 0, 0].into_iter().chain(units).collect()
    }

    #[test]
    fn a_guid_is_read() {
        let guid = Uuid::from_u128(0x4a67_b082_0a4c_41cf_b6c7_440b_29bb_8c4f);
        for text in [
            "4A67B082-0A4C-41CF-B6C7-440B29BB8C4F",
            "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f\0",
            "{4a67b082-0a4c-41cf-b6c7-440b29bb8c4f}",
        ] {
            assert_eq!(parse(&variable(text)), Some(guid), "{text}");
        }
    }

    #[test]
    fn anything_else_is_nothing() {
        for text in ["", "\0", "no guid", "4a67b082-0a4c-41cf-b6c7-440b29bb8c4"] {
            assert_eq!(parse(&variable(text)), None, "{text}");
        }
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[6, 0, 0]), None);
        // Half a surrogate pair.
        assert_eq!(parse(&[6, 0, 0, 0, 0, 0xd8]), None);
    }
}
