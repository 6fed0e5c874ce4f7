//! What a loader needs to know that puts the image into memory.

use std::path::Path;

use serde::Serialize;

use crate::error::{CliError, Result};

/// What size and address are multiples of, in bytes: a huge page, which the kernel maps
/// such memory with, and the least that two parts of one memory section may differ by.
const ALIGNMENT: u64 = 2 << 20;

/// Memory for an image. Numbers are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// Where the image begins.
    address: u64,
    /// How much is set apart.
    size: u64,
    /// What both are multiples of.
    alignment: u64,
    /// What has to be on the kernel command line.
    pub(super) kernel_argument: String,
    /// What has QEMU put the image there.
    qemu: [String; 2],
}

impl Memory {
    /// For an image of `len` bytes at `address`.
    pub(super) fn of(image: &Path, len: u64, address: u64) -> Result<Self> {
        let size = len
            .checked_next_multiple_of(ALIGNMENT)
            .filter(|size| address.checked_add(*size).is_some())
            .ok_or_else(|| {
                CliError::usage(format!("--memory {address:#x}: no image fits behind that"))
            })?;
        // QEMU's option parser takes a doubled comma for one.
        let file = image.display().to_string().replace(',', ",,");
        Ok(Self {
            address,
            size,
            alignment: ALIGNMENT,
            kernel_argument: format!("memmap={size:#x}!{address:#x}"),
            qemu: [
                "-device".into(),
                format!("loader,file={file},addr={address:#x},force-raw=on"),
            ],
        })
    }

    /// The kernel's arguments with this one, once.
    pub(super) fn cmdline(&self, others: Option<&str>) -> String {
        let others = others.unwrap_or_default();
        let mut words: Vec<&str> = others.split_ascii_whitespace().collect();
        if !words.contains(&self.kernel_argument.as_str()) {
            // Behind a lone "--" are the arguments of init.
            let end = words.iter().position(|word| *word == "--");
            words.insert(end.unwrap_or(words.len()), &self.kernel_argument);
        }
        words.join(" ")
    }

    /// For people, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "The loader puts the image at {:#x} ({} bytes set apart, both multiples of {}).",
                self.address, self.size, self.alignment
            ),
            format!("Kernel command line: {}", self.kernel_argument),
            format!("QEMU: {}", self.qemu.join(" ")),
        ]
    }
}

/// Reads an address: decimal, or hexadecimal after `0x`.
pub(crate) fn parse_address(text: &str) -> std::result::Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let address = number.map_err(|e| format!("no address: {e}"))?;
    if address == 0 || address % ALIGNMENT != 0 {
        return Err(format!(
            "not a multiple of {ALIGNMENT:#x} (2 MiB), or 0: the kernel maps it by huge pages"
        ));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_and_commas_doubled() {
        let memory = Memory::of(Path::new("/a,b/image.raw"), (2 << 20) + 1, 4 << 30).unwrap();
        assert_eq!(memory.size, 4 << 20);
        assert_eq!(memory.kernel_argument, "memmap=0x400000!0x100000000");
        assert_eq!(
            memory.qemu[1],
            "loader,file=/a,,b/image.raw,addr=0x100000000,force-raw=on"
        );
        assert!(Memory::of(Path::new("/i"), 4096, u64::MAX - 4096).is_err());
    }

    #[test]
    fn the_argument_is_the_kernels_and_comes_once() {
        let memory = Memory::of(Path::new("/i"), 1, 2 << 20).unwrap();
        let argument = "memmap=0x200000!0x200000";
        assert_eq!(memory.cmdline(None), argument);
        assert_eq!(memory.cmdline(Some(argument)), argument);
        assert_eq!(
            memory.cmdline(Some("quiet -- single")),
            format!("quiet {argument} -- single")
        );
    }

    #[test]
    fn addresses_are_multiples_of_a_huge_page() {
        assert_eq!(parse_address("0x20000000"), Ok(0x2000_0000));
        assert_eq!(parse_address("2097152"), Ok(2 << 20));
        for bad in ["", "0", "0x1000", "4G", "-1", "0x10000000000000000"] {
            assert!(parse_address(bad).is_err(), "{bad:?}");
        }
    }
}
