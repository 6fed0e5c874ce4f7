//! `cargo xtask bench size`: how large everything is that is made, in bytes that a
//! loader reads and in bytes that a disk holds.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_gpt::Table as Gpt;
use iofs_verity::RootHash;
use serde_json::Value;
use vmtest::command;
use vmtest::mkosi::Mkosi;
use vmtest::peers::{Peer, Peers};
use vmtest::set::{Recipe, Set};
use vmtest::tools::Tools;

use super::chart::Chart;
use super::report::{Bound, Cell, Column, Report, Row, Table, version};
use super::{Ground, Options, mib};
use shared::Shared;

mod shared;

/// The project's bounds, in bytes: what a loader reads for one machine and for any,
/// and the program's part of it.
const BOUND_HOST: f64 = 1.2 * MIB;
const BOUND_GENERIC: f64 = 6.0 * MIB;
const BOUND_PROGRAM: f64 = 160.0 * KIB;

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

const HOST: &str = "mini-initramfs, virtio-blk, zstd";
const GENERIC: &str = "mini-initramfs, generic, zstd";
const DRACUT: &str = "dracut, generic";
const PROGRAM: &str = "storage-init, zstd";

/// A file's name in the table, and its bytes.
type Sized = (String, u64);

/// The family.
pub(super) fn run(ground: &Ground, options: &Options) -> Result<Report, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let bench = Bench {
        ground,
        folder: folder.path(),
    };
    let wanted = |(name, _): &Sized| options.wants(name);
    println!("the program");
    let mut program = bench.program()?;
    println!("what loaders read");
    let mut loaded = bench.minis()?;
    loaded.extend(bench.peers()?);
    println!("images");
    let images = bench.images(options)?;
    println!("what image and root have in common");
    let shared = shared::measure(&bench, |name| options.wants(name))?;
    program.retain(wanted);
    loaded.retain(wanted);
    report(ground, options, &program, &loaded, &images, &shared)
}

struct Bench<'a> {
    ground: &'a Ground,
    folder: &'a Path,
}

/// An image's parts, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    name: String,
    whole: u64,
    file_system: u64,
    hash_tree: u64,
    list: u64,
    /// What the list has read ahead.
    ahead: u64,
    raw: u64,
}

impl Bench<'_> {
    fn program(&self) -> Result<Vec<Sized>, Box<dyn Error>> {
        let file = self.ground.dist.join("storage-init");
        let piped = |program: &str, options: &[&str]| -> Result<u64, Box<dyn Error>> {
            let bytes = command::output(Command::new(program).args(options).arg(&file))?;
            Ok(bytes.len() as u64)
        };
        Ok(vec![
            ("storage-init".to_owned(), fs::metadata(&file)?.len()),
            (PROGRAM.to_owned(), piped("zstd", &["-19", "-cq"])?),
            ("storage-init, xz".to_owned(), piped("xz", &["-9e", "-c"])?),
        ])
    }

    /// A set of dracut's generic initramfs; the image is quickest not compressed.
    fn set(
        &self,
        name: &str,
        modules: &str,
        options: &[&str],
    ) -> Result<(Set, Value), Box<dyn Error>> {
        let initrd = self.ground.guest.dracut_initrd();
        let recipe = Recipe {
            dist: &self.ground.dist,
            guest: &self.ground.guest,
            initrd: &initrd,
            modules,
            options,
        };
        Ok(recipe.build_with_report(&self.folder.join(name))?)
    }

    fn minis(&self) -> Result<Vec<Sized>, Box<dyn Error>> {
        let tools = Tools::ensure(&mut |line| println!("{line}"))?;
        let stub = tools.stub().to_string_lossy().into_owned();
        let mut sizes = Vec::new();
        let mut ukis = Vec::new();
        for modules in ["virtio-blk", "generic"] {
            for how in ["zstd", "lz4", "none"] {
                let options = [
                    "--image-compress",
                    "none",
                    "--compress",
                    how,
                    "--uki",
                    "--stub",
                    &stub,
                    "--cmdline",
                    "quiet",
                ];
                let (set, _) = self.set("mini", modules, &options)?;
                let size = fs::metadata(set.mini_initramfs())?.len();
                let how_named = if how == "none" { "not compressed" } else { how };
                sizes.push((format!("mini-initramfs, {modules}, {how_named}"), size));
                if how == "zstd" {
                    let uki = set.uki.as_ref().ok_or("no UKI was built")?;
                    ukis.push((format!("UKI of it, {modules}"), fs::metadata(uki)?.len()));
                }
                fs::remove_dir_all(&set.dir)?;
            }
        }
        sizes.extend(ukis);
        let kernel = fs::metadata(self.ground.guest.kernel())?.len();
        sizes.push(("the kernel, which is in each UKI".to_owned(), kernel));
        Ok(sizes)
    }

    /// Others' initramfs files, as their generators make them.
    fn peers(&self) -> Result<Vec<Sized>, Box<dyn Error>> {
        let guest = &self.ground.guest;
        let peers = Peers::ensure(guest, &mut |line| println!("{line}"))?;
        let mkosi = Mkosi::ensure(guest, &mut |line| println!("{line}"))?;
        let files: [(&str, PathBuf); 9] = [
            ("tiny-initramfs", peers.initrd(Peer::Tiny)),
            ("initramfs-tools, zstd", guest.initramfs_tools_initrd()),
            (
                "initramfs-tools, lz4",
                peers.initrd(Peer::InitramfsToolsLz4),
            ),
            ("dracut, hostonly", peers.initrd(Peer::DracutHostonly)),
            (
                "dracut, without systemd",
                peers.initrd(Peer::DracutNoSystemd),
            ),
            (DRACUT, guest.dracut_initrd()),
            ("dracut, squashfs", peers.initrd(Peer::DracutSquashfs)),
            ("dracut, squash-erofs", peers.initrd(Peer::DracutErofs)),
            ("mkosi-initrd", mkosi.initrd()),
        ];
        let sizes = files.into_iter().map(|(name, path)| {
            let size = fs::metadata(path)?.len();
            Ok((name.to_owned(), size))
        });
        sizes.collect()
    }

    /// The image of dracut's generic initramfs with each compression.
    fn images(&self, options: &Options) -> Result<Vec<Image>, Box<dyn Error>> {
        let hows: [(&str, &[&str]); 6] = [
            ("image, lz4", &[]),
            ("image, lz4:1", &["--image-compress", "lz4:1"]),
            ("image, lz4:12", &["--image-compress", "lz4:12"]),
            ("image, not compressed", &["--image-compress", "none"]),
            ("image, lz4, no list", &["--profile", "none"]),
            ("image, lz4, not authenticated", &["--auth", "none"]),
        ];
        let mut images = Vec::new();
        for (name, arguments) in hows.into_iter().filter(|(name, _)| options.wants(name)) {
            let (set, said) = self.set("image", "virtio-blk", arguments)?;
            images.push(image(name, &set.image, &said)?);
            fs::remove_dir_all(&set.dir)?;
        }
        Ok(images)
    }
}

/// What the report of a build says of its image, and where its hash tree lies.
fn image(name: &str, path: &Path, said: &Value) -> Result<Image, Box<dyn Error>> {
    let number = |pointer: &str| said.pointer(pointer).and_then(Value::as_u64);
    let wanted =
        |pointer: &str| number(pointer).ok_or_else(|| format!("the build reports no {pointer}"));
    let hash_tree = match said.pointer("/image/root_hash").and_then(Value::as_str) {
        None => 0,
        Some(root) => {
            let root =
                RootHash::from_hex(root).map_err(|error| format!("the root hash: {error}"))?;
            let bytes = fs::read(path)?;
            let table = Gpt::read(&bytes[..], 512)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            let tree = root.verity_part_uuid();
            let tree = table.partitions.iter().find(|part| part.part_guid == tree);
            tree.ok_or("the image has no hash tree")?.len
        }
    };
    Ok(Image {
        name: name.to_owned(),
        whole: wanted("/image/bytes")?,
        file_system: wanted("/image/filesystem_bytes")?,
        hash_tree,
        list: number("/image/prefetch/list_bytes").unwrap_or(0),
        ahead: number("/image/prefetch/bytes").unwrap_or(0),
        raw: wanted("/image/raw_bytes")?,
    })
}

fn find(sizes: &[Sized], name: &str) -> Option<u64> {
    sizes.iter().find(|(n, _)| n == name).map(|(_, size)| *size)
}

fn bounds(program: &[Sized], loaded: &[Sized]) -> Vec<Bound> {
    let bounds = [
        (loaded, HOST, BOUND_HOST, MIB, "MiB"),
        (loaded, GENERIC, BOUND_GENERIC, MIB, "MiB"),
        (program, PROGRAM, BOUND_PROGRAM, KIB, "KiB"),
    ];
    let bounds = bounds
        .into_iter()
        .filter_map(|(sizes, name, bound, unit, unit_name)| {
            let size = find(sizes, name)?;
            Some(Bound::new(
                name,
                size as f64 / unit,
                bound / unit,
                unit_name,
            ))
        });
    bounds.collect()
}

fn report(
    ground: &Ground,
    options: &Options,
    program: &[Sized],
    loaded: &[Sized],
    images: &[Image],
    shared: &[Shared],
) -> Result<Report, Box<dyn Error>> {
    let shared_rows = shared.iter().map(|shared| {
        let cells = [
            shared.files as f64,
            mib(shared.raw),
            mib(2 * shared.file_system),
            mib(shared.extension),
            shared.saved() / MIB,
        ];
        Row::new(&shared.name, cells.map(Into::into).to_vec())
    });
    let dracut = find(loaded, DRACUT);
    let loaded_rows = loaded.iter().map(|(name, size)| {
        let part = dracut.map(|dracut| *size as f64 / dracut as f64);
        Row::new(name, vec![mib(*size).into(), part.into()])
    });
    let program_rows = program
        .iter()
        .map(|(name, size)| Row::new(name, vec![(*size as f64 / KIB).into()]));
    let image_rows = images.iter().map(|image| {
        let kib = |size: u64| match size {
            0 => Cell::Nothing,
            size => Cell::Number(size as f64 / KIB),
        };
        let ahead = (image.ahead > 0).then(|| mib(image.ahead));
        let cells = vec![
            mib(image.whole).into(),
            mib(image.file_system).into(),
            kib(image.hash_tree),
            kib(image.list),
            ahead.into(),
            (image.file_system as f64 / image.raw as f64).into(),
        ];
        Row::new(&image.name, cells)
    });
    let bars = loaded
        .iter()
        .map(|(name, size)| (name.clone(), vec![Some(mib(*size))]))
        .chain(
            images
                .iter()
                .map(|image| (image.name.clone(), vec![None, Some(mib(image.whole))])),
        );
    let mut versions = ground.versions()?;
    versions.push(Peers::ensure(&ground.guest, &mut |line| println!("{line}"))?.versions()?);
    for program in ["zstd", "xz"] {
        versions.push(version(program)?.trim_matches(['*', ' ']).to_owned());
    }
    Ok(Report {
        name: "size".to_owned(),
        title: "How large it is".to_owned(),
        // A size is what it is: there is nothing to measure again.
        command: options.command("size", 1, "").replace(" --runs 1", ""),
        notes: notes(),
        versions,
        tables: vec![
            Table {
                title: "read by the loader".to_owned(),
                columns: vec![
                    Column::new("size", "MiB", 2),
                    Column::new(&format!("against {DRACUT}"), "", 3),
                ],
                rows: loaded_rows.collect(),
            },
            Table {
                title: "the program".to_owned(),
                columns: vec![Column::new("size", "KiB", 1)],
                rows: program_rows.collect(),
            },
            Table {
                title: "on the disk, read in parts".to_owned(),
                columns: vec![
                    Column::new("whole", "MiB", 2),
                    Column::new("file system", "MiB", 2),
                    Column::new("hash tree", "KiB", 0),
                    Column::new("list", "KiB", 0),
                    Column::new("read ahead", "MiB", 2),
                    Column::new("file system against its files", "", 3),
                ],
                rows: image_rows.collect(),
            },
            Table {
                title: "in the init image and in the root".to_owned(),
                columns: vec![
                    Column::new("files", "", 0),
                    Column::new("their bytes", "MiB", 2),
                    Column::new("in both, compressed", "MiB", 2),
                    Column::new("once, as an extension", "MiB", 2),
                    Column::new("saved", "MiB", 2),
                ],
                rows: shared_rows.collect(),
            },
        ],
        bounds: bounds(program, loaded),
        charts: vec![Chart::Bars {
            axis: "MiB".to_owned(),
            series: vec!["read whole".to_owned(), "read in parts".to_owned()],
            bars: bars.collect(),
        }],
    })
}

fn notes() -> Vec<String> {
    vec![
        "A loader reads an initramfs or UKI whole, and firmware that measures hashes it. \
         initoverlayfs's has what reaches the image; the others' is all there is."
            .to_owned(),
        "Generic: every storage bus. virtio-blk: one. The mini-initramfs has the plan, \
         storage-init and modules; each UKI has systemd's stub, kernel and mini-initramfs. No \
         microcode."
            .to_owned(),
        "Images: of dracut's generic initramfs, sealed. Their modules are not compressed but by \
         the file system, which reads single blocks of them; in the initramfs they are .ko.xz in a \
         zstd archive. `lz4` is lz4hc, level 9, in clusters of 64 KiB."
            .to_owned(),
        "File system against its files: bytes of the one by the bytes of regular files in it. \
         Read ahead: what the list names, before compression, by a guess of what init and udev \
         need."
            .to_owned(),
        "In the init image and in the root: files with the same path and content, as two EROFS \
         images have them, or as both take them from one signed system extension (scope initrd and \
         system), which storage-init merges in the one and systemd-sysext in the other. The first \
         row is the limit: systemd and its libraries have to be there before a root can merge \
         anything. Where the image is the system (`--mode stay`), or the root is reached directly, \
         there are no two copies."
            .to_owned(),
        "tiny-initramfs has the drivers that it is told and no more than a mount; dracut, hostonly \
         has those of a virtio disk and ext4. mkosi-initrd is of packages, not of files of a \
         system."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_are_in_their_units() {
        let loaded = [(HOST.to_owned(), 1 << 20), (GENERIC.to_owned(), 7 << 20)];
        let program = [(PROGRAM.to_owned(), 80 << 10)];
        let bounds = bounds(&program, &loaded);
        let figures: Vec<_> = bounds
            .iter()
            .map(|b| (b.figure, b.bound, b.met()))
            .collect();
        assert_eq!(
            figures,
            [(1.0, 1.2, true), (7.0, 6.0, false), (80.0, 160.0, true)]
        );
        assert_eq!(super::bounds(&[], &loaded[..1]).len(), 1);
    }

    #[test]
    fn an_image_without_proof_has_no_tree() {
        let said = json!({"image": {"bytes": 30, "filesystem_bytes": 20, "root_hash": null,
            "raw_bytes": 80, "prefetch": null}});
        let found = image("x", Path::new("/none"), &said).unwrap();
        assert_eq!((found.whole, found.file_system, found.raw), (30, 20, 80));
        assert_eq!((found.hash_tree, found.list, found.ahead), (0, 0, 0));
        let error = image("x", Path::new("/none"), &json!({})).unwrap_err();
        assert_eq!(error.to_string(), "the build reports no /image/bytes");
    }
}
