//! What the image's init is handed, by systemd's own boot stub and to systemd's
//! own tools, and what is left of all this in the system.

use std::fs;
use std::process::Command;

use libtest_mimic::Failed;
use qemu_driver::{Bus, Disk, FirmwareKind, Outcome};
use vmtest::command;
use vmtest::disk::Entry;
use vmtest::guest;
use vmtest::set::Recipe;
use vmtest::tools::Tools;

use crate::Test;
use crate::support::{CONSOLE, Ground, Small, expect, facts, fail, reports};

pub(crate) const TESTS: &[Test] = &[
    Test::new("the_stubs_companion_files_reach_the_image", companions),
    Test::new("gpt_auto_finds_the_root_and_nothing_stays_behind", gpt_auto),
];

/// Where firmware finds a program by itself, and systemd-stub its files.
const UKI: &str = "EFI/BOOT/BOOTX64.EFI";

/// Companion files on the ESP, and where systemd-stub's manual page says that
/// they are put.
const COMPANIONS: [(&str, &str); 4] = [
    (
        "EFI/BOOT/BOOTX64.EFI.extra.d/own.cred",
        "/.extra/credentials/own.cred",
    ),
    (
        "loader/credentials/all.cred",
        "/.extra/global_credentials/all.cred",
    ),
    (
        "EFI/BOOT/BOOTX64.EFI.extra.d/tool.sysext.raw",
        "/.extra/sysext/tool.sysext.raw",
    ),
    (
        "EFI/BOOT/BOOTX64.EFI.extra.d/conf.confext.raw",
        "/.extra/confext/conf.confext.raw",
    ),
];

/// The image proves itself: what nobody has proven arrives all the same, where
/// systemd looks for it.
fn companions(ground: &Ground) -> Result<(), Failed> {
    let key = ground.key("companions", "rsa2048")?;
    let dir = ground.dir().join("companions");
    let words: Vec<String> = COMPANIONS
        .iter()
        .map(|(_, to)| format!("testinit.stat={to} testinit.cat={to}"))
        .collect();
    let set = Small {
        words: &words.join(" "),
        uki: Some(&key),
        ..Small::of(ground)
    }
    .build(ground, &dir)?;
    let place = set.image_path.as_deref().ok_or("the image is no file")?;
    let mut entries = vec![
        Entry::new(place.trim_start_matches('/'), &set.image),
        Entry::new(UKI, set.uki.as_deref().ok_or("no UKI was built")?),
    ];
    for (index, (on_esp, to)) in COMPANIONS.iter().enumerate() {
        let file = dir.join(format!("companion{index}"));
        fs::write(&file, format!("this goes to {to}\n"))?;
        entries.push(Entry::new(on_esp, file));
    }
    let disks = [ground.esp_disk(&dir.join("disk.img"), &entries)?];
    let firmware = ground.firmware(FirmwareKind::Plain, &dir)?;
    let outcome = ground.machine(firmware, &disks, None)?;
    expect(&outcome, "storage-init: carried over /.extra (")?;
    expect(&outcome, "TESTINIT end")?;
    for (_, to) in COMPANIONS {
        let said = reports(&outcome, to);
        let text = format!("this goes to {to}");
        let stat = format!("RegularFile mode 400 owner 0:0 size {}", text.len() + 1);
        let open = stat.replace("400", "444");
        match said[..] {
            [first, second] if (first == stat || first == open) && second == text => {}
            _ => return Err(fail(&outcome, &format!("{to}: {said:?}"))),
        }
    }
    Ok(())
}

/// Runs before multi-user is reached, and states what the report of the guest
/// does not: users of modules, block devices, and that the ESP takes a file.
const LOOK: &str = "[Unit]\n\
    DefaultDependencies=no\n\
    After=local-fs.target\n\
    Before=multi-user.target\n\
    [Service]\n\
    Type=oneshot\n\
    ExecStart=/bin/sh -c 'say() { while read -r line; do \
    echo \"<2>INITOVERLAYFS-FACT $$1: $$line\" >/dev/kmsg; done; }; \
    ls /sys/block | say block; cut -d \" \" -f 1,3 /proc/modules | say users; \
    echo written >/efi/iofs-test; cat /efi/iofs-test | say esp-file; \
    findmnt -no OPTIONS /efi | say esp-options'\n";

/// A UKI with no word about the root: systemd-gpt-auto-generator finds it beside
/// the ESP that the stub says it came from. In the system that it starts nothing
/// of mini-initramfs and image is in use.
fn gpt_auto(ground: &Ground) -> Result<(), Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let dir = ground.dir().join("gpt-auto");
    let stub = tools.stub();
    let stub = stub.to_string_lossy();
    let unit = base64(LOOK)?;
    let cmdline = format!(
        "{CONSOLE} rw iofs-test.facts=mounts,failed,devices,boot-json systemd.wants=look.service \
         systemd.set_credential_binary=systemd.extra-unit.look.service:{unit}"
    );
    let set = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &ground.guest.dracut_initrd(),
        modules: "virtio-blk",
        options: &["--uki", "--stub", &stub, "--cmdline", &cmdline],
    }
    .build(&dir)?;
    let uki = set.uki.as_deref().ok_or("no UKI was built")?;
    let path = dir.join("disk.img");
    set.disk_with(&path, &ground.guest, 512, vec![Entry::new(UKI, uki)])?;
    let disks = [Disk::scratch(&path, Bus::VirtioBlk)];
    let firmware = ground.firmware(FirmwareKind::Plain, &dir)?;
    let outcome = ground.machine(firmware, &disks, None)?;
    fs::remove_file(&path)?;
    expect(&outcome, ", sealed in the boot plan")?;
    expect(&outcome, guest::REACHED)?;
    let mounts = facts(&outcome, "mount");
    let mounted = |start: &str| mounts.iter().any(|mount| mount.starts_with(start));
    if !mounted("/ /dev/vda2 ext4 rw") {
        return Err(fail(&outcome, &format!("the root is not vda2: {mounts:?}")));
    }
    if let Some(unit) = facts(&outcome, "failed").first() {
        return Err(fail(&outcome, &format!("a unit failed: {unit}")));
    }
    nothing_stays(&outcome)?;
    if facts(&outcome, "esp-file") != ["written"] {
        return Err(fail(&outcome, "the ESP cannot be written"));
    }
    Ok(())
}

/// Devices are gone, and nobody uses the modules that they took.
fn nothing_stays(outcome: &Outcome) -> Result<(), Failed> {
    let mounts = facts(outcome, "mount");
    let of_image = |mount: &&&str| mount.contains(" erofs ") || mount.contains(" overlay ");
    if let Some(mount) = mounts.iter().find(of_image) {
        return Err(fail(outcome, &format!("still mounted: {mount}")));
    }
    if let Some(device) = facts(outcome, "loop").first() {
        return Err(fail(outcome, &format!("still attached: {device}")));
    }
    let blocks = facts(outcome, "block");
    if !blocks.contains(&"vda") {
        return Err(fail(outcome, "no block device was told"));
    }
    if let Some(device) = blocks.iter().find(|block| block.starts_with("dm-")) {
        return Err(fail(outcome, &format!("still there: {device}")));
    }
    let modules = facts(outcome, "users");
    for module in ["erofs", "overlay", "loop", "dm_verity"] {
        let unused = format!("{module} 0");
        if !modules.contains(&unused.as_str()) {
            return Err(fail(outcome, &format!("not {unused:?}: {modules:?}")));
        }
    }
    Ok(())
}

pub(crate) fn base64(text: &str) -> Result<String, Failed> {
    let mut command = Command::new("base64");
    let output = command::output_with_input(command.arg("--wrap=0"), text.as_bytes())?;
    Ok(String::from_utf8(output)?)
}
