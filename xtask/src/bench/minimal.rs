//! The hand-made initramfs: one machine's modules, one table, one init.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use iofs_gpt::Table;
use iofs_verity::{OnCorruption, RootHash, Superblock, Target};
use serde_json::Value;
use vmtest::set::Set;
use vmtest::{guest, initramfs};

use crate::step;

/// The init in the image, as dracut's initramfs has it.
const INIT: &str = "/init";

/// Makes an initramfs that reaches the image of `set`, whose partitions are the
/// first of the guest's first virtio disk: with the same modules, uncompressed,
/// loaded one after the other. `report` is what the build of the set said.
pub(super) fn make(set: &Set, report: &Value, folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    unpack(&set.mini_initramfs(), folder)?;
    let program = guest::build_freestanding("iofs-minimal", &step::logs()?.join("minimal.log"))?;
    fs::copy(program, folder.join("init"))?;
    let mut names = [".", "dev", "image", "writable", "root", "init", "steps"]
        .map(str::to_owned)
        .to_vec();
    for name in ["dev", "image", "writable", "root"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let mut steps = String::new();
    let modules = report.pointer("/mini/modules").and_then(Value::as_array);
    for module in modules.ok_or("the build reports no modules")? {
        let name = module.get("name").and_then(Value::as_str);
        let name = name.ok_or("the build reports a module without a name")?;
        let from = format!("initoverlayfs/modules/{name}.ko");
        let to = format!("{name}.ko");
        fs::rename(folder.join(&from), folder.join(&to))
            .map_err(|error| format!("{from} of the mini-initramfs: {error}"))?;
        steps.push_str(&format!("module /{to}\n"));
        names.push(to);
    }
    steps.push_str(&verity(set, report)?);
    steps.push_str(&format!("init {INIT}\n"));
    fs::write(folder.join("steps"), steps)?;
    let initrd = folder.with_extension("cpio");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    initramfs::of_files(&initrd, folder, &names)?;
    Ok(initrd)
}

/// The files of a compressed archive of ours.
fn unpack(archive: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let plain = vmtest::command::output(Command::new("zstd").arg("-dcq").arg(archive))?;
    let path = folder.with_extension("plain");
    fs::write(&path, plain)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--extract", "--quiet", "--make-directories"])
        .arg("--file")
        .arg(&path)
        .args(["init", "initoverlayfs/modules/*"])
        .current_dir(folder);
    vmtest::command::output(&mut cpio)?;
    fs::remove_file(&path)?;
    Ok(())
}

/// The line for dm-verity over two partitions of the disk.
fn verity(set: &Set, report: &Value) -> Result<String, Box<dyn Error>> {
    let root = report.pointer("/image/root_hash").and_then(Value::as_str);
    let root = RootHash::from_hex(root.ok_or("the build reports no root hash")?)
        .map_err(|error| format!("the root hash: {error}"))?;
    let image = fs::read(&set.image)?;
    let table = Table::read(&image[..], 512).map_err(|error| format!("the image: {error}"))?;
    let find = |uuid| {
        let at = table.partitions.iter().position(|p| p.part_guid == uuid);
        at.and_then(|at| Some((at + 1, table.partitions.get(at)?)))
            .ok_or("the image has no such partition")
    };
    let (data, _) = find(root.data_part_uuid())?;
    let (hashes, tree) = find(root.verity_part_uuid())?;
    let tree = usize::try_from(tree.start)
        .ok()
        .and_then(|at| image.get(at..));
    let superblock = Superblock::read(tree.ok_or("the image is truncated")?)
        .map_err(|error| format!("the tree: {error}"))?;
    let target = Target {
        data_device: &format!("/dev/vda{data}"),
        hash_device: &format!("/dev/vda{hashes}"),
        hash_start: superblock.params.tree_start(),
        params: &superblock.params,
        root: &root,
        on_corruption: OnCorruption::Error,
        signature_key: None,
        check_at_most_once: false,
    };
    let arguments = target.arguments().map_err(|error| error.to_string())?;
    Ok(format!("verity {} {arguments}\n", target.sectors()))
}
