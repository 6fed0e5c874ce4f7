//! A recorded boot of the guest: its own dracut image behind storage-init, in
//! QEMU, to multi-user, where `initoverlayfs profile collect` makes the profile.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qemu_driver::{Accel, Arch, Boot, Bus, Disk, Machine, RunOptions, Vm};
use vmtest::disk::Entry;
use vmtest::set::{ESP_GUID, Recipe};
use vmtest::{command, guest};

use crate::bench::Ground;

/// The limit on the boot: without read-ahead, in an emulator.
const LIMIT: Duration = Duration::from_secs(600);

/// How many of the last lines an error shows.
const SHOWN_LINES: usize = 25;

const PREFIX: &str = "BENCH-PROFILE ";
const FAILED: &str = "BENCH-FAILED";
const END: &str = "BENCH-END";

/// Runs at multi-user; /run and the ESP are mounted noexec. Consoles cut long lines, so the profile comes in short ones.
const COLLECT: &str = r#"
dmesg -n 1
kill -55 1
cp /mnt/initoverlayfs /root/
if /root/initoverlayfs profile collect --esp /mnt --output /run/profile.json >/run/said 2>&1; then
    gzip -9 </run/profile.json | base64 -w 100 | while read -r line; do
        echo "BENCH-PROFILE $line" >/dev/console
    done
else
    echo "BENCH-FAILED $(cat /run/said)" >/dev/console
fi
echo BENCH-END >/dev/console
systemctl poweroff --force
"#;

/// Records a boot; where the profile is, in `dir`.
pub(super) fn profile(ground: &Ground, dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let dir = dir.join("recorded");
    let initrd = ground.guest.dracut_initrd();
    let set = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &initrd,
        modules: "virtio-blk",
        options: &["--profile", "none"],
    }
    .build(&dir)?;
    let script = dir.join("collect.sh");
    fs::write(&script, COLLECT)?;
    let disk = dir.join("disk");
    let entries = vec![
        Entry::new("initoverlayfs", ground.dist.join("initoverlayfs")),
        Entry::new("collect", &script),
    ];
    set.disk_with(&disk, &ground.guest, 512, entries)?;
    let unit = format!(
        "[Unit]\nAfter=multi-user.target\n[Service]\n\
         ExecStartPre=/bin/mount /dev/disk/by-partuuid/{ESP_GUID} /mnt\n\
         ExecStart=/bin/sh /mnt/collect\n"
    );
    let unit = command::output_with_input(Command::new("base64").arg("--wrap=0"), unit.as_bytes())?;
    let boot = Boot::Direct {
        kernel: ground.guest.kernel(),
        initrd: Some(set.mini_initramfs()),
        append: format!(
            "console=ttyS0 panic=-1 root=LABEL={} rw iofs-test.poweroff=no \
             initoverlayfs.profile=record systemd.wants=collect.service \
             systemd.set_credential_binary=systemd.extra-unit.collect.service:{}",
            guest::ROOT_LABEL,
            String::from_utf8_lossy(&unit)
        ),
    };
    let mut machine = Machine::new(Arch::X86_64, Accel::Tcg, boot);
    // Two could run into the emulator: half of an instruction that the other replaces.
    machine.cpus = 1;
    machine.disks.push(Disk::scratch(&disk, Bus::VirtioBlk));
    let outcome = Vm::start(&machine, RunOptions::default())?.finish(LIMIT)?;
    let packed: Vec<&str> = outcome
        .lines
        .iter()
        .filter_map(|line| line.text.split_once(PREFIX))
        .map(|(_, text)| text.trim())
        .collect();
    if packed.is_empty() || outcome.find(END).is_none() {
        let failed = outcome.find(FAILED).map(|line| line.text.clone());
        let why = failed.unwrap_or_else(|| {
            let lines = &outcome.lines;
            let tail: Vec<&str> = lines
                .iter()
                .skip(lines.len().saturating_sub(SHOWN_LINES))
                .map(|line| line.text.as_str())
                .collect();
            format!("the boot did not get there; it ends:\n{}", tail.join("\n"))
        });
        return Err(format!("recording a boot: {why}").into());
    }
    let unpacked = command::output_with_input(
        Command::new("sh").args(["-ec", "base64 -d | gzip -d"]),
        (packed.join("\n") + "\n").as_bytes(),
    )?;
    fs::remove_file(&disk)?;
    let profile = dir.join("profile.json");
    fs::write(&profile, unpacked)?;
    Ok(profile)
}
