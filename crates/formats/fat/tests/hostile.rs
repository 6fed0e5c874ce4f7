//! Damaged volumes: each kind of damage has its own message, none panics, none
//! is read for longer than the volume is large.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::OnceLock;

use common::{Places, Volume, content, find_entry};
use iofs_fat::{Fat, FatError};
use iofs_source::{Limited, ReadAt};
use proptest::prelude::*;

/// A volume of each kind with a file of four clusters in a subdirectory.
fn images() -> &'static [Vec<u8>; 3] {
    static IMAGES: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let make = |size, args: &[&str]| {
            let volume = Volume::make(size, args);
            volume.mkdir("/EFI");
            volume.put("/EFI/a long file name.efi", &content(1, 2048));
            volume.put("/SHORT.BIN", &content(2, 600));
            volume.bytes()
        };
        [
            make(256 << 10, &["-F", "12", "-s", "1", "-r", "64"]),
            make(4 << 20, &["-F", "16", "-s", "1", "-r", "64"]),
            make(40 << 20, &["-F", "32", "-s", "1"]),
        ]
    })
}

const FILE: &str = "/EFI/a long file name.efi";

fn locate(image: &Vec<u8>, path: &str) -> Result<iofs_source::FileMap, FatError> {
    Fat::open(image)?.locate(path)
}

/// The file's four clusters.
fn clusters(image: &Vec<u8>) -> [u32; 4] {
    let map = locate(image, FILE).unwrap();
    assert_eq!(map.extents.len(), 1);
    let first = Places::of(image).cluster_at(map.extents[0].physical);
    [first, first + 1, first + 2, first + 3]
}

#[test]
fn each_damage_to_a_chain_has_its_name() {
    for image in images() {
        let places = Places::of(image);
        let [first, second, third, fourth] = clusters(image);
        let last = Fat::open(image).unwrap().info().clusters + 1;
        let with = |cluster, next| {
            let mut image = image.clone();
            places.link(&mut image, cluster, next);
            locate(&image, FILE).unwrap_err()
        };
        let reserved = match places.bits {
            12 => 0xff0,
            16 => 0xfff0,
            _ => 0x0fff_fff0,
        };
        assert_eq!(with(second, 0), FatError::FreeCluster { cluster: second });
        assert_eq!(
            with(third, reserved + 7),
            FatError::BadCluster { cluster: third }
        );
        for (written, next) in [(1, 1), (last + 1, last + 1), (reserved, 0x0fff_fff0)] {
            let link = FatError::Link {
                cluster: second,
                next,
                last,
            };
            assert_eq!(with(second, written), link);
        }
        assert_eq!(
            with(second, reserved + 8),
            FatError::ChainTooShort {
                cluster: second,
                size: 2048,
                found: 1024
            }
        );
        // SHORT.BIN's clusters follow and belong to another file.
        assert_eq!(
            with(fourth, fourth + 1),
            FatError::ChainTooLong {
                cluster: fourth + 1,
                size: 2048
            }
        );
        for (from, to) in [(third, second), (third, first), (second, second)] {
            assert!(matches!(with(from, to), FatError::Loop { .. }));
        }
        // The last entry is looked at even though the size is reached.
        assert!(matches!(with(fourth, first), FatError::Loop { .. }));
    }
}

/// Chains that lead into another file's. Where the lengths do not fit, that is
/// seen. Where they do, it looks like a file in two pieces: only a hash over the
/// contents tells. No other place is read than the volume either way.
#[test]
fn cross_linked_clusters_stay_inside_the_volume() {
    for image in images() {
        let places = Places::of(image);
        let [first, second, third, _] = clusters(image);
        let map = locate(image, "/SHORT.BIN").unwrap();
        let short = places.cluster_at(map.extents[0].physical);
        let linked = |from, to| {
            let mut image = image.clone();
            places.link(&mut image, from, to);
            (locate(&image, FILE), locate(&image, "/SHORT.BIN"))
        };
        // Two clusters of the one and two of the other.
        let (file, other) = linked(second, short);
        let file = file.unwrap();
        assert_eq!(other.unwrap(), map);
        assert_eq!((file.size, file.extents.len()), (2048, 2));
        assert_eq!(file.extents[1].physical, map.extents[0].physical);
        assert_eq!(file.check(image.size(), 512), Ok(()));
        // One cluster too few, or too many.
        let (file, other) = linked(first, short);
        assert!(matches!(
            file.unwrap_err(),
            FatError::ChainTooShort { found: 1536, .. }
        ));
        assert!(other.is_ok());
        let (file, other) = linked(short + 1, third);
        assert!(file.is_ok());
        let too_long = FatError::ChainTooLong {
            cluster: third,
            size: 600,
        };
        assert_eq!(other.unwrap_err(), too_long);
    }
}

#[test]
fn directories_that_loop_are_refused() {
    for image in images() {
        let places = Places::of(image);
        let entry = find_entry(image, b"EFI        ");
        let start = u16::from_le_bytes([image[entry + 26], image[entry + 27]]).into();
        let mut image = image.clone();
        places.link(&mut image, start, start);
        // No more than the volume, whose FAT is looked at for a loop.
        let limited = Limited::new(&image, image.size());
        let fat = Fat::open(&limited).unwrap();
        let error = fat.entries("/EFI").unwrap_err();
        assert!(matches!(error, FatError::Loop { .. }), "{error}");
        let error = fat.locate("/EFI/absent").unwrap_err();
        assert!(matches!(error, FatError::Loop { .. }), "{error}");
    }
}

#[test]
fn each_damage_to_a_directory_entry_has_its_name() {
    for image in images() {
        let at = find_entry(image, b"SHORT   BIN");
        let with = |field: usize, bytes: &[u8]| {
            let mut image = image.clone();
            image[at + field..at + field + bytes.len()].copy_from_slice(bytes);
            locate(&image, "/short.bin")
        };
        assert_eq!(
            with(26, &[1, 0]).unwrap_err(),
            FatError::StartCluster {
                cluster: 1,
                last: Fat::open(image).unwrap().info().clusters + 1
            }
        );
        assert_eq!(
            with(26, &[0, 0]).unwrap_err(),
            FatError::ChainTooShort {
                cluster: 0,
                size: 600,
                found: 0
            }
        );
        assert!(matches!(
            with(28, &[0xff; 4]).unwrap_err(),
            FatError::ChainTooShort { found: 1024, .. }
        ));
        assert!(matches!(
            with(28, &[0; 4]).unwrap_err(),
            FatError::ChainTooLong { size: 0, .. }
        ));
        assert!(matches!(
            with(11, &[0x10]).unwrap_err(),
            FatError::IsADirectory { .. }
        ));
        // Deleted, or taken for a volume label.
        for (field, byte) in [(0, 0xe5), (11, 0x08)] {
            let error = with(field, &[byte]).unwrap_err();
            assert_eq!(error.to_string(), "/short.bin does not exist");
        }
    }
}

#[test]
fn a_long_name_must_belong_to_its_short_name() {
    for image in images() {
        let at = find_entry(image, b"ALONGF~1EFI");
        let long = [at - 64, at - 32];
        assert!(locate(image, "/EFI/ALONGF~1.EFI").is_ok());
        // Checksum, order, missing end, in either part.
        for (place, byte) in [
            (long[0] + 13, image[long[0] + 13] ^ 1),
            (long[1] + 13, image[long[1] + 13] ^ 1),
            (long[0], 0x43),
            (long[1], 2),
            (long[0], 2),
            (long[0], 0xe5),
            (long[0], 0x40),
            (long[0], 0x7f),
            (at, b'B'),
        ] {
            let mut damaged = image.clone();
            damaged[place] = byte;
            let fat = Fat::open(&damaged).unwrap();
            assert!(fat.locate(FILE).is_err(), "byte {place} is {byte:#x}");
            let names: Vec<_> = fat.entries("/EFI").unwrap();
            assert!(names[0].name.ends_with("LONGF~1.EFI"), "{names:?}");
        }
    }
}

#[test]
fn names_that_would_lead_astray_are_not_handed_out() {
    for image in images() {
        let at = find_entry(image, b"ALONGF~1EFI");
        let names = |change: &dyn Fn(&mut [u8])| -> Vec<String> {
            let mut image = image.clone();
            change(&mut image);
            let entries = Fat::open(&image).unwrap().entries("/EFI").unwrap();
            entries.into_iter().map(|entry| entry.name).collect()
        };
        // The long name becomes "..", "." or gets a separator or control
        // character: the short name stands in.
        let units = at - 32 + 1;
        for start in [
            &[b'.', 0, b'.', 0, 0, 0][..],
            &[b'.', 0, 0, 0],
            &[0, 0],
            &[b'/', 0],
            &[b'\\', 0],
            &[0x1b, 0],
        ] {
            let found = names(&|image| {
                image[units..units + start.len()].copy_from_slice(start);
            });
            assert_eq!(found, ["ALONGF~1.EFI"]);
        }
        // A short name of that kind makes no entry.
        for (place, byte) in [(0, b' '), (0, b'.'), (0, b'/'), (3, b'\\'), (9, 7)] {
            let found = names(&|image| image[at + place] = byte);
            assert_eq!(found, [""; 0], "byte {place} is {byte:#x}");
        }
        // A lone surrogate is shown as what it is not.
        let found = names(&|image| image[units..units + 2].copy_from_slice(&[0, 0xd8]));
        assert_eq!(found, ["\u{fffd} long file name.efi"]);
    }
}

#[test]
fn paths_that_lead_nowhere_say_where() {
    let image = &images()[0];
    let message = |path: &str| locate(image, path).unwrap_err().to_string();
    assert_eq!(message("/EFI/x/y"), "/EFI/x does not exist");
    assert_eq!(message("/short.bin/y"), "/short.bin is not a directory");
    assert_eq!(message("/EFI"), "/EFI is a directory, not a file");
    assert_eq!(message("/"), "/ is a directory, not a file");
    assert!(message("/EFI/../short.bin").contains(".."));
    assert!(message(&"a/".repeat(65)).contains("64 components"));
    let fat = Fat::open(image).unwrap();
    let error = fat.entries("/short.bin").unwrap_err().to_string();
    assert_eq!(error, "/short.bin is not a directory");
}

#[test]
fn a_directory_beyond_the_limit_is_refused() {
    let mut image = images()[2].clone();
    let places = Places::of(&image);
    // The root goes on through the volume's clusters, without an end marker.
    let clusters = u32::try_from(2 << 20 >> 9).unwrap();
    for cluster in 2..2 + clusters {
        places.link(&mut image, cluster, cluster + 1);
    }
    places.link(&mut image, 2 + clusters, 0x0fff_ffff);
    assert_eq!(
        Fat::open(&image).unwrap().entries("/").unwrap_err(),
        FatError::DirectoryTooLarge {
            cluster: 2,
            limit: 2 << 20
        }
    );
    // One cluster less is the most that there may be.
    places.link(&mut image, 1 + clusters, 0x0fff_ffff);
    assert!(Fat::open(&image).unwrap().entries("/").is_ok());
    // A loop is called a loop.
    places.link(&mut image, 40, 2);
    assert!(matches!(
        Fat::open(&image).unwrap().entries("/").unwrap_err(),
        FatError::Loop { .. }
    ));
}

/// Looks at everything that a volume has, as far as it can be read, and
/// checks what the maps promise.
fn visit<S: ReadAt>(fat: &Fat<S>, path: &str, depth: u32) {
    let entries = match fat.entries(path) {
        Ok(entries) => entries,
        Err(error) => return refused(&error),
    };
    for entry in entries.iter().take(16) {
        let child = format!("{path}/{}", entry.name);
        if entry.is_dir && depth < 3 {
            visit(fat, &child, depth + 1);
        }
        match fat.locate(&child) {
            Ok(map) => {
                let info = fat.info();
                map.check(info.volume_size, info.sector_size.into())
                    .unwrap();
            }
            Err(error) => refused(&error),
        }
    }
}

/// An error is fine, but not the one of a reader that does not stop.
fn refused(error: &FatError) {
    let text = error.to_string();
    assert!(
        !text.contains("of metadata would have to be read"),
        "{text}"
    );
}

fn visit_damaged(image: &Vec<u8>) {
    // A lookup on a volume of this size must stay far below this.
    let limit = 4096 * image.len() as u64;
    match Fat::open(Limited::new(image, limit)) {
        Ok(fat) => {
            let _ = fat.label();
            visit(&fat, "", 0);
        }
        Err(error) => refused(&error),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mutated_volumes_never_panic(
        kind in 0usize..3,
        boot in prop::collection::vec((0usize..90, any::<u8>()), 0..3),
        fat in prop::collection::vec((0usize..64, any::<u8>()), 0..6),
        root in prop::collection::vec((0usize..512, any::<u8>()), 0..6),
        data in prop::collection::vec((0usize..2048, any::<u8>()), 0..6),
    ) {
        let mut image = images()[kind].clone();
        let places = Places::of(&image);
        for (start, changes) in [(0, boot), (places.fat, fat), (places.root, root), (places.data, data)] {
            for (at, byte) in changes {
                image[start + at] = byte;
            }
        }
        visit_damaged(&image);
    }

    #[test]
    fn truncated_volumes_never_panic(kind in 0usize..2, len in 0usize..(256 << 10)) {
        let mut image = images()[kind].clone();
        image.truncate(len);
        visit_damaged(&image);
    }
}
