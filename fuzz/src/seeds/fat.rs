//! FAT volumes with a directory, a file in two pieces under a long name, and an
//! empty file; as small as the kind allows.

/// Path of the file with contents.
pub const FILE: &str = "/EFI/a long name.efi";

/// The kind of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FatSize {
    /// FAT12.
    Twelve,
    /// FAT16.
    Sixteen,
    /// FAT32, with as few clusters as Linux accepts it with.
    ThirtyTwo,
}

impl FatSize {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Twelve, Self::Sixteen, Self::ThirtyTwo];
}

const SECTOR: usize = 512;
const END: u32 = 0x0fff_ffff;

struct Shape {
    reserved: u8,
    fat_sectors: u8,
    root_entries: u8,
    sectors: u16,
    /// Offset of the extended boot record.
    extended: usize,
}

/// A volume, without its trailing zeros.
#[must_use]
pub fn volume(size: FatSize) -> Vec<u8> {
    let shape = match size {
        FatSize::Twelve => Shape {
            reserved: 1,
            fat_sectors: 1,
            root_entries: 16,
            sectors: 64,
            extended: 36,
        },
        FatSize::Sixteen => Shape {
            reserved: 1,
            fat_sectors: 17,
            root_entries: 16,
            sectors: 4200,
            extended: 36,
        },
        FatSize::ThirtyTwo => Shape {
            reserved: 2,
            fat_sectors: 1,
            root_entries: 0,
            sectors: 64,
            extended: 64,
        },
    };
    let fat_at = usize::from(shape.reserved) * SECTOR;
    let root_at = fat_at + usize::from(shape.fat_sectors) * SECTOR;
    let data_at = root_at + usize::from(shape.root_entries) * 32;
    let cluster = |number: usize| data_at + (number - 2) * SECTOR;

    // Cluster 2 is the root on FAT32, 3 the directory, 4 and 6 the file.
    let mut out = vec![0; cluster(7)];
    boot_sector(&mut out, size, &shape);
    for (number, next) in [
        (0, END & !7),
        (1, END),
        (2, END),
        (3, END),
        (4, 6),
        (6, END),
    ] {
        link(&mut out[fat_at..], size, number, next);
    }
    let root = match size {
        FatSize::ThirtyTwo => cluster(2),
        _ => root_at,
    };
    entry(&mut out[root..], b"SEED       ", 0x08, 0, 0);
    entry(&mut out[root + 32..], b"EFI        ", 0x10, 3, 0);
    entry(&mut out[root + 64..], b"EMPTY      ", 0x20, 0, 0);
    let dir = cluster(3);
    entry(&mut out[dir..], b".          ", 0x10, 3, 0);
    entry(&mut out[dir + 32..], b"..         ", 0x10, 0, 0);
    let short = b"ALONGN~1EFI";
    long_part(&mut out[dir + 64..], 0x42, short, "fi");
    long_part(&mut out[dir + 96..], 1, short, "a long name.e");
    entry(&mut out[dir + 128..], short, 0x20, 4, 700);
    out[cluster(4)..cluster(5)].fill(b'a');
    out[cluster(6)..].fill(b'b');
    out
}

fn boot_sector(out: &mut [u8], size: FatSize, shape: &Shape) {
    let [low, high] = shape.sectors.to_le_bytes();
    out[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    out[3..11].copy_from_slice(b"iofsfuzz");
    out[11..13].copy_from_slice(&[0, 2]);
    out[13..22].copy_from_slice(&[
        1,
        shape.reserved,
        0,
        1,
        shape.root_entries,
        0,
        low,
        high,
        0xf8,
    ]);
    if size == FatSize::ThirtyTwo {
        out[36] = shape.fat_sectors;
        out[44] = 2;
    } else {
        out[22] = shape.fat_sectors;
    }
    let extended = &mut out[shape.extended..];
    extended[0] = 0x80;
    extended[2] = 0x29;
    extended[3..7].copy_from_slice(&[0xcd, 0xab, 0x34, 0x12]);
    extended[7..18].copy_from_slice(b"SEED       ");
    extended[18..26].copy_from_slice(match size {
        FatSize::Twelve => b"FAT12   ",
        FatSize::Sixteen => b"FAT16   ",
        FatSize::ThirtyTwo => b"FAT32   ",
    });
    out[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn link(fat: &mut [u8], size: FatSize, number: usize, next: u32) {
    let bytes = next.to_le_bytes();
    match size {
        FatSize::Twelve => {
            let at = number + number / 2;
            if number % 2 == 0 {
                fat[at] = bytes[0];
                fat[at + 1] = fat[at + 1] & 0xf0 | bytes[1] & 0x0f;
            } else {
                fat[at] = fat[at] & 0x0f | bytes[0] << 4;
                fat[at + 1] = bytes[0] >> 4 | bytes[1] << 4;
            }
        }
        FatSize::Sixteen => fat[2 * number..2 * number + 2].copy_from_slice(&bytes[..2]),
        FatSize::ThirtyTwo => fat[4 * number..4 * number + 4].copy_from_slice(&bytes),
    }
}

fn entry(out: &mut [u8], name: &[u8; 11], attributes: u8, cluster: u8, size: u16) {
    out[..11].copy_from_slice(name);
    out[11] = attributes;
    out[26] = cluster;
    out[28..30].copy_from_slice(&size.to_le_bytes());
}

fn long_part(out: &mut [u8], number: u8, short: &[u8; 11], text: &str) {
    let checksum = short
        .iter()
        .fold(0u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte));
    out[0] = number;
    out[11] = 0x0f;
    out[13] = checksum;
    let places = (1..11).chain(14..26).chain(28..32).step_by(2);
    // The name, a NUL, then ones.
    let units = text
        .encode_utf16()
        .chain([0])
        .chain(core::iter::repeat(0xffff));
    for (at, unit) in places.zip(units) {
        out[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }
}
