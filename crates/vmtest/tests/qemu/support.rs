//! What the tests stand on: the guest, the programs, sets built from both of
//! its initramfs files, and a boot of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use iofs_gpt::Uuid;
use libtest_mimic::Failed;
use qemu_driver::{
    Accel, Arch, Boot, Bus, ConsoleLine, Disk, Exit, Firmware, FirmwareKind, Machine, Outcome,
    RunOptions, Tpm, Vm,
};
use tempfile::TempDir;
use vmtest::disk::{self, Entry, Partition, fat};
use vmtest::guest::{self, Guest};
use vmtest::set::{ESP_GUID, Recipe, Set};
use vmtest::tools::Tools;
use vmtest::{command, dist};

use crate::roots::Roots;

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
    small_tree: OnceLock<PathBuf>,
    pub(crate) roots: OnceLock<Roots>,
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
            small_tree: OnceLock::new(),
            roots: OnceLock::new(),
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

    /// [`Small`]'s image as a tree.
    pub(crate) fn small_tree(&self) -> Result<&Path, Failed> {
        if let Some(tree) = self.small_tree.get() {
            return Ok(tree);
        }
        let tree = self.dir().join("small");
        for folder in ["etc", "bin"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::write(
            tree.join("etc/os-release"),
            "ID=test\nVERSION_ID=1\nPRETTY_NAME=\"Test 1\"\n",
        )?;
        let program = guest::build_freestanding("iofs-testinit", &self.dir().join("log"))?;
        let init = tree.join("init");
        fs::copy(program, &init)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        Ok(self.small_tree.get_or_init(|| tree))
    }

    /// A new key, of a kind that `keygen` knows.
    pub(crate) fn key(&self, name: &str, kind: &str) -> Result<Key, Failed> {
        let path = self.dir().join(name);
        let program = self.dist.join("initoverlayfs");
        command::output(
            Command::new(program)
                .args(["keygen", "--type", kind])
                .arg(&path),
        )?;
        Ok(Key {
            key: path.with_extension("key"),
            certificate: path.with_extension("crt"),
        })
    }

    /// Firmware with variables of its own in `dir`.
    pub(crate) fn firmware(&self, kind: FirmwareKind, dir: &Path) -> Result<Boot, Failed> {
        Ok(Boot::Firmware(Firmware::prepare(
            kind,
            &dir.join("vars.fd"),
        )?))
    }

    /// A disk that is nothing but a program for the firmware to boot.
    pub(crate) fn bootable(&self, path: &Path, program: &Path) -> Result<Disk, Failed> {
        make_esp(path, &[Entry::new("EFI/BOOT/BOOTX64.EFI", program)])?;
        Ok(Disk::scratch(path, Bus::VirtioBlk))
    }

    /// A disk with an ESP.
    pub(crate) fn esp_disk(&self, path: &Path, entries: &[Entry]) -> Result<Disk, Failed> {
        let esp = path.with_extension("esp");
        make_esp(&esp, entries)?;
        let guid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_00d1);
        disk::make(path, 512, guid, &[Partition::esp(ESP_GUID, &esp)?])?;
        fs::remove_file(&esp)?;
        Ok(Disk::scratch(path, Bus::VirtioBlk))
    }

    /// Boots a machine with these disks to its end.
    pub(crate) fn machine(
        &self,
        boot: Boot,
        disks: &[Disk],
        tpm: Option<Tpm>,
    ) -> Result<Outcome, Failed> {
        let mut machine = Machine::new(Arch::X86_64, self.accel, boot);
        machine.disks.extend(disks.iter().cloned());
        machine.tpm = tpm;
        run(&machine)
    }

    /// Boots `initrd` with this disk to the end. The root is found by label.
    pub(crate) fn boot(&self, initrd: &Path, disk: Disk, append: &str) -> Result<Outcome, Failed> {
        let mut machine = self.direct(initrd, append);
        machine.disks.push(disk);
        run(&machine)
    }

    /// A machine without disks that starts the guest's kernel with `initrd`. The
    /// root is found by label.
    pub(crate) fn direct(&self, initrd: &Path, append: &str) -> Machine {
        Machine::new(
            Arch::X86_64,
            self.accel,
            Boot::Direct {
                kernel: self.guest.kernel(),
                initrd: Some(initrd.to_owned()),
                append: format!("{CONSOLE} root=LABEL={} rw {append}", guest::ROOT_LABEL),
            },
        )
    }

    /// The kernel's name in the matrix.
    pub(crate) fn kernel_name(&self) -> String {
        format!("Debian 13, {}", self.guest.kernel_release())
    }
}

/// What the kernel says when it runs into a breakpoint of its own.
const OWN_BREAKPOINT: &str = "Oops: int3";

/// Boots `machine` to its end. Where the kernel fell over the emulator it is
/// booted once more: QEMU 7.2 with two processors can run half of an instruction
/// that the other processor is just replacing (seen once in fifty boots on a busy
/// machine, before any init).
pub(crate) fn run(machine: &Machine) -> Result<Outcome, Failed> {
    run_with(machine, LIMIT, RunOptions::default)
}

/// The same, with another limit and what is typed.
pub(crate) fn run_with(
    machine: &Machine,
    limit: Duration,
    options: impl Fn() -> RunOptions,
) -> Result<Outcome, Failed> {
    let boot = || Vm::start(machine, options())?.finish(limit);
    let outcome = boot()?;
    if outcome.find(OWN_BREAKPOINT).is_none() {
        return Ok(outcome);
    }
    eprintln!("the kernel ran into the emulator ({OWN_BREAKPOINT}); booting again");
    Ok(boot()?)
}

/// What every kernel command line of a [`Small`] set begins with.
pub(crate) const CONSOLE: &str = "console=ttyS0 panic=-1";

/// Room on an ESP beside its files, and the least that it has, in bytes.
const ESP_SLACK: u64 = 8 << 20;
const ESP_LEAST: u64 = 40 << 20;

/// A private key and its certificate, PEM files.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) key: PathBuf,
    pub(crate) certificate: PathBuf,
}

/// A set whose image is a single program, testinit: for boots that end there.
#[derive(Debug, Clone)]
pub(crate) struct Small<'a> {
    /// The root with the kernel's modules.
    pub(crate) sysroot: PathBuf,
    pub(crate) kernel: PathBuf,
    /// The end of a UKI's command line.
    pub(crate) words: &'a str,
    /// Makes a UKI, signed with this for Secure Boot.
    pub(crate) uki: Option<&'a Key>,
    /// Signs the image; without it is sealed.
    pub(crate) signer: Option<&'a Key>,
    /// Which storage drivers.
    pub(crate) modules: &'a str,
    pub(crate) options: &'a [&'a str],
}

impl Small<'_> {
    /// Of the guest's kernel; sealed, without a UKI.
    pub(crate) fn of(ground: &Ground) -> Self {
        Self {
            sysroot: ground.guest.tree(),
            kernel: ground.guest.kernel(),
            words: "",
            uki: None,
            signer: None,
            modules: "virtio-blk,virtio-pci",
            options: &[],
        }
    }

    /// Builds into `dir`.
    pub(crate) fn build(&self, ground: &Ground, dir: &Path) -> Result<Set, Failed> {
        let mut command = Command::new(ground.dist.join("initoverlayfs"));
        command
            .args(["build", "--json", "--modules", self.modules])
            .args(["--on-failure", "poweroff", "--timeout", "30", "--root"])
            .arg(ground.small_tree()?)
            .arg("--sysroot")
            .arg(&self.sysroot)
            .arg("--kernel")
            .arg(&self.kernel)
            .arg("--output")
            .arg(dir);
        if let Some(key) = self.signer {
            command.arg("--key").arg(&key.key);
            command.arg("--certificate").arg(&key.certificate);
        }
        if let Some(key) = self.uki {
            let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
            command.arg("--uki").arg("--stub").arg(tools.stub());
            command.arg("--secure-boot-key").arg(&key.key);
            command.arg("--secure-boot-certificate");
            command.arg(&key.certificate);
            command.args(["--cmdline", &format!("{CONSOLE} {}", self.words)]);
        }
        command::output(command.args(self.options))?;
        Ok(Set::open(dir)?)
    }
}

pub(crate) fn make_esp(path: &Path, entries: &[Entry]) -> Result<(), Failed> {
    let mut size = ESP_SLACK;
    for entry in entries {
        size += fs::metadata(&entry.from)?.len();
    }
    fat::make(path, fat::Format::new(size.max(ESP_LEAST)), entries)?;
    Ok(())
}

/// What testinit reports of `name`.
pub(crate) fn reports<'a>(outcome: &'a Outcome, name: &str) -> Vec<&'a str> {
    let prefix = format!("TESTINIT {name}: ");
    let of_line = |line: &'a ConsoleLine| line.message().strip_prefix(prefix.as_str());
    outcome.lines.iter().filter_map(of_line).collect()
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
    let of_line = |line: &'a ConsoleLine| fact(line, &prefix);
    outcome.lines.iter().filter_map(of_line).collect()
}

/// What stands behind `prefix`: a prompt, which has no line end, may stand before
/// it, and a message of the kernel may have come before its line's end.
fn fact<'a>(line: &'a ConsoleLine, prefix: &str) -> Option<&'a str> {
    if let Some((_, text)) = line.message().split_once(prefix) {
        return Some(text);
    }
    let (_, text) = line.text.split_once(prefix)?;
    let text = text.strip_suffix(line.message())?;
    text.rsplit_once('[').map(|(before, _)| before)
}
