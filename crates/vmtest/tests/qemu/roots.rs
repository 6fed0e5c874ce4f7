//! Roots on LUKS, LVM, MD, several disks and other file systems, opened by the
//! distribution's own second stage behind storage-init.
//!
//! The image is on an ESP in front of the root's first disk. What asks for a
//! passphrase gets it typed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use iofs_gpt::Uuid;
use libtest_mimic::Failed;
use qemu_driver::{Answer, Arch, Boot, Bus, Disk, Machine, Outcome, RunOptions, Vm};
use serde_json::Value;
use vmtest::command;
use vmtest::disk::{self, Entry, Partition};
use vmtest::guest;
use vmtest::matrix::{Reached, Row};
use vmtest::set::{ESP_GUID, ROOT_GUID, Set};
use vmtest::stack::{ARRAY_UUID, LUKS_UUID, Stack};
use vmtest::storage::{PASSPHRASE, Storage};

use crate::Test;
use crate::support::{CONSOLE, Ground, expect, facts, fail, make_esp};

pub(crate) const TESTS: &[Test] = &[
    Test::new("luks_on_lvm_on_a_degraded_raid", |ground| {
        LUKS_LVM_RAID_DEGRADED.boot(ground)
    }),
    Test::new("lvm_by_initramfs_tools", |ground| {
        LVM_BY_INITRAMFS_TOOLS.boot(ground)
    }),
];

/// The limit on a boot. Four minutes were seen on two very busy processors.
const LIMIT: Duration = Duration::from_secs(480);

/// What is needed by every root, made when a test first asks for it.
#[derive(Debug)]
pub(crate) struct Roots {
    storage: Storage,
    dracut: OnceLock<Set>,
    initramfs_tools: OnceLock<Set>,
    stacks: [OnceLock<Vec<PathBuf>>; Stack::ALL.len()],
}

impl Roots {
    fn of(ground: &Ground) -> Result<&Self, Failed> {
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

    fn set(&self, ground: &Ground, stage: Stage) -> Result<&Set, Failed> {
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

    fn stack(&self, ground: &Ground, stack: Stack) -> Result<&[PathBuf], Failed> {
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
enum Stage {
    Dracut,
    InitramfsTools,
}

impl Stage {
    fn name(self) -> &'static str {
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
    /// Device and file system of `/`.
    mount: &'static str,
    /// What must be below it: kinds in lsblk's list.
    below: &'static [&'static str],
}

const LUKS_LVM_RAID_DEGRADED: Case = Case {
    test: "luks_on_lvm_on_a_degraded_raid",
    root: "ext4 on LUKS2 (passphrase) on LVM on RAID 1, one disk missing",
    stage: Stage::Dracut,
    stack: Stack::LuksLvmRaid,
    degraded: true,
    // dracut starts an array that is not whole when it has waited this long.
    words: "root=/dev/mapper/root rd.luks.name={luks}=root rd.lvm.lv=vg0/root \
            rd.md.uuid={array} rd.retry=10",
    prompt: Some("enter passphrase for disk"),
    mount: "/dev/mapper/root ext4",
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
    mount: "/dev/mapper/vg0-root ext4",
    below: &["lvm"],
};

/// The usual facts.
const FACTS: &str = "iofs-test.facts=mounts,failed,boot-json";

impl Case {
    fn words(&self) -> String {
        self.words
            .replace("{luks}", LUKS_UUID)
            .replace("{array}", ARRAY_UUID)
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
        let mut disks = disks(&dir, set, self.stack, parts)?;
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
        is_sound(outcome, self.mount)?;
        let below = facts(outcome, "below-root").join("\n");
        for kind in self.below {
            if !below.split_whitespace().any(|word| word == *kind) {
                return Err(fail(outcome, &format!("no {kind} below the root: {below}")));
            }
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

/// Runs a machine to its end; the passphrase is typed behind `prompt`.
fn run(machine: &Machine, prompt: Option<&str>) -> Result<Outcome, Failed> {
    let options = RunOptions {
        answers: prompt
            .map(|prompt| Answer::new(prompt, PASSPHRASE))
            .into_iter()
            .collect(),
        ..RunOptions::default()
    };
    Ok(Vm::start(machine, options)?.finish(LIMIT)?)
}

/// What a partition of a stack is called, with its number.
const PART_LABEL: &str = "iofs-root";

/// The disks of a stack: the first has the ESP with the image, too.
fn disks(dir: &Path, set: &Set, stack: Stack, parts: &[PathBuf]) -> Result<Vec<Disk>, Failed> {
    let place = set.image_path.as_deref().ok_or("the image is no file")?;
    let esp = dir.join("esp");
    let image = [Entry::new(place.trim_start_matches('/'), &set.image)];
    make_esp(&esp, &image)?;
    let mut disks = Vec::new();
    for (number, part) in (0_u32..).zip(parts) {
        let part = Partition::of(
            stack.partition_type(),
            nth(ROOT_GUID, number),
            &format!("{PART_LABEL}{number}"),
            part,
        )?;
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
fn is_sound(outcome: &Outcome, mount: &str) -> Result<(), Failed> {
    expect(outcome, "storage-init: [stage exec]")?;
    expect(outcome, guest::REACHED)?;
    let root = format!("/ {mount} ");
    let mounts = facts(outcome, "mount");
    if !mounts.iter().any(|mount| mount.starts_with(&root)) {
        return Err(fail(outcome, &format!("no mount {root:?}")));
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
