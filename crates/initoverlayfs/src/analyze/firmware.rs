//! What firmware and boot loader took.
//!
//! systemd-boot leaves three times in EFI variables (the Boot Loader Interface),
//! in microseconds since the machine was switched on: when it began, when it
//! showed its menu, and when it handed over. A variable's file has four bytes of
//! attributes, then decimal digits in UTF-16LE. The firmware itself may keep a
//! record too (ACPI's Firmware Performance Data Table, in nanoseconds), which
//! systemd prefers, and so does this.
//!
//! Whoever can write EFI variables can write these: a wrong one makes a wrong
//! chart and nothing else.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use installer::FileSource;
use serde::Serialize;

/// The vendor of systemd's variables.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// An hour: a clock that says more does not count from power-on.
const MAX_US: u64 = 3_600_000_000;

/// A path in a variable, in bytes.
const MAX_VARIABLE: u64 = 4 + 2 * 1024;

/// Times since the machine was switched on, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Firmware {
    /// `acpi` or `efi`.
    pub(super) source: &'static str,
    /// When the boot loader was started.
    pub(super) loader_us: u64,
    /// When the kernel was.
    pub(super) kernel_us: u64,
    /// For how long the menu was shown at most: until the kernel was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) menu_us: Option<u64>,
    /// For how long the loader loaded the kernel at most, where there was no menu.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loading_us: Option<u64>,
    /// The UKI that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uki: Option<Uki>,
}

/// A UKI's sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Uki {
    pub(super) size: u64,
    pub(super) initrd: u64,
}

impl Firmware {
    /// Reads what is below `sysfs`; the UKI is looked for below the folders `esp`.
    ///
    /// # Errors
    /// Why there is nothing, as a sentence.
    pub(super) fn read(sysfs: &Path, esp: &[PathBuf]) -> Result<Self, String> {
        let efi = sysfs.join("firmware/efi");
        if !efi.is_dir() {
            return Err("this machine has no EFI: firmware and loader left no times".into());
        }
        let variables = efi.join("efivars");
        let time = |name| number(&variable(&variables, name)?);
        let loader = usable(time("LoaderTimeInitUSec"), time("LoaderTimeExecUSec"));
        let acpi = sysfs.join("firmware/acpi/fpdt/boot");
        let acpi = usable(
            nanoseconds(&acpi.join("bootloader_launch_ns")),
            nanoseconds(&acpi.join("exitbootservice_end_ns")),
        );
        let (source, (loader_us, kernel_us)) = match (acpi, loader) {
            (Some(times), _) => ("acpi", times),
            (None, Some(times)) => ("efi", times),
            (None, None) => {
                return Err(
                    "neither the firmware nor the boot loader left times (systemd-boot does; \
                     efivarfs has to be mounted)"
                        .into(),
                );
            }
        };
        let menu_us = loader.and_then(|(begun, ended)| {
            let shown = time("LoaderTimeMenuUSec")?;
            (begun <= shown && shown <= ended).then(|| ended - shown)
        });
        let loading = loader.map(|(begun, ended)| ended - begun);
        Ok(Self {
            source,
            loader_us,
            kernel_us,
            menu_us,
            loading_us: loading.filter(|_| menu_us.is_none()),
            uki: Uki::find(&variables, esp),
        })
    }
}

impl Uki {
    /// The one that systemd-stub says it is in.
    fn find(variables: &Path, esp: &[PathBuf]) -> Option<Self> {
        let path = variable(variables, "StubImageIdentifier")?.replace('\\', "/");
        let path = Path::new(path.trim_start_matches('/'));
        let plain = |part| matches!(part, Component::Normal(_));
        if path.as_os_str().is_empty() || !path.components().all(plain) {
            return None;
        }
        let file = esp.iter().map(|folder| folder.join(path));
        let file = file.filter(|file| file.is_file()).find_map(|file| {
            let source = FileSource::open(&file).ok()?;
            let size = file.metadata().ok()?.len();
            Some((source, size))
        });
        let (source, size) = file?;
        let image = iofs_pe::Image::read(&source).ok()?;
        let data = image.section(".initrd")?.data();
        Some(Self {
            size,
            initrd: data.end.saturating_sub(data.start).min(size),
        })
    }
}

/// Two times in the right order.
fn usable(begun: Option<u64>, ended: Option<u64>) -> Option<(u64, u64)> {
    let (begun, ended) = (begun?, ended?);
    (0 < begun && begun < ended && ended <= MAX_US).then_some((begun, ended))
}

/// A variable's text, without the end that some writers add.
fn variable(folder: &Path, name: &str) -> Option<String> {
    let bytes = bounded(&folder.join(format!("{name}-{VENDOR}")), MAX_VARIABLE)?;
    let units = bytes.get(4..)?;
    if units.len() % 2 != 0 {
        return None;
    }
    let units = units.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let text = char::decode_utf16(units.take_while(|&unit| unit != 0));
    text.collect::<Result<String, _>>().ok()
}

fn nanoseconds(path: &Path) -> Option<u64> {
    let text = String::from_utf8(bounded(path, 64)?).ok()?;
    number(text.trim_end()).map(|ns| ns / 1000)
}

/// Decimal digits and nothing else.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A whole file of at most `limit` bytes.
pub(super) fn bounded(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(limit + 1).read_to_end(&mut bytes).ok()?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|len| len <= limit);
    fits.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(sysfs: &Path, name: &str, text: &str) {
        let folder = sysfs.join("firmware/efi/efivars");
        fs::create_dir_all(&folder).unwrap();
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        let bytes: Vec<u8> = [6, 0, 0, 0].into_iter().chain(units).collect();
        fs::write(folder.join(format!("{name}-{VENDOR}")), bytes).unwrap();
    }

    fn times(init: &str, exec: &str) -> Result<(u64, u64), String> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "LoaderTimeInitUSec", init);
        write(dir.path(), "LoaderTimeExecUSec", exec);
        Firmware::read(dir.path(), &[]).map(|f| (f.loader_us, f.kernel_us))
    }

    #[test]
    fn variables_are_read() {
        assert_eq!(times("2000000", "3500000\0"), Ok((2_000_000, 3_500_000)));
    }

    #[test]
    fn nonsense_is_no_time() {
        for (init, exec) in [
            ("", "1"),
            ("0", "5"),
            ("5", "5"),
            ("6", "5"),
            ("+1", "5"),
            ("1", "0x5"),
            ("1", "3600000001"),
            ("1", "99999999999999999999999"),
            ("1 ", "5"),
        ] {
            assert!(times(init, exec).is_err(), "{init:?} {exec:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("x-{VENDOR}"));
        for bytes in [
            &[][..],
            &[6, 0, 0],
            &[6, 0, 0, 0, 49],
            &[6, 0, 0, 0, 0, 0xd8],
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(variable(dir.path(), "x"), None, "{bytes:?}");
        }
        fs::write(&path, vec![0; 5000]).unwrap();
        assert_eq!(variable(dir.path(), "x"), None);
    }

    #[test]
    fn the_menus_time_is_not_the_loaders() {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = dir.path();
        write(sysfs, "LoaderTimeInitUSec", "1000");
        write(sysfs, "LoaderTimeExecUSec", "9000");
        let read = Firmware::read(sysfs, &[]).unwrap();
        assert_eq!((read.menu_us, read.loading_us), (None, Some(8000)));
        write(sysfs, "LoaderTimeMenuUSec", "2000");
        let read = Firmware::read(sysfs, &[]).unwrap();
        assert_eq!((read.menu_us, read.loading_us), (Some(7000), None));
    }

    #[test]
    fn the_firmwares_own_record_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = dir.path();
        write(sysfs, "LoaderTimeInitUSec", "1000");
        write(sysfs, "LoaderTimeExecUSec", "9000");
        let boot = sysfs.join("firmware/acpi/fpdt/boot");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("bootloader_launch_ns"), "1500000\n").unwrap();
        fs::write(boot.join("exitbootservice_end_ns"), "9500000\n").unwrap();
        let read = Firmware::read(sysfs, &[]).unwrap();
        assert_eq!(read.source, "acpi");
        assert_eq!((read.loader_us, read.kernel_us), (1500, 9500));
        // A firmware that does not fill it in.
        fs::write(boot.join("exitbootservice_end_ns"), "0\n").unwrap();
        assert_eq!(Firmware::read(sysfs, &[]).unwrap().source, "efi");
    }

    #[test]
    fn what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let why = Firmware::read(dir.path(), &[]).unwrap_err();
        assert!(why.contains("no EFI"), "{why}");
        fs::create_dir_all(dir.path().join("firmware/efi/efivars")).unwrap();
        let why = Firmware::read(dir.path(), &[]).unwrap_err();
        assert!(why.contains("systemd-boot"), "{why}");
    }

    #[test]
    fn a_path_in_a_variable_stays_below_the_esp() {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = dir.path().join("sys");
        let esp = dir.path().join("esp");
        fs::create_dir_all(esp.join("EFI")).unwrap();
        fs::write(dir.path().join("out.efi"), "MZ").unwrap();
        fs::write(esp.join("EFI/bad.efi"), "MZ").unwrap();
        for path in [
            "\\..\\out.efi",
            "",
            "\\",
            "\\EFI",
            "\\EFI\\bad.efi",
            "\\none",
        ] {
            write(&sysfs, "StubImageIdentifier", path);
            let variables = sysfs.join("firmware/efi/efivars");
            let found = Uki::find(&variables, std::slice::from_ref(&esp));
            assert_eq!(found, None, "{path}");
        }
    }
}
