//! Boot partitions of every kind, by the usual tools.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_ext4::Ext4;
use vmtest::command;
use vmtest::disk::{Entry, ext4, fat};

use crate::support::{FILE_ON_VOLUME, noise};

const UUID: &str = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0a03";

fn run(command: &mut Command) -> String {
    let output = command::output(command).unwrap();
    String::from_utf8_lossy(&output).into_owned()
}

/// FAT32, the image in one piece.
pub(crate) fn fat32(volume: &Path, image: &Path) {
    let entries = [Entry::new(FILE_ON_VOLUME, image)];
    fat::make(volume, fat::Format::new(40 << 20), &entries).unwrap();
}

/// FAT32, the image in many pieces.
pub(crate) fn fat32_fragmented(volume: &Path, image: &Path) {
    let entries = [Entry::fragmented(FILE_ON_VOLUME, image)];
    fat::make(volume, fat::Format::new(40 << 20), &entries).unwrap();
    assert!(fat::extents(volume, FILE_ON_VOLUME).unwrap() > 10);
}

/// FAT12 or FAT16, the image under the name `to`.
pub(crate) fn small_fat(volume: &Path, image: &Path, bits: u8, to: &str) {
    empty_fat(volume, bits);
    put_in_folder(volume, image, to);
}

/// The same, the image in many pieces.
pub(crate) fn small_fat_fragmented(volume: &Path, image: &Path, bits: u8, to: &str) {
    empty_fat(volume, bits);
    let filler = volume.with_extension("filler");
    fs::write(&filler, noise(50_000, 4)).unwrap();
    let filler = filler.to_str().unwrap();
    let names: Vec<String> = (0..40).map(|index| format!("::/FILL{index}")).collect();
    for name in &names {
        mtool(volume, "mcopy", &[filler, name]);
    }
    for name in names.iter().step_by(2) {
        mtool(volume, "mdel", &[name]);
    }
    put_in_folder(volume, image, to);
    let pieces = mtool(volume, "mshowfat", &[&format!("::/{to}")]);
    assert!(pieces.matches('<').count() > 10, "{pieces}");
}

/// A FAT12 or FAT16 volume.
pub(crate) fn empty_fat(volume: &Path, bits: u8) {
    let size: u64 = if bits == 12 { 8 << 20 } else { 32 << 20 };
    let file = fs::File::create(volume).unwrap();
    file.set_len(size).unwrap();
    // Clusters of 4 KiB: 2048 of them are FAT12, 8192 are FAT16.
    run(Command::new("mkfs.vfat")
        .args(["-F", &bits.to_string(), "-s", "8"])
        .arg(volume));
}

fn put_in_folder(volume: &Path, file: &Path, to: &str) {
    let mut folder = String::from("::");
    for part in to.split('/').collect::<Vec<_>>().split_last().unwrap().1 {
        folder = format!("{folder}/{part}");
        mtool(volume, "mmd", &[&folder]);
    }
    let to = format!("::/{to}");
    mtool(volume, "mcopy", &[file.to_str().unwrap(), &to]);
}

/// Puts a grinning face in the place of the letters `QQ` with which a long name
/// on a FAT volume begins: mtools knows no characters beyond U+FFFF.
pub(crate) fn smile(volume: &Path) {
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    replace_once(volume, 1, &utf16("QQ"), &utf16("\u{1f600}"));
}

/// Replaces bytes of the only directory entry that has them at `at`.
pub(crate) fn replace_once(volume: &Path, at: usize, from: &[u8], to: &[u8]) {
    let mut bytes = fs::read(volume).unwrap();
    let mut entries: Vec<&mut [u8]> = bytes
        .chunks_exact_mut(32)
        .filter(|entry| entry[at..].starts_with(from))
        .collect();
    let [entry] = entries.as_mut_slice() else {
        panic!("{} entries have {from:?}", entries.len());
    };
    entry[at..at + to.len()].copy_from_slice(to);
    fs::write(volume, bytes).unwrap();
}

/// Runs one of mtools on a volume, names in UTF-8.
pub(crate) fn mtool(volume: &Path, tool: &str, args: &[&str]) -> String {
    run(Command::new(tool)
        .envs([("MTOOLS_SKIP_CHECK", "1"), ("LC_ALL", "C.UTF-8")])
        .arg("-i")
        .arg(volume)
        .args(args))
}

/// ext4, the image in one piece.
pub(crate) fn ext4(volume: &Path, image: &Path) {
    ext4::make(volume, 24 << 20, UUID, &[Entry::new(FILE_ON_VOLUME, image)]).unwrap();
}

/// ext4 with an image that has blocks of zeros: mkfs.ext4 would leave holes in
/// their place, where a copy on a running system has blocks.
pub(crate) fn ext4_without_holes(volume: &Path, image: &Path) {
    ext4_of(volume, 24 << 20, &[Entry::new(FILE_ON_VOLUME, image)]);
}

/// The same with any files.
pub(crate) fn ext4_of(volume: &Path, size: u64, entries: &[Entry]) {
    let dense = volume.with_extension("dense");
    let stand_ins: Vec<Entry> = (0..entries.len())
        .map(|index| {
            let mut entry = entries[index].clone();
            entry.from = dense.with_extension(format!("dense{index}"));
            let len = fs::metadata(&entries[index].from).unwrap().len();
            fs::write(&entry.from, vec![0xff; usize::try_from(len).unwrap()]).unwrap();
            entry
        })
        .collect();
    ext4::make(volume, size, UUID, &stand_ins).unwrap();
    let content = fs::read(volume).unwrap();
    let file = fs::File::options().write(true).open(volume).unwrap();
    for entry in entries {
        let bytes = fs::read(&entry.from).unwrap();
        let map = Ext4::open(&content[..])
            .and_then(|opened| opened.locate(&entry.to))
            .unwrap();
        for extent in &map.extents {
            let from = usize::try_from(extent.logical).unwrap();
            let to = bytes.len().min(from + usize::try_from(extent.len).unwrap());
            file.write_all_at(&bytes[from..to], extent.physical)
                .unwrap();
        }
    }
}

/// ext4, the image in many pieces.
pub(crate) fn ext4_fragmented(volume: &Path, image: &Path) {
    let entries = [Entry::fragmented(FILE_ON_VOLUME, image)];
    ext4::make(volume, 24 << 20, UUID, &entries).unwrap();
    assert!(ext4::extents(volume, FILE_ON_VOLUME).unwrap() > 10);
}

/// ext4 with these options of mkfs.ext4, the image in it.
pub(crate) fn ext4_with(volume: &Path, image: &Path, options: &[&str]) {
    let tree = volume.with_extension("tree");
    let to = tree.join(FILE_ON_VOLUME);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(image, &to).unwrap();
    run(Command::new("mkfs.ext4")
        .args(["-q", "-U", UUID, "-E", "root_owner=0:0"])
        .args(options)
        .arg("-d")
        .args([&tree, volume])
        .arg("24M"));
}

/// ext2's way: blocks of 1 KiB, found through block maps.
pub(crate) fn ext4_block_maps(volume: &Path, image: &Path) {
    ext4_with(volume, image, &["-b", "1024", "-O", "^extents,^64bit"]);
    // mkfs.ext4 leaves out blocks of zeros; a copy by the kernel would not.
    let last = fs::metadata(image).unwrap().len().div_ceil(1024) - 1;
    debugfs(volume, &format!("fallocate /{FILE_ON_VOLUME} 0 {last}"));
    let stat = debugfs(volume, &format!("stat /{FILE_ON_VOLUME}"));
    assert!(stat.contains("(IND)") && stat.contains("(0):"), "{stat}");
}

/// ext3: a journal, and block maps of blocks of 2 KiB.
pub(crate) fn ext3(volume: &Path, image: &Path) {
    ext4_with(volume, image, &["-t", "ext3", "-b", "2048"]);
    let last = fs::metadata(image).unwrap().len().div_ceil(2048) - 1;
    debugfs(volume, &format!("fallocate /{FILE_ON_VOLUME} 0 {last}"));
    let header = run(Command::new("dumpe2fs").arg("-h").arg(volume));
    assert!(
        !header.contains("extent") && header.contains("has_journal"),
        "{header}"
    );
}

/// As a power cut leaves it: the image's name is in the journal only.
pub(crate) fn ext4_dirty(volume: &Path, image: &Path) {
    ext4(volume, image);
    let (folder, _) = FILE_ON_VOLUME.rsplit_once('/').unwrap();
    let blocks = debugfs(volume, &format!("blocks /{folder}"));
    let block: u64 = blocks
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{folder} is not one block: {blocks}"));
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(volume)
        .unwrap();
    let mut fresh = vec![0; 4096];
    file.read_exact_at(&mut fresh, block * 4096).unwrap();
    let copy = volume.with_extension("block");
    fs::write(&copy, &fresh).unwrap();
    debugfs(volume, &format!("jo\njw -b {block} {}\njc", copy.display()));
    let header = run(Command::new("dumpe2fs").arg("-h").arg(volume));
    assert!(header.contains("needs_recovery"), "{header}");
    // What the disk still has is older.
    file.write_all_at(&[0; 4096], block * 4096).unwrap();
}

/// ext4, the image without its second MiB.
pub(crate) fn ext4_with_hole(volume: &Path, image: &Path) {
    let torn = volume.with_extension("torn");
    let bytes = fs::read(image).unwrap();
    let file = fs::File::create(&torn).unwrap();
    file.write_all_at(&bytes[..1 << 20], 0).unwrap();
    file.write_all_at(&bytes[2 << 20..], 2 << 20).unwrap();
    // mkfs.ext4 -d and fs::copy keep holes where they are.
    ext4_with(volume, &torn, &[]);
}

/// XFS, the image in one piece.
pub(crate) fn xfs(volume: &Path, image: &Path) {
    xfs_root(volume, &[Entry::new(FILE_ON_VOLUME, image)]);
}

/// XFS with these files, as programs. Its smallest volume is 300 MiB, most of it
/// holes.
pub(crate) fn xfs_root(volume: &Path, entries: &[Entry]) {
    // What mkfs.xfs calls a prototype: a boot block, sizes that no longer mean
    // anything, then the tree, each folder closed by a dollar.
    let mut prototype = String::from("/dev/null\n0 0\nd--755 0 0\n");
    for entry in entries {
        let (folders, name) = entry.to.rsplit_once('/').unwrap();
        let folders: Vec<&str> = folders.split('/').collect();
        for folder in &folders {
            prototype += &format!("{folder} d--755 0 0\n");
        }
        prototype += &format!("{name} ---755 0 0 {}\n", entry.from.display());
        prototype += &"$\n".repeat(folders.len());
    }
    prototype += "$\n";
    let path = volume.with_extension("prototype");
    fs::write(&path, prototype).unwrap();
    let file = fs::File::create(volume).unwrap();
    file.set_len(300 << 20).unwrap();
    run(Command::new("mkfs.xfs")
        .args(["-q", "-f", "-p"])
        .args([&path, volume]));
}

/// btrfs, the image on it.
pub(crate) fn btrfs(volume: &Path, image: &Path) {
    btrfs_root(volume, &[Entry::new(FILE_ON_VOLUME, image)]);
}

/// btrfs with these files.
pub(crate) fn btrfs_root(volume: &Path, entries: &[Entry]) {
    let tree = tree(volume, entries);
    let file = fs::File::create(volume).unwrap();
    file.set_len(128 << 20).unwrap();
    run(Command::new("mkfs.btrfs")
        .args(["-q", "--rootdir"])
        .args([&tree, volume]));
}

/// EROFS with these files.
pub(crate) fn erofs_root(volume: &Path, entries: &[Entry]) {
    let tree = tree(volume, entries);
    run(Command::new("mkfs.erofs").args([volume, &tree]));
}

/// A folder with these files, for mkfs.
fn tree(volume: &Path, entries: &[Entry]) -> PathBuf {
    let tree = volume.with_extension("tree");
    for entry in entries {
        let to = tree.join(&entry.to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&entry.from, &to).unwrap();
    }
    tree
}

/// A volume whose image has this much of its beginning.
pub(crate) fn truncated(volume: &Path, image: &Path) {
    let short = volume.with_extension("short");
    let bytes = fs::read(image).unwrap();
    fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    fat32(volume, &short);
}

/// A boot partition with something else on it.
pub(crate) fn without_image(volume: &Path, _: &Path) {
    let other = volume.with_extension("other");
    fs::write(&other, noise(10_000, 3)).unwrap();
    fat32(volume, &other);
    mtool(
        volume,
        "mren",
        &[&format!("::/{FILE_ON_VOLUME}"), "other.img"],
    );
}

/// Runs debugfs with a script; what it prints, its prompts left out.
fn debugfs(volume: &Path, script: &str) -> String {
    let output = command::output_with_input(
        Command::new("debugfs")
            .args(["-w", "-f", "/dev/stdin"])
            .arg(volume),
        format!("{script}\n").as_bytes(),
    )
    .unwrap();
    let text = String::from_utf8_lossy(&output).into_owned();
    text.lines()
        .filter(|line| !line.starts_with("debugfs"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Puts a folder in the place of the image on an ext4 volume.
pub(crate) fn replace_by_folder(volume: &Path) {
    debugfs(
        volume,
        &format!("rm /{FILE_ON_VOLUME}\nmkdir /{FILE_ON_VOLUME}"),
    );
}

/// Makes the image's cluster chain on a FAT32 volume lead back to itself.
pub(crate) fn loop_chain(volume: &Path) {
    // <first-last> of the only extent.
    let text = mtool(volume, "mshowfat", &[&format!("::/{FILE_ON_VOLUME}")]);
    let range = text.split(['<', '>']).nth(1).unwrap_or_default();
    let (first, _) = range.split_once('-').unwrap_or_default();
    let first: u32 = first
        .parse()
        .unwrap_or_else(|_| panic!("mshowfat says something else: {text}"));
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(volume)
        .unwrap();
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).unwrap();
    let field = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
    // Bytes a sector and reserved sectors, as the FAT specification has them.
    let fat = field(11) * field(14);
    let entry = fat + u64::from(first + 5) * 4;
    file.write_all_at(&(first + 2).to_le_bytes(), entry)
        .unwrap();
}
