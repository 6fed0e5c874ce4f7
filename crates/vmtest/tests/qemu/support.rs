//! What the tests stand on: the guest, the programs, sets built from both of
//! its initramfs files, and a boot of them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::Failed;
use qemu_driver::{Accel, Arch, Boot, Disk, Exit, Machine, Outcome, RunOptions, Vm};
use tempfile::TempDir;
use vmtest::dist;
use vmtest::guest::{self, Guest};
use vmtest::set::{Recipe, Set};

/// The limit on a boot. Two minutes were seen on two busy processors.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// The last lines of a console that a failed test shows.
const SHOWN_LINES: usize = 60;

/// Guest, programs and sets, made when a test first asks for them.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) guest: Guest,
    pub(crate) dist: PathBuf,
    accel: Accel,
    dir: TempDir,
    dracut: OnceLock<Set>,
    initramfs_tools: OnceLock<Set>,
    generic: OnceLock<Set>,
}

impl Ground {
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        Ok(Self {
            guest: Guest::ensure(&mut |line| eprintln!("{line}"))?,
            dist: dist::ensure(&dir.path().join("log"))?,
            accel: Accel::detect()?,
            dir,
            dracut: OnceLock::new(),
            initramfs_tools: OnceLock::new(),
            generic: OnceLock::new(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn accel(&self) -> Accel {
        self.accel
    }

    /// From dracut's initramfs, for virtio disks.
    pub(crate) fn dracut(&self) -> Result<&Set, Failed> {
        let initrd = self.guest.dracut_initrd();
        self.set(&self.dracut, "dracut", &initrd, "virtio-blk")
    }

    /// From initramfs-tools' initramfs, for virtio disks.
    pub(crate) fn initramfs_tools(&self) -> Result<&Set, Failed> {
        let initrd = self.guest.initramfs_tools_initrd();
        let set = &self.initramfs_tools;
        self.set(set, "initramfs-tools", &initrd, "virtio-blk")
    }

    /// From dracut's initramfs, for every storage bus.
    pub(crate) fn generic(&self) -> Result<&Set, Failed> {
        let initrd = self.guest.dracut_initrd();
        self.set(&self.generic, "generic", &initrd, "generic")
    }

    fn set<'a>(
        &'a self,
        made: &'a OnceLock<Set>,
        name: &str,
        initrd: &Path,
        modules: &str,
    ) -> Result<&'a Set, Failed> {
        if let Some(set) = made.get() {
            return Ok(set);
        }
        let recipe = Recipe {
            dist: &self.dist,
            guest: &self.guest,
            initrd,
            modules,
            options: &[],
        };
        let set = recipe.build(&self.dir().join(name))?;
        Ok(made.get_or_init(|| set))
    }

    /// Boots `initrd` with this disk to the end. The root is found by label.
    pub(crate) fn boot(&self, initrd: &Path, disk: Disk, append: &str) -> Result<Outcome, Failed> {
        let mut machine = Machine::new(
            Arch::X86_64,
            self.accel,
            Boot::Direct {
                kernel: self.guest.kernel(),
                initrd: Some(initrd.to_owned()),
                append: format!(
                    "console=ttyS0 panic=-1 root=LABEL={} rw {append}",
                    guest::ROOT_LABEL
                ),
            },
        );
        machine.disks.push(disk);
        let vm = Vm::start(&machine, RunOptions::default())?;
        Ok(vm.finish(LIMIT)?)
    }
}

/// Says what is wrong with a boot, with the end of its console.
pub(crate) fn fail(outcome: &Outcome, what: &str) -> Failed {
    let skip = outcome.lines.len().saturating_sub(SHOWN_LINES);
    let lines: Vec<&str> = outcome
        .lines
        .iter()
        .skip(skip)
        .map(|line| line.text.as_str())
        .collect();
    format!("{what} ({:?})\n{}", outcome.exit, lines.join("\n")).into()
}

/// The guest turned itself off after it printed `text`.
pub(crate) fn expect(outcome: &Outcome, text: &str) -> Result<(), Failed> {
    if outcome.find(text).is_none() {
        return Err(fail(outcome, &format!("{text:?} did not come")));
    }
    match outcome.exit {
        Exit::PowerOff => Ok(()),
        _ => Err(fail(outcome, "the guest did not turn itself off")),
    }
}

/// What the guest says about `name`.
pub(crate) fn facts<'a>(outcome: &'a Outcome, name: &str) -> Vec<&'a str> {
    let prefix = format!("{}{name}: ", guest::FACT);
    outcome
        .lines
        .iter()
        .filter_map(|line| line.message().strip_prefix(prefix.as_str()))
        .collect()
}
