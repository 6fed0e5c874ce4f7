//! Boot sectors that are wrong: each with its own message.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use common::Volume;
use iofs_fat::{
    BootSectorError::{self, *},
    Fat, FatError,
};

/// Bytes to write at offsets, and the error that they must lead to.
type Damage = (
    &'static [(usize, &'static [u8])],
    fn(&BootSectorError) -> bool,
);

macro_rules! is {
    ($expected:pat) => {
        |error| matches!(error, $expected)
    };
}

const COMMON: &[Damage] = &[
    (&[(11, &[0, 0])], is!(SectorSize { found: 0 })),
    (&[(11, &[0, 1])], is!(SectorSize { found: 256 })),
    (&[(11, &[0, 3])], is!(SectorSize { found: 768 })),
    (&[(11, &[0, 32])], is!(SectorSize { found: 8192 })),
    (&[(13, &[0])], is!(SectorsPerCluster { found: 0 })),
    (&[(13, &[3])], is!(SectorsPerCluster { found: 3 })),
    (&[(14, &[0, 0])], is!(ReservedSectors)),
    (&[(16, &[0])], is!(NoFats)),
    (
        &[(19, &[0, 0]), (32, &[0; 4])],
        is!(TotalSectors { found: 0, .. }),
    ),
    (&[(19, &[2, 0])], is!(TotalSectors { found: 2, .. })),
];

const FAT12: &[Damage] = &[
    (&[(16, &[0xff])], is!(TotalSectors { .. })),
    (&[(17, &[0, 0])], is!(RootEntries { found: 0 })),
    (&[(17, &[1, 0])], is!(RootEntries { found: 1 })),
    (&[(19, &[0xff, 0xff])], is!(TooManyClusters { .. })),
    (
        &[(19, &[0x08, 0x02])],
        is!(Medium {
            volume: 266_240,
            medium: 262_144
        }),
    ),
    (&[(22, &[0, 0])], is!(RootEntries { found: 64 })),
    (&[(22, &[1, 0])], is!(FatTooShort { len: 512, .. })),
];

const FAT32: &[Damage] = &[
    (&[(16, &[0xff])], is!(TotalSectors { .. })),
    (&[(17, &[16, 0])], is!(RootEntries { found: 16 })),
    (&[(32, &[0xff; 4])], is!(TooManyClusters { .. })),
    (&[(32, &[0xff, 0x40, 1])], is!(Medium { .. })),
    (&[(36, &[1, 0, 0, 0])], is!(FatTooShort { len: 512, .. })),
    (&[(36, &[0; 4])], is!(FatSize)),
    (&[(40, &[0x82])], is!(ActiveFat { found: 2, fats: 2 })),
    (&[(42, &[1, 0])], is!(Version { found: 1 })),
    (&[(44, &[1, 0, 0, 0])], is!(RootCluster { found: 1, .. })),
    (&[(44, &[0xff; 4])], is!(RootCluster { .. })),
];

fn check(image: &[u8], table: &[Damage]) {
    for (patches, is_expected) in table {
        let mut damaged = image.to_vec();
        for (at, bytes) in *patches {
            damaged[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        match Fat::open(&damaged) {
            Err(FatError::BootSector(error)) if is_expected(&error) => {}
            other => panic!("{patches:x?}: {other:?}"),
        }
    }
}

#[test]
fn each_damage_has_its_name() {
    let args = ["-F", "12", "-s", "1", "-r", "64"];
    let small = Volume::make(256 << 10, &args).bytes();
    check(&small, COMMON);
    check(&small, FAT12);
    let large = Volume::make(40 << 20, &["-F", "32", "-s", "1"]).bytes();
    check(&large, COMMON);
    check(&large, FAT32);
}

#[test]
fn a_truncated_volume_says_so() {
    let mut image = Volume::make(256 << 10, &["-F", "12"]).bytes();
    image.truncate(200 << 10);
    let error = Fat::open(&image).unwrap_err().to_string();
    assert!(error.contains("truncated"), "{error}");
    image.truncate(100);
    assert!(matches!(Fat::open(&image), Err(FatError::Read(_))));
}

#[test]
fn what_is_not_fat_is_named() {
    let mut image = vec![0; 4096];
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let error = Fat::open(&image).unwrap_err();
    assert_eq!(error, FatError::NotFat { found: None });
    image[0] = 0xeb;
    image[3..11].copy_from_slice(b"EXFAT   ");
    let error = Fat::open(&image).unwrap_err().to_string();
    assert_eq!(error, "this is exFAT, not FAT");
}
