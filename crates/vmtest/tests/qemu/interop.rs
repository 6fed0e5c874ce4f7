//! Images and UKIs in both directions: ours under systemd's and cryptsetup's
//! tools, theirs under ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use qemu_driver::FirmwareKind;
use vmtest::command;
use vmtest::disk::Entry;
use vmtest::packages::find_program;
use vmtest::set::{Set, taken_apart};
use vmtest::tools::Tools;

use crate::Test;
use crate::support::{CONSOLE, Ground, Key, Small, expect, reports};
use crate::trust::root_hash;

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "veritysetup_and_systemd_dissect_accept_our_images",
        accepted,
    ),
    Test::new("systemds_image_boots_from_a_uki_by_ukify", systemds_own),
];

/// Sealed and signed, each as a whole and taken apart. What is not signed, or is
/// changed, is not accepted: else the tools' word would mean nothing.
fn accepted(ground: &Ground) -> Result<(), Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let key = ground.key("accepted", "rsa2048")?;
    for (name, signer) in [("accepted-sealed", None), ("accepted-signed", Some(&key))] {
        let dir = ground.dir().join(name);
        let set = Small {
            signer,
            ..Small::of(ground)
        }
        .build(ground, &dir)?;
        let dissect = |policy: &str| {
            let policy = format!("--image-policy=root={policy}:=unused+absent");
            let args = ["systemd-dissect", "--validate", &policy, "/work/image.raw"];
            command::output(&mut tools.chroot(&dir).command(&args))
        };
        dissect("verity")?;
        match (dissect("signed"), signer) {
            (Ok(_), Some(_)) | (Err(_), None) => {}
            (Ok(_), None) => return Err("systemd-dissect takes a sealed image for signed".into()),
            (Err(error), Some(_)) => return Err(error.into()),
        }
        verity(&set, &dir)?;
    }
    Ok(())
}

/// veritysetup reads every block of the image's partitions.
fn verity(set: &Set, dir: &Path) -> Result<(), Failed> {
    let parts = dir.join("parts");
    fs::create_dir_all(&parts)?;
    let partitions = taken_apart(&set.image, &parts)?;
    let content = |at: usize| {
        let partition = partitions.get(at).ok_or("a partition is missing")?;
        partition.content.clone().ok_or("a partition is empty")
    };
    let (data, hashes) = (content(0)?, content(1)?);
    let root = root_hash(set)?;
    let program = find_program("veritysetup").ok_or("veritysetup is not installed")?;
    let check = || {
        let mut veritysetup = Command::new(&program);
        veritysetup.arg("verify").args([&data, &hashes]).arg(&root);
        command::output(&mut veritysetup)
    };
    check()?;
    let mut bytes = fs::read(&data)?;
    // The second block's; a small image has it.
    let byte = bytes.get_mut(5000).ok_or("the file system is too small")?;
    *byte ^= 1;
    fs::write(&data, bytes)?;
    match check() {
        Ok(_) => Err("veritysetup accepts a changed block".into()),
        Err(_) => Ok(()),
    }
}

/// An image made and signed by systemd-repart, and a UKI that ukify made with
/// our mini-initramfs: firmware, stub and all but the boot itself are systemd's.
fn systemds_own(ground: &Ground) -> Result<(), Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let key = ground.key("repart", "rsa2048")?;
    let dir = ground.dir().join("systemds");
    // What the boot is told: the certificate, the product and where to look.
    let trusted = key.certificate.to_string_lossy().into_owned();
    let set = Small {
        options: &[
            "--auth",
            "signed",
            "--trust",
            &trusted,
            "--product",
            "theirs",
            "--version",
            "3",
            "--min-version",
            "2",
        ],
        ..Small::of(ground)
    }
    .build(ground, &dir)?;
    let image = repart(ground, &tools, &key, &dir)?;

    let words = "testinit.cat=/etc/os-release testinit.stacked";
    let cmdline = format!("--cmdline={CONSOLE} {words}");
    command::output(&mut tools.chroot(&dir).command(&[
        "ukify",
        "build",
        "--linux=/work/vmlinuz",
        "--initrd=/work/mini-initramfs.img",
        &cmdline,
        "--os-release=ID=test",
        "--output=/work/theirs.efi",
    ]))?;
    let place = set.image_path.as_deref().ok_or("the image is no file")?;
    let entries = [
        Entry::new(place.trim_start_matches('/'), image),
        Entry::new("EFI/BOOT/BOOTX64.EFI", dir.join("theirs.efi")),
    ];
    let disks = [ground.esp_disk(&dir.join("disk.img"), &entries)?];
    let firmware = ground.firmware(FirmwareKind::Plain, &dir)?;
    let outcome = ground.machine(firmware, &disks, None)?;
    for text in [
        "starting Boot0001 ",
        "[stage start] storage-init",
        ", signed by ",
        "TESTINIT stage: first",
        "TESTINIT stacked: dm-0 loop0",
    ] {
        expect(&outcome, text)?;
    }
    match reports(&outcome, "/etc/os-release").contains(&"NAME=repart") {
        true => Ok(()),
        false => Err("the image that booted is not systemd-repart's".into()),
    }
}

/// An image of the same tree by systemd-repart, version 2 of the product.
fn repart(ground: &Ground, tools: &Tools, key: &Key, dir: &Path) -> Result<PathBuf, Failed> {
    let tree = dir.join("tree");
    command::output(
        Command::new("cp")
            .arg("-a")
            .args([ground.small_tree()?, &tree]),
    )?;
    fs::write(
        tree.join("etc/os-release"),
        "NAME=repart\nID=test\nIMAGE_ID=theirs\nIMAGE_VERSION=2\n",
    )?;
    let definitions = dir.join("repart.d");
    fs::create_dir_all(&definitions)?;
    for (name, rest) in [
        (
            "10-root",
            "Type=root\nFormat=erofs\nCopyFiles=/work/tree:/\nMinimize=best\nVerity=data\n",
        ),
        (
            "20-verity",
            "Type=root-verity\nMinimize=best\nVerity=hash\n",
        ),
        ("30-sig", "Type=root-verity-sig\nVerity=signature\n"),
    ] {
        let text = format!("[Partition]\n{rest}VerityMatchKey=root\n");
        fs::write(definitions.join(format!("{name}.conf")), text)?;
    }
    fs::copy(&key.key, dir.join("repart.key"))?;
    fs::copy(&key.certificate, dir.join("repart.crt"))?;
    command::output(&mut tools.chroot(dir).command(&[
        "systemd-repart",
        "--offline=yes",
        "--empty=create",
        "--size=auto",
        "--definitions=/work/repart.d",
        "--private-key=/work/repart.key",
        "--certificate=/work/repart.crt",
        "/work/theirs.raw",
    ]))?;
    Ok(dir.join("theirs.raw"))
}
