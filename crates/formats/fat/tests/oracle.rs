//! The reader against mkfs.vfat, mtools, blkid and fsck.vfat: every byte of
//! every file, names, labels, and what it costs to find them.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::FileExt;

use common::{Counting, Places, Volume, content, run};
use iofs_fat::{Fat, FatKind};
use iofs_source::{Mapped, ReadAt};

/// Reads a whole file through its map.
fn read(fat: &Fat<Counting>, source: &Counting, path: &str) -> Vec<u8> {
    let map = fat
        .locate(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut bytes = vec![0; usize::try_from(map.size).unwrap()];
    Mapped::new(source, &map).read_at(0, &mut bytes).unwrap();
    bytes
}

/// Files with their contents.
type Files = Vec<(String, Vec<u8>)>;

/// Nested directories, names of every sort, sizes around a cluster's, a
/// directory of many entries and a fragmented file.
fn fill(volume: &Volume, cluster: usize) -> Files {
    let mut files = Files::new();
    let mut put = |path: String, len: usize| {
        let bytes = content(u32::try_from(files.len()).unwrap(), len);
        volume.put(&path, &bytes);
        files.push((path, bytes));
    };
    for folder in [
        "/EFI",
        "/EFI/Größe ändern",
        "/EFI/Größe ändern/深い",
        "/many",
    ] {
        volume.mkdir(folder);
    }
    put("/EFI/BOOTX64.EFI".into(), 70_001);
    put("/EFI/lower.efi".into(), 1);
    put("/EFI/empty".into(), 0);
    put(
        "/EFI/Größe ändern/an image with a long name.erofs".into(),
        cluster,
    );
    put("/EFI/Größe ändern/深い/ファイル ☂.raw".into(), cluster + 1);
    put(format!("/{}", "n".repeat(200)), 3 * cluster - 1);
    for index in 0..60 {
        put(format!("/many/padding number {index:04}"), cluster);
    }
    // Free every other cluster, so that what comes next lies in the gaps.
    for index in (0..60).step_by(2) {
        let path = format!("/many/padding number {index:04}");
        volume.delete(&path);
        files.retain(|(other, _)| *other != path);
    }
    volume.forget_next_free();
    let fragmented = content(999, 25 * cluster + 17);
    volume.put(FRAGMENTED, &fragmented);
    files.push((FRAGMENTED.into(), fragmented));
    files
}

const FRAGMENTED: &str = "/fragmented.img";

/// The same story on each geometry.
fn story(size: u64, args: &[&str], kind: FatKind) {
    let volume = Volume::make(size, args);
    let source = volume.source();
    let cluster = Fat::open(volume.source()).unwrap().info().cluster_size;
    let files = fill(&volume, usize::try_from(cluster).unwrap());
    volume.check();

    let fat = Fat::open(volume.source()).unwrap();
    assert_eq!(fat.info().kind, kind);
    for (path, bytes) in &files {
        assert!(read(&fat, &source, path) == *bytes, "{path} differs");
    }
    let gone = "/many/padding number 0000";
    let error = fat.locate(gone).unwrap_err().to_string();
    assert_eq!(error, format!("{gone} does not exist"));
    let pieces = fat.locate(FRAGMENTED).unwrap().extents.len();
    assert!(pieces > 20, "{pieces} pieces");

    // Case, separators, redundant separators.
    let expected = &files[3].1;
    for path in [
        "\\EFI\\größe ändern\\AN IMAGE WITH A LONG NAME.EROFS",
        "//EFI/./GrößE Ändern//an image with a long name.erofs/",
    ] {
        assert!(read(&fat, &source, path) == *expected, "{path}");
    }
    // Upper case of a sharp s is two letters: FAT does not know that.
    assert!(fat.entries("/EFI/GRÖSSE ÄNDERN").is_err());
    check_names(&fat);
}

fn check_names(fat: &Fat<Counting>) {
    let names = |path: &str| -> Vec<String> {
        let entries = fat.entries(path).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    };
    assert_eq!(
        names("/"),
        ["EFI", "many", &"n".repeat(200), "fragmented.img"]
    );
    assert_eq!(
        names("/EFI"),
        ["Größe ändern", "BOOTX64.EFI", "lower.efi", "empty"]
    );
    assert_eq!(names("/EFI/Größe ändern/深い"), ["ファイル ☂.raw"]);
    assert_eq!(names("/many").len(), 30);
    let entries = fat.entries("/EFI").unwrap();
    assert!(entries[0].is_dir && entries[0].size == 0);
    assert!(!entries[1].is_dir && entries[1].size == 70_001);
}

#[test]
fn fat12() {
    story(1 << 20, &["-F", "12", "-s", "1"], FatKind::Fat12);
    story(4 << 20, &["-F", "12", "-s", "4", "-f", "1"], FatKind::Fat12);
    story(
        8 << 20,
        &["-F", "12", "-S", "4096", "-s", "1"],
        FatKind::Fat12,
    );
}

#[test]
fn fat16() {
    story(20 << 20, &["-F", "16", "-s", "4"], FatKind::Fat16);
    story(
        20 << 20,
        &["-F", "16", "-S", "2048", "-s", "1"],
        FatKind::Fat16,
    );
    story(
        64 << 20,
        &["-F", "16", "-S", "4096", "-s", "1"],
        FatKind::Fat16,
    );
}

#[test]
fn fat32() {
    story(40 << 20, &["-F", "32", "-s", "1"], FatKind::Fat32);
    story(300 << 20, &["-F", "32", "-s", "8"], FatKind::Fat32);
    story(
        300 << 20,
        &["-F", "32", "-S", "4096", "-s", "1"],
        FatKind::Fat32,
    );
}

#[test]
fn a_file_in_many_pieces_is_read_whole() {
    let volume = Volume::make(2 << 20, &["-F", "12", "-s", "1"]);
    // Fill the volume, then free every other file.
    let mut names = Vec::new();
    for index in 0..100 {
        let name = format!("/f{index}");
        volume.put(&name, &content(index, 20 * 512));
        names.push(name);
    }
    for name in names.iter().step_by(2) {
        volume.delete(name);
    }
    let bytes = content(1000, 1_400_000);
    volume.put("/big", &bytes);
    volume.check();
    let source = volume.source();
    let fat = Fat::open(volume.source()).unwrap();
    let map = fat.locate("/big").unwrap();
    assert!(map.extents.len() > 10, "{} extents", map.extents.len());
    assert!(read(&fat, &source, "/BIG") == bytes);
    for (index, name) in (0..).zip(&names).skip(1).step_by(2) {
        assert!(read(&fat, &source, name) == content(index, 20 * 512));
    }
}

#[test]
fn info_is_what_blkid_says() {
    for (size, args) in [
        (1 << 20, ["-F", "12", "-n", "TWELVE", "-i", "0012abcd"]),
        (20 << 20, ["-F", "16", "-n", "SIXTEEN B", "-i", "ffee0016"]),
        (
            40 << 20,
            ["-F", "32", "-n", "THIRTYTWO32", "-i", "12345678"],
        ),
    ] {
        let volume = Volume::make(size, &args);
        // mkfs writes the label in both places; this changes the root's only.
        run("mlabel", &["-i", volume.path(), "::NEW NAME"]);
        let fat = Fat::open(volume.source()).unwrap();
        let blkid = run("blkid", &["-p", "-o", "export", volume.path()]);
        let of = |key: &str| {
            let line = blkid.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("no {key} in {blkid}"))
                .to_owned()
        };
        let id = fat.info().volume_id;
        assert_eq!(format!("{:04X}-{:04X}", id >> 16, id & 0xffff), of("UUID="));
        assert_eq!(fat.label().unwrap(), Some(of("LABEL=").replace('\\', "")));
        assert_eq!(fat.info().kind.to_string(), of("VERSION="));
        assert_eq!(fat.info().volume_size, size);
        assert_eq!(fat.info().sector_size.to_string(), of("BLOCK_SIZE="));
        assert!(!fat.info().dirty);
    }
    let unnamed = Volume::make(1 << 20, &["-F", "12"]);
    let fat = Fat::open(unnamed.source()).unwrap();
    assert_eq!(fat.info().label, None);
    assert_eq!(fat.label().unwrap(), None);
}

/// A root entry for the file `BIG` and its chain, written by hand.
fn add_big(volume: &Volume, clusters: u32, size: u32, next: impl Fn(u32) -> u32) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&volume.path)
        .unwrap();
    let mut boot = [0; 512];
    file.read_exact_at(&mut boot, 0).unwrap();
    let places = Places::of(&boot);
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(b"BIG        ");
    entry[26] = 3;
    entry[28..].copy_from_slice(&size.to_le_bytes());
    file.write_all_at(&entry, places.root as u64).unwrap();
    let chain: Vec<u8> = (3..3 + clusters)
        .flat_map(|cluster| next(cluster).to_le_bytes())
        .collect();
    for copy in 0..2 {
        let at = places.fat + copy * places.fat_len + 12;
        file.write_all_at(&chain, at as u64).unwrap();
    }
}

#[test]
fn a_contiguous_file_of_300_mib_costs_few_reads() {
    let volume = Volume::make(400 << 20, &["-F", "32", "-s", "8"]);
    let clusters = (300 << 20) / 4096;
    add_big(&volume, clusters, 300 << 20, |cluster| {
        if cluster == clusters + 2 {
            0x0fff_fff8
        } else {
            cluster + 1
        }
    });
    let fat = Fat::open(volume.source()).unwrap();
    let source = volume.source();
    let fat_on_it = Fat::open(&source).unwrap();
    let map = fat_on_it.locate("/big").unwrap();
    assert_eq!(map.extents.len(), 1);
    assert_eq!(map, fat.locate("BIG").unwrap());
    // Boot sector, root directory, and 300 KiB of FAT: 4, 8, and 19 times 16 KiB.
    assert_eq!(source.reads.get(), 23);
    assert!(source.bytes.get() <= 321 << 10);
}

#[test]
fn fat32_with_few_clusters_is_fat32() {
    // mtools would take it for FAT12: fsck.vfat is the oracle for the chain.
    let volume = Volume::make(1 << 20, &["-F", "32", "-s", "1"]);
    add_big(&volume, 6, 3000, |cluster| match cluster {
        8 => 0x0fff_ffff,
        _ => cluster + 1,
    });
    let fsck = std::process::Command::new("fsck.vfat")
        .args(["-n", "-v", volume.path()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&fsck.stdout).into_owned();
    assert!(!text.contains("Bad") && !text.contains("/BIG"), "{text}");
    let source = volume.source();
    let fat = Fat::open(volume.source()).unwrap();
    assert_eq!(fat.info().kind, FatKind::Fat32);
    assert!(fat.info().clusters < 4085);
    assert_eq!(fat.locate("/BIG").unwrap().size, 3000);
    assert_eq!(read(&fat, &source, "/BIG"), vec![0; 3000]);
}

#[test]
fn the_active_fat_counts() {
    let volume = Volume::make(1 << 20, &["-F", "32", "-s", "1"]);
    add_big(&volume, 2, 1024, |cluster| match cluster {
        4 => 0x0fff_ffff,
        _ => cluster + 1,
    });
    let mut image = volume.bytes();
    let places = Places::of(&image);
    // The first FAT loses the chain; mirroring is off and FAT 1 is active.
    places.link(&mut image, 3, 0);
    assert!(Fat::open(&image).unwrap().locate("/BIG").is_err());
    image[40] = 0x81;
    assert_eq!(
        Fat::open(&image).unwrap().locate("/BIG").unwrap().size,
        1024
    );
    image[40] = 0x82;
    let error = Fat::open(&image).unwrap_err().to_string();
    assert!(error.contains("FAT 2 is said to be active"), "{error}");
}
