//! Images in memory, on machines without any disk: packed into the mini-initramfs, and
//! put into memory by QEMU as by a boot loader, with what `build --memory` says.
//!
//! The image is dracut's; its systemd comes up, once, and turns the machine off.

use std::fs;
use std::os::unix::fs::FileExt;

use iofs_gpt::{Table, types};
use libtest_mimic::Failed;
use qemu_driver::Outcome;
use serde_json::Value;
use vmtest::set::Recipe;

use crate::Test;
use crate::direct::inits;
use crate::support::{Ground, Small, expect, fail, run};

pub(crate) const TESTS: &[Test] = &[
    Test::new("embedded_image_without_any_disk", embedded),
    Test::new("image_in_memory_without_any_disk", pmem),
    Test::new("image_in_memory_used_where_it_lies", dax),
    Test::new("image_in_memory_tampered_anywhere", tampered),
];

/// Where the image is put: far from where kernel and initramfs are, which begin at
/// 16 MiB and end at 2 GiB.
const ADDRESS: &str = "0x20000000";

/// Builds a set with these options, and boots it on a machine without disks.
fn boot(ground: &Ground, name: &str, options: &[&str]) -> Result<Outcome, Failed> {
    let dir = ground.dir().join(name);
    let initrd = ground.guest.dracut_initrd();
    let recipe = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &initrd,
        modules: "generic",
        options,
    };
    let (set, report) = recipe.build_with_report(&dir)?;
    let text = |pointer: &str| report.pointer(pointer).and_then(Value::as_str);
    let memmap = text("/memory/kernel_argument").unwrap_or_default();
    let append = format!("rd.systemd.unit=poweroff.target {memmap}");
    let mut machine = ground.direct(&set.mini_initramfs(), &append);
    for pointer in ["/memory/qemu/0", "/memory/qemu/1"] {
        machine.extra.extend(text(pointer).map(Into::into));
    }
    let outcome = run(&machine)?;
    std::fs::remove_dir_all(&dir)?;
    for stage in ["[stage proof] root hash ", "[stage exec] /init"] {
        expect(&outcome, stage)?;
    }
    match inits(&outcome) {
        1 => Ok(outcome),
        count => Err(fail(&outcome, &format!("systemd came up {count} times"))),
    }
}

/// The last block of the file system, which no boot would read: with DAX it is told all
/// the same, since nothing would tell it later.
fn tampered(ground: &Ground) -> Result<(), Failed> {
    let small = Small {
        modules: "generic",
        options: &["--image-on", "pmem:dax", "--image-compress", "none"],
        ..Small::of(ground)
    };
    let set = small.build(ground, &ground.dir().join("tampered"))?;
    let bytes = fs::read(&set.image)?;
    let table = Table::read(bytes.as_slice(), 512).map_err(|e| e.to_string())?;
    let mut parts = table.partitions.iter();
    let root = parts.find(|part| part.type_guid == types::ROOT_X86_64);
    let last = root.ok_or("the image has no file system")?.end() - 1;
    let byte = bytes.get(usize::try_from(last)?).copied();
    let image = fs::File::options().write(true).open(&set.image)?;
    image.write_all_at(&[byte.unwrap_or_default() ^ 1], last)?;

    let size = (bytes.len() as u64).next_multiple_of(2 << 20);
    let append = format!("memmap={size}!{ADDRESS} initoverlayfs.failure_wait=0");
    let mut machine = ground.direct(&set.mini_initramfs(), &append);
    let loader = format!(
        "loader,file={},addr={ADDRESS},force-raw=on",
        set.image.display()
    );
    machine.extra.extend(["-device".into(), loader.into()]);
    let outcome = run(&machine)?;
    expect(&outcome, "BOOT FAILED: the init image was not found")?;
    let named = format!("{} to {}", last + 1 - 4096, last + 1);
    expect(&outcome, &named)?;
    expect(
        &outcome,
        "no image on /dev/pmem0: the image is not a trusted image: ",
    )
}

fn embedded(ground: &Ground) -> Result<(), Failed> {
    let outcome = boot(ground, "embedded", &["--image-on", "embedded"])?;
    expect(&outcome, "[stage device] the mini-initramfs, ")?;
    expect(
        &outcome,
        "[stage image] /dev/dm-0 (dm-verity over /dev/loop0)",
    )
}

fn pmem(ground: &Ground) -> Result<(), Failed> {
    let options = ["--image-on", "pmem", "--memory", ADDRESS];
    let outcome = boot(ground, "pmem", &options)?;
    expect(&outcome, "[stage device] /dev/pmem0, ")?;
    expect(
        &outcome,
        "[stage image] /dev/dm-1 (dm-verity over dm-linear)",
    )
}

fn dax(ground: &Ground) -> Result<(), Failed> {
    let options = [
        "--image-on",
        "pmem:dax",
        "--memory",
        ADDRESS,
        "--image-compress",
        "none",
    ];
    let outcome = boot(ground, "dax", &options)?;
    expect(&outcome, "every block is proven")?;
    expect(&outcome, "[stage image] /dev/dm-0 (dm-linear)")?;
    expect(&outcome, "the image is used where it lies (DAX)")
}
