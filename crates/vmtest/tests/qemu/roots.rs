//! Roots on LUKS, LVM, MD, several disks and other file systems, opened by the
//! distribution's own second stage behind storage-init.
//!
//! The image is on an ESP in front of the root's first disk. What asks for a
//! passphrase gets it typed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use iofs_gpt::Uuid;
use libtest_mimic::Failed;
use qemu_driver::{Answer, Arch, Boot, Bus, Disk, Machine, Outcome, RunOptions};
use serde_json::Value;
use vmtest::command;
use vmtest::disk::{self, Entry, Partition};
use vmtest::guest;
use vmtest::matrix::{Reached, Row};
use vmtest::mkosi::Mkosi;
use vmtest::set::{ESP_GUID, ROOT_GUID, Recipe, Set};
use vmtest::stack::{ARRAY_UUID, KEY, LUKS_UUID, Stack};
use vmtest::storage::{PASSPHRASE, Storage};

use crate::Test;
use crate::support::{CONSOLE, Ground, expect, facts, fail, make_esp, run_with};
use crate::trust::with_image;

pub(crate) const TESTS: &[Test] = &[
    Test::new("luks_on_lvm_on_a_degraded_raid", |ground| {
        LUKS_LVM_RAID_DEGRADED.boot(ground)
    }),
    Test::new("lvm_by_initramfs_tools", |ground| {
        LVM_BY_INITRAMFS_TOOLS.boot(ground)
    }),
    Test::slow("luks_with_a_key_file_on_another_disk", key_on_a_disk),
    Test::slow(
        "luks_with_a_key_file_in_the_initramfs",
        key_in_the_initramfs,
    ),
    Test::slow("luks_by_initramfs_tools", |ground| {
        LUKS_BY_INITRAMFS_TOOLS.boot(ground)
    }),
    Test::slow("raid", |ground| RAID.boot(ground)),
    Test::slow("degraded_raid_by_initramfs_tools", |ground| {
        RAID_BY_INITRAMFS_TOOLS.boot(ground)
    }),
    Test::slow("btrfs_over_two_disks", |ground| BTRFS.boot(ground)),
    Test::slow("xfs", |ground| XFS.boot(ground)),
    Test::slow(MKOSI, mkosi),
];

/// The limit on a boot. Four minutes were seen on two very busy processors.
pub(crate) const LIMIT: Duration = Duration::from_secs(480);

/// What is needed by every root, made when a test first asks for it.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) storage: Storage,
    dracut: OnceLock<Set>,
    initramfs_tools: OnceLock<Set>,
    stacks: [OnceLock<Vec<PathBuf>>; Stack::ALL.len()],
}

impl Roots {
    pub(crate) fn of(ground: &Ground) -> Result<&Self, Failed> {
        if let Some(roots) = ground.roots.get() {
            return Ok(roots);
        }
        let storage = Storage::ensure(&ground.guest, &mut |line| eprintln!("{line}"))?;
        Ok(ground.roots.get_or_init(|| Self {
            storage,
            dracut: OnceLock::new(),
            initramfs_tools: OnceLock::new(),
            stacks: Default::default(),
        }))
    }

    pub(crate) fn set(&self, ground: &Ground, stage: Stage) -> Result<&Set, Failed> {
        let (made, initrd) = match stage {
            Stage::Dracut => (&self.dracut, self.storage.dracut_initrd()),
            Stage::InitramfsTools => (&self.initramfs_tools, self.storage.initramfs_tools_initrd()),
        };
        if let Some(set) = made.get() {
            return Ok(set);
        }
        let dir = ground.dir().join(format!("roots-{}", stage.name()));
        let set = self.build(ground, &initrd, &dir, &[])?;
        Ok(made.get_or_init(|| set))
    }

    /// A set of this initramfs for virtio disks.
    fn build(
        &self,
        ground: &Ground,
        initrd: &Path,
        dir: &Path,
        options: &[&str],
    ) -> Result<Set, Failed> {
        command::output(
            Command::new(ground.dist.join("initoverlayfs"))
                .args(["build", "--json", "--modules", "virtio-blk,virtio-pci"])
                .arg("--initrd")
                .arg(initrd)
                .arg("--sysroot")
                .arg(self.storage.tree())
                .args(options)
                .arg("--output")
                .arg(dir),
        )?;
        Ok(Set::open(dir)?)
    }

    pub(crate) fn stack(&self, ground: &Ground, stack: Stack) -> Result<&[PathBuf], Failed> {
        let made = self
            .stacks
            .get(stack as usize)
            .ok_or("a stack without a number")?;
        if let Some(disks) = made.get() {
            return Ok(disks);
        }
        let disks = stack.make(&self.storage, &ground.dir().join("stacks"))?;
        Ok(made.get_or_init(|| disks))
    }
}

/// What made the second stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Dracut,
    InitramfsTools,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dracut => "dracut",
            Self::InitramfsTools => "initramfs-tools",
        }
    }
}

/// A boot and what must be seen of it.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// The test's name.
    test: &'static str,
    /// The root in the matrix.
    root: &'static str,
    stage: Stage,
    stack: Stack,
    /// The second disk is not there.
    degraded: bool,
    /// The kernel command line, from `root=` on.
    words: &'static str,
    /// What is typed, if anything, and behind which prompt.
    prompt: Option<&'static str>,
    /// Device and file system of `/`: one of these.
    mounts: &'static [&'static str],
    /// What must be below it: kinds in lsblk's list.
    below: &'static [&'static str],
}

const LUKS_LVM_RAID_DEGRADED: Case = Case {
    test: "luks_on_lvm_on_a_degraded_raid",
    root: "ext4 on LUKS2 (passphrase) on LVM on RAID 1, one disk missing",
    stage: Stage::Dracut,
    stack: Stack::LuksLvmRaid,
    degraded: true,
    // dracut starts an array that is not whole after two thirds of its wait, which it
    // counts in rounds: on busy processors systemd's 90 s for the device were over first.
    words: "root=/dev/mapper/root rd.luks.name={luks}=root rd.lvm.lv=vg0/root \
            rd.md.uuid={array} rd.retry=40 systemd.default_device_timeout_sec=300",
    prompt: Some(PROMPT),
    mounts: &["/dev/mapper/root ext4"],
    below: &["crypt", "lvm", "raid1"],
};

const LVM_BY_INITRAMFS_TOOLS: Case = Case {
    test: "lvm_by_initramfs_tools",
    root: "ext4 on LVM",
    stage: Stage::InitramfsTools,
    stack: Stack::Lvm,
    degraded: false,
    words: "root=/dev/mapper/vg0-root",
    prompt: None,
    mounts: &["/dev/mapper/vg0-root ext4"],
    below: &["lvm"],
};

const LUKS_KEY_ON_A_DISK: Case = Case {
    test: "luks_with_a_key_file_on_another_disk",
    root: "ext4 on LUKS2 (key file on another disk)",
    stage: Stage::Dracut,
    stack: Stack::Luks,
    degraded: false,
    words: "root=/dev/mapper/root rd.luks.name={luks}=root \
            rd.luks.key={luks}=/root.key:UUID={key}",
    prompt: None,
    mounts: &["/dev/mapper/root ext4"],
    below: &["crypt"],
};

/// crypttab in the image says it all.
const LUKS_KEY_IN_THE_INITRAMFS: Case = Case {
    test: "luks_with_a_key_file_in_the_initramfs",
    root: "ext4 on LUKS2 (key file in the initramfs, by crypttab)",
    words: "root=/dev/mapper/root",
    ..LUKS_KEY_ON_A_DISK
};

const LUKS_BY_INITRAMFS_TOOLS: Case = Case {
    test: "luks_by_initramfs_tools",
    root: "ext4 on LUKS2 (passphrase)",
    stage: Stage::InitramfsTools,
    words: "root=/dev/mapper/root cryptopts=target=root,source=UUID={luks}",
    prompt: Some("unlock disk"),
    ..LUKS_KEY_ON_A_DISK
};

const RAID: Case = Case {
    test: "raid",
    root: "ext4 on RAID 1",
    stage: Stage::Dracut,
    stack: Stack::Raid,
    degraded: false,
    words: "root=LABEL=iofs-root rd.md.uuid={array}",
    prompt: None,
    // Its own name is for the host that has made it.
    mounts: &["/dev/md127 ext4", "/dev/md/root ext4"],
    below: &["raid1"],
};

const RAID_BY_INITRAMFS_TOOLS: Case = Case {
    test: "degraded_raid_by_initramfs_tools",
    root: "ext4 on RAID 1, one disk missing",
    stage: Stage::InitramfsTools,
    degraded: true,
    words: "root=LABEL=iofs-root",
    ..RAID
};

const BTRFS: Case = Case {
    test: "btrfs_over_two_disks",
    root: "btrfs over two disks",
    stack: Stack::Btrfs,
    words: "root=LABEL=iofs-root",
    mounts: &["/dev/vda2 btrfs", "/dev/vdb1 btrfs"],
    below: &["btrfs"],
    ..RAID
};

const XFS: Case = Case {
    test: "xfs",
    root: "XFS",
    stack: Stack::Xfs,
    words: "root=LABEL=iofs-root",
    mounts: &["/dev/vda2 xfs"],
    below: &["xfs"],
    ..RAID
};

/// What systemd asks.
pub(crate) const PROMPT: &str = "enter passphrase for disk";

/// UUID of the file system with the key file.
const KEY_UUID: &str = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0e01";

fn key_file(ground: &Ground) -> Result<PathBuf, Failed> {
    let path = ground.dir().join("root.key");
    fs::write(&path, KEY)?;
    Ok(path)
}

/// The key is on a file system of its own, as on a stick.
fn key_on_a_disk(ground: &Ground) -> Result<(), Failed> {
    let roots = Roots::of(ground)?;
    let path = ground.dir().join("key.img");
    let key = Entry::new("root.key", key_file(ground)?);
    disk::ext4::make(&path, 4 << 20, KEY_UUID, &[key])?;
    let set = roots.set(ground, Stage::Dracut)?;
    let others = vec![Disk::scratch(&path, Bus::VirtioBlk)];
    LUKS_KEY_ON_A_DISK.boot_set(ground, set, others)
}

/// The image is of dracut's initramfs and an archive with the key and crypttab,
/// one behind the other, as a loader or an administrator joins them.
fn key_in_the_initramfs(ground: &Ground) -> Result<(), Failed> {
    let roots = Roots::of(ground)?;
    let dir = ground.dir().join("key-in-initramfs");
    let tree = dir.join("tree");
    let keys = tree.join("etc/cryptsetup-keys.d");
    fs::create_dir_all(&keys)?;
    let key = keys.join("root.key");
    fs::copy(key_file(ground)?, &key)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    fs::write(
        tree.join("etc/crypttab"),
        format!("root UUID={LUKS_UUID} /etc/cryptsetup-keys.d/root.key luks\n"),
    )?;
    let archive = command::output_with_input(
        Command::new("cpio")
            .args(["--create", "--format=newc", "--owner=+0:+0", "--quiet"])
            .current_dir(&tree),
        b"etc\netc/crypttab\netc/cryptsetup-keys.d\netc/cryptsetup-keys.d/root.key\n",
    )?;
    let mut bytes = fs::read(roots.storage.dracut_initrd())?;
    // The kernel takes a header at a multiple of four only.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive);
    let initrd = dir.join("initrd");
    fs::write(&initrd, bytes)?;
    let set = roots.build(ground, &initrd, &dir.join("set"), &[])?;
    LUKS_KEY_IN_THE_INITRAMFS.boot_set(ground, &set, Vec::new())
}

/// The usual facts; and a dracut that fails ends the machine.
pub(crate) const FACTS: &str =
    "rd.shell=0 rd.emergency=poweroff iofs-test.facts=mounts,failed,boot-json";

impl Case {
    fn words(&self) -> String {
        self.words
            .replace("{luks}", LUKS_UUID)
            .replace("{array}", ARRAY_UUID)
            .replace("{key}", KEY_UUID)
    }

    fn boot(&self, ground: &Ground) -> Result<(), Failed> {
        let roots = Roots::of(ground)?;
        let set = roots.set(ground, self.stage)?;
        self.boot_set(ground, set, Vec::new())
    }

    /// Boots `set` with the root's disks and then with others.
    fn boot_set(&self, ground: &Ground, set: &Set, others: Vec<Disk>) -> Result<(), Failed> {
        let roots = Roots::of(ground)?;
        let dir = ground.dir().join(self.test);
        fs::create_dir_all(&dir)?;
        let parts = roots.stack(ground, self.stack)?;
        let mut disks = disks(&dir, &with_image(set, "", None)?, self.stack, parts)?;
        if self.degraded {
            disks.truncate(1);
        }
        disks.extend(others);
        let append = format!("{CONSOLE} {} rw {FACTS}", self.words());
        let mut machine = Machine::new(
            Arch::X86_64,
            ground.accel(),
            Boot::Direct {
                kernel: ground.guest.kernel(),
                initrd: Some(set.mini_initramfs()),
                append,
            },
        );
        machine.disks = disks;
        let outcome = run(&machine, self.prompt)?;
        fs::remove_dir_all(&dir)?;
        self.check(&outcome)?;
        self.row(ground).record()?;
        Ok(())
    }

    fn check(&self, outcome: &Outcome) -> Result<(), Failed> {
        is_sound(outcome, self.mounts)?;
        let below = facts(outcome, "below-root").join("\n");
        for kind in self.below {
            if !below.split_whitespace().any(|word| word == *kind) {
                return Err(fail(outcome, &format!("no {kind} below the root: {below}")));
            }
        }
        if self.stack == Stack::Btrfs
            && facts(outcome, "btrfs").join("\n").matches("devid").count() != 2
        {
            return Err(fail(outcome, "btrfs has not two disks"));
        }
        if !self.below.contains(&"raid1") {
            return Ok(());
        }
        let wanted = if self.degraded { "[2/1]" } else { "[2/2]" };
        let state = facts(outcome, "mdstat").join("\n");
        match state.contains(wanted) {
            true => Ok(()),
            false => Err(fail(
                outcome,
                &format!("the array is not {wanted}: {state}"),
            )),
        }
    }

    fn row(&self, ground: &Ground) -> Row {
        Row {
            bus: "virtio-blk".to_owned(),
            kernel: ground.kernel_name(),
            stage: self.stage.name().to_owned(),
            root: self.root.to_owned(),
            reached: Reached::MultiUser,
            test: self.test.to_owned(),
        }
    }
}

const MKOSI: &str = "mkosi_initrd";

/// A second stage that was put together of packages; the root is the plain one.
fn mkosi(ground: &Ground) -> Result<(), Failed> {
    let made = Mkosi::ensure(&ground.guest, &mut |line| eprintln!("{line}"))?;
    let recipe = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &made.initrd(),
        modules: "virtio-blk",
        options: &[],
    };
    let dir = ground.dir().join(MKOSI);
    let set = recipe.build(&dir)?;
    let path = dir.join("disk.img");
    set.disk(&path, &ground.guest, 512)?;
    let mut machine = ground.direct(&set.mini_initramfs(), FACTS);
    machine.disks.push(Disk::scratch(&path, Bus::VirtioBlk));
    let outcome = run(&machine, None)?;
    fs::remove_dir_all(&dir)?;
    is_sound(&outcome, &["/dev/vda2 ext4"])?;
    let row = Row {
        bus: "virtio-blk".to_owned(),
        kernel: ground.kernel_name(),
        stage: "mkosi-initrd".to_owned(),
        root: "ext4".to_owned(),
        reached: Reached::MultiUser,
        test: MKOSI.to_owned(),
    };
    row.record()?;
    Ok(())
}

/// Runs a machine to its end; the passphrase is typed behind `prompt`.
pub(crate) fn run(machine: &Machine, prompt: Option<&str>) -> Result<Outcome, Failed> {
    run_with(machine, LIMIT, || RunOptions {
        answers: prompt
            .map(|prompt| Answer::new(prompt, PASSPHRASE))
            .into_iter()
            .collect(),
        ..RunOptions::default()
    })
}

/// The disks of a stack: the first has the ESP with `entries`, too.
pub(crate) fn disks(
    dir: &Path,
    entries: &[Entry],
    stack: Stack,
    parts: &[PathBuf],
) -> Result<Vec<Disk>, Failed> {
    let esp = dir.join("esp");
    make_esp(&esp, entries)?;
    let mut disks = Vec::new();
    for (number, part) in (0_u32..).zip(parts) {
        let label = match stack {
            // Where the guest enrols its TPM.
            Stack::Luks => "iofs-luks".to_owned(),
            _ => format!("iofs-{number}"),
        };
        let guid = nth(ROOT_GUID, number);
        let part = Partition::of(stack.partition_type(), guid, &label, part)?;
        let partitions = match number {
            0 => vec![Partition::esp(ESP_GUID, &esp)?, part],
            _ => vec![part],
        };
        let path = dir.join(format!("disk{number}"));
        disk::make(&path, 512, nth(DISK_GUID, number), &partitions)?;
        disks.push(Disk::scratch(path, Bus::VirtioBlk));
    }
    Ok(disks)
}

const DISK_GUID: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_d100);

fn nth(first: Uuid, number: u32) -> Uuid {
    Uuid::from_u128(first.as_u128() + (u128::from(number) << 64))
}

/// storage-init has handed over, multi-user was reached on this root without a
/// failed unit, and the boot's record is there.
pub(crate) fn is_sound(outcome: &Outcome, roots: &[&str]) -> Result<(), Failed> {
    expect(outcome, "storage-init: [stage exec]")?;
    expect(outcome, guest::REACHED)?;
    let is_root = |line: &str| {
        let rest = line.strip_prefix("/ ").unwrap_or_default();
        roots
            .iter()
            .any(|root| rest.starts_with(&format!("{root} ")))
    };
    if !facts(outcome, "mount").iter().any(|line| is_root(line)) {
        return Err(fail(outcome, &format!("none of {roots:?} is mounted")));
    }
    if let Some(unit) = facts(outcome, "failed").first() {
        return Err(fail(outcome, &format!("a unit failed: {unit}")));
    }
    let text = facts(outcome, "boot-json").join("\n");
    let report: Value =
        serde_json::from_str(&text).map_err(|e| fail(outcome, &format!("boot.json: {e}")))?;
    match report.pointer("/image/candidate") == Some(&Value::from("esp")) {
        true => Ok(()),
        false => Err(fail(outcome, "boot.json names another candidate than esp")),
    }
}
