//! Boots of the guest through storage-init.

use std::fs;

use libtest_mimic::Failed;
use qemu_driver::{Bus, Disk, Outcome};
use serde_json::Value;
use vmtest::guest;
use vmtest::set::Set;

use crate::Test;
use crate::support::{Ground, expect, facts, fail};

pub(crate) const TESTS: &[Test] = &[
    Test::new("plain_dracut_reaches_multi_user", plain_dracut),
    Test::new("dracut_image_reaches_multi_user", dracut),
    Test::new("initramfs_tools_image_reaches_multi_user", |ground| {
        initramfs_tools(ground)
    }),
];

const FACTS: &str = "iofs-test.facts=mounts,modules,failed,boot-json";

/// The guest on its own: what fails here is not storage-init's fault.
fn plain_dracut(ground: &Ground) -> Result<(), Failed> {
    let disk = Disk::scratch(ground.guest.root_image(), Bus::VirtioBlk);
    let outcome = ground.boot(&ground.guest.dracut_initrd(), disk, FACTS)?;
    expect(&outcome, guest::REACHED)?;
    multi_user_is_sound(&outcome, "/dev/vda")
}

fn dracut(ground: &Ground) -> Result<(), Failed> {
    through_image(ground, ground.dracut()?)
}

fn initramfs_tools(ground: &Ground) -> Result<(), Failed> {
    through_image(ground, ground.initramfs_tools()?)
}

/// Boots the set from a disk with an ESP and the root, to multi-user and to a
/// clean end. The record of the boot is there, and so is the ESP, which the
/// image's device must not claim: systemd mounts it at /efi by itself.
fn through_image(ground: &Ground, set: &Set) -> Result<(), Failed> {
    let path = ground.dir().join("disk.img");
    set.disk(&path, &ground.guest, 512)?;
    let disk = Disk::scratch(&path, Bus::VirtioBlk);
    let append = format!("{FACTS},esp iofs-test.poweroff=clean");
    let outcome = ground.boot(&set.mini_initramfs(), disk, &append)?;
    fs::remove_file(&path)?;
    expect(&outcome, guest::REACHED)?;
    multi_user_is_sound(&outcome, "/dev/vda2")?;
    let text = facts(&outcome, "boot-json").join("\n");
    let report: Value =
        serde_json::from_str(&text).map_err(|e| fail(&outcome, &format!("boot.json: {e}")))?;
    if report.pointer("/image/candidate") != Some(&Value::from("esp")) {
        return Err(fail(&outcome, "boot.json names another candidate than esp"));
    }
    let file = set.image_path.as_deref().unwrap_or_default();
    let found = format!("/efi{file}");
    if !facts(&outcome, "esp").contains(&found.as_str()) {
        return Err(fail(&outcome, &format!("{found} is not seen")));
    }
    Ok(())
}

fn multi_user_is_sound(outcome: &Outcome, device: &str) -> Result<(), Failed> {
    let root = format!("/ {device} ext4");
    let mounts = facts(outcome, "mount");
    if !mounts.iter().any(|mount| mount.starts_with(&root)) {
        return Err(fail(outcome, &format!("no mount {root:?}")));
    }
    match facts(outcome, "failed").first() {
        Some(unit) => Err(fail(outcome, &format!("a unit failed: {unit}"))),
        None => Ok(()),
    }
}
