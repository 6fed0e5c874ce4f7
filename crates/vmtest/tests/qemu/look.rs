//! Boots in which a shell script looks around: Debian with systemd-boot, a UKI for
//! any machine, dracut's image, the root beside the ESP, multi-user.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;
use qemu_driver::{Bus, Disk, FirmwareKind, Outcome};
use vmtest::disk::Entry;
use vmtest::set::Recipe;
use vmtest::tools::Tools;

use crate::support::{CONSOLE, Ground, expect};

/// Where the program and the unit's script lie on the ESP.
const PROGRAM: &str = "initoverlayfs";
const SCRIPT: &str = "look";

/// What each script begins with: others' lines would stand in the middle of the
/// facts', and the ESP is mounted noexec.
const BEGIN: &str = r#"fact() {
    name=$1
    while IFS= read -r line; do
        echo "INITOVERLAYFS-FACT $name: $line" >/dev/console
    done
}
kill -55 1
dmesg -n 3
cp /efi/initoverlayfs /root/
"#;

/// And ends with.
const END: &str = r"echo '<2>INITOVERLAYFS-TEST looked' >/dev/kmsg
systemctl poweroff --force
";

/// The unit, as a credential: simple, so that systemd is done without it.
const UNIT: &str = "[Unit]\n\
    After=multi-user.target initoverlayfs-test.service\n\
    RequiresMountsFor=/efi\n\
    [Service]\n\
    ExecStart=/bin/sh /efi/look\n";

/// Boots to multi-user with this word on the command line, from an image that is
/// built with these options, and runs `body` there; what it said.
pub(crate) fn boot(
    ground: &Ground,
    dir: &Path,
    body: &str,
    word: &str,
    options: &[&str],
) -> Result<Outcome, Failed> {
    boot_with(ground, dir, body, word, options, Vec::new())
}

/// The same, with these files on the ESP, which is mounted on /efi.
pub(crate) fn boot_with(
    ground: &Ground,
    dir: &Path,
    body: &str,
    word: &str,
    options: &[&str],
    files: Vec<Entry>,
) -> Result<Outcome, Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let unit = crate::handover::base64(UNIT)?;
    let cmdline = format!(
        "{CONSOLE} rw iofs-test.poweroff=no {word} systemd.wants=look.service \
         systemd.set_credential_binary=systemd.extra-unit.look.service:{unit}"
    );
    let stub = tools.stub();
    let stub = stub.to_string_lossy();
    let mut all = vec!["--uki", "--stub", &stub, "--cmdline", &cmdline];
    all.extend(options);
    let set = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &ground.guest.dracut_initrd(),
        modules: "generic",
        options: &all,
    }
    .build(dir)?;
    let script = dir.join("look.sh");
    fs::write(&script, format!("{BEGIN}{body}{END}"))?;
    let path = dir.join("disk.img");
    let mut entries = vec![
        Entry::new("EFI/BOOT/BOOTX64.EFI", tools.systemd_boot()),
        Entry::new(
            "EFI/Linux/test.efi",
            set.uki.as_deref().ok_or("no UKI was built")?,
        ),
        Entry::new(PROGRAM, ground.dist.join(PROGRAM)),
        Entry::new(SCRIPT, &script),
    ];
    entries.extend(files);
    set.disk_with(&path, &ground.guest, 512, entries)?;
    let disks = [Disk::scratch(&path, Bus::VirtioBlk)];
    let firmware = ground.firmware(FirmwareKind::Plain, dir)?;
    let outcome = ground.machine(firmware, &disks, None)?;
    fs::remove_file(&path)?;
    expect(&outcome, "INITOVERLAYFS-TEST looked")?;
    Ok(outcome)
}
