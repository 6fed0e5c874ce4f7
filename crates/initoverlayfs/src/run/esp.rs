//! A disk that UEFI firmware boots a built set from.
//!
//! The set is installed by the installer itself. systemd-boot starts it where
//! this machine has it; else the firmware's own shell does, by a start-up script
//! that hands the entry's files and arguments to the kernel's EFI stub.

use std::fs;
use std::path::Path;

use installer::manifest::Place;
use installer::{BuiltSet, EntryToken, Options, Silent};
use iofs_plan::Selector;

use super::disk::PartitionedDisk;
use crate::error::{CliError, Result};

const SYSTEMD_BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";

/// Room for FAT's tables, the boot loader and the entry.
const SLACK: u64 = 16 << 20;

/// Makes the disk.
pub(super) fn make(path: &Path, set: &BuiltSet, place: &Place, cmdline: &str) -> Result<()> {
    let esp_type = Selector::TypeGuid(installer::ESP_TYPE);
    let file = match &place.file {
        Some(file) if place.selector()? == esp_type => file,
        _ => {
            return Err(CliError::usage(format!(
                "--firmware ovmf starts sets whose image is on the ESP; this one's is on {}",
                place.name
            ))
            .hint("build with --image-on esp, or run with --firmware none"));
        }
    };
    let stage = tempfile::tempdir()
        .map_err(|e| CliError::new("cannot make a temporary folder").source(e))?;
    let (root, esp) = (stage.path().join("root"), stage.path().join("esp"));
    for dir in [&root, &esp] {
        fs::create_dir(dir).map_err(|e| CliError::io("make the folder", dir, e))?;
    }
    let options = Options {
        boot: Some(esp.clone()),
        esp: Some(esp.clone()),
        entry_token: token_of(file),
        cmdline: Some(cmdline.into()),
        image_partitions: Vec::new(),
        dry_run: false,
    };
    // A UKI has its own arguments; a run has more.
    let mut set = set.clone();
    set.manifest.uki = None;
    installer::install(&root, &set, &options, &Silent)?;
    add_loader(&esp, file, cmdline)?;

    let size: u64 = set.artefacts().iter().map(|a| a.size).sum();
    let disk = PartitionedDisk::create(path, &esp_type, size.saturating_add(SLACK))?;
    disk.make_fat()?;
    disk.put_tree(&esp)
}

/// The token that puts the image at `file`: its first folder.
fn token_of(file: &str) -> EntryToken {
    match file.split('/').nth(1) {
        Some(token) => EntryToken::Literal(token.into()),
        None => EntryToken::Product,
    }
}

fn add_loader(esp: &Path, file: &str, cmdline: &str) -> Result<()> {
    let loader = Path::new(SYSTEMD_BOOT);
    if loader.is_file() {
        let to = esp.join("EFI/BOOT");
        fs::create_dir_all(&to).map_err(|e| CliError::io("make the folder", &to, e))?;
        let to = to.join("BOOTX64.EFI");
        fs::copy(loader, &to).map_err(|e| CliError::io("copy the boot loader to", &to, e))?;
        return Ok(());
    }
    let to = esp.join("startup.nsh");
    fs::write(&to, script(file, cmdline)).map_err(|e| CliError::io("write", &to, e))
}

/// The shell's script. It wants backslashes, and quotes arguments as the kernel
/// does, save that `^` quotes the next character and `%` names a variable.
fn script(file: &str, cmdline: &str) -> String {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let folder = folder.replace('/', "\\");
    let mut quoted = String::new();
    for c in cmdline.chars() {
        if "^%<>|#".contains(c) {
            quoted.push('^');
        }
        quoted.push(c);
    }
    format!("FS0:\r\n{folder}\\linux initrd={folder}\\initrd {quoted}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_hands_over_files_and_arguments() {
        assert_eq!(
            script("/p/1/image.erofs", "console=ttyS0 a=%b"),
            "FS0:\r\n\\p\\1\\linux initrd=\\p\\1\\initrd console=ttyS0 a=^%b\r\n"
        );
        assert_eq!(
            token_of("/p/1/image.erofs"),
            EntryToken::Literal("p".into())
        );
    }
}
