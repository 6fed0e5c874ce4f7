//! Boots that demo and bench compare: what is booted, and what it cost.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use qemu_driver::{Accel, Arch, Boot, Bus, Disk, Error, Idle, Machine, Outcome, RunOptions, Vm};
use vmtest::guest::{self, Guest};

/// The limit on one boot, in wall time.
const LIMIT: Duration = Duration::from_secs(600);

/// One way to boot the guest.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// For the table.
    pub(crate) name: String,
    /// What the firmware loads beside the kernel.
    pub(crate) initrd: PathBuf,
    /// Words for the kernel beside the console; and the root, if not by label.
    pub(crate) append: String,
    /// The disk with the root and, if the way needs it, the image.
    pub(crate) disk: PathBuf,
}

impl Way {
    /// The root is the guest's label, unless the way names it in its own words.
    fn command_line(&self) -> String {
        let root = match self.append.contains("root=") {
            true => String::new(),
            false => format!("root=LABEL={} ", guest::ROOT_LABEL),
        };
        format!("console=ttyS0 panic=-1 rw {root}{}", self.append)
    }

    /// The machine that boots so.
    pub(crate) fn machine(&self, guest: &Guest, accel: Accel, icount: Option<Idle>) -> Machine {
        let mut machine = Machine::new(
            Arch::X86_64,
            accel,
            Boot::Direct {
                kernel: guest.kernel(),
                initrd: Some(self.initrd.clone()),
                append: self.command_line(),
            },
        );
        machine.icount = icount;
        machine
            .disks
            .push(Disk::scratch(&self.disk, Bus::VirtioBlk));
        machine
    }

    /// Boots to the end.
    pub(crate) fn boot(
        &self,
        guest: &Guest,
        accel: Accel,
        icount: Option<Idle>,
        tee: Option<Box<dyn Write + Send>>,
    ) -> Result<Outcome, Error> {
        run(&self.machine(guest, accel, icount), tee)
    }
}

/// Lets `machine` run to its end and counts the memory that it touches.
pub(crate) fn run(machine: &Machine, tee: Option<Box<dyn Write + Send>>) -> Result<Outcome, Error> {
    let options = RunOptions {
        count_memory: true,
        tee,
        ..RunOptions::default()
    };
    Vm::start(machine, options)?.finish(LIMIT)
}

/// When things happened, by the guest's clock, and what was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// The first init after the kernel's own: storage-init's exec of the
    /// (or the hand-made init's) of the image's, or the initramfs's own, which the
    /// kernel executes.
    pub(crate) first_init: Option<Duration>,
    /// The marker init on the root.
    pub(crate) mark: Option<Duration>,
    /// systemd on the root.
    pub(crate) root_init: Option<Duration>,
    /// multi-user.target.
    pub(crate) multi_user: Option<Duration>,
    /// Bytes read from the disk.
    pub(crate) read: u64,
    /// Bytes of memory touched.
    pub(crate) touched: u64,
}

/// storage-init's last line before the image's init.
const EXEC: &str = "storage-init: [stage exec]";

/// The same of the hand-made init that the bench compares with.
const MINIMAL: &str = "INITOVERLAYFS-MINIMAL exec";

/// The kernel's line before the initramfs's init.
const RUN_INIT: &str = "Run /init as init process";

/// systemd's first line, in the initramfs and again on the root.
const SYSTEMD: &str = " running in system mode ";

impl Cost {
    /// Reads a boot's console and statistics.
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let mut systemd = outcome
            .lines
            .iter()
            .filter_map(|line| line.kernel.as_ref())
            .filter(|(_, text)| text.starts_with("systemd[1]: ") && text.contains(SYSTEMD))
            .map(|(time, _)| *time);
        Self {
            first_init: [EXEC, MINIMAL, RUN_INIT]
                .into_iter()
                .find_map(|line| outcome.time_of(line)),
            mark: outcome.time_of(guest::MARKED),
            root_init: systemd.next_back(),
            multi_user: outcome.time_of(guest::REACHED),
            read: outcome.disks.iter().map(|disk| disk.read_bytes).sum(),
            touched: outcome.touched_bytes.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_root() {
        let mut way = Way {
            name: String::new(),
            initrd: PathBuf::new(),
            append: "init=/sbin/mark".to_owned(),
            disk: PathBuf::new(),
        };
        assert_eq!(
            way.command_line(),
            "console=ttyS0 panic=-1 rw root=LABEL=iofs-root init=/sbin/mark"
        );
        way.append = "root=UUID=1".to_owned();
        assert_eq!(way.command_line(), "console=ttyS0 panic=-1 rw root=UUID=1");
    }
}
