//! The description of a machine and the command line that it becomes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::disk::{self, escape};
use crate::{Accel, Bus, Cdrom, Crowd, Disk, Firmware, FirmwareKind, Tpm, TpmInterface};

/// Processor architecture of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86, on the q35 machine.
    X86_64,
    /// 64-bit Arm, on the virt machine.
    Aarch64,
}

impl Arch {
    /// The emulator's program name.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// The Debian package with the emulator.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm",
        }
    }

    /// The kernel's name of the first serial console, for `console=`.
    #[must_use]
    pub fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }
}

/// What a machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// Kernel and initramfs loaded by QEMU, without firmware's boot choice.
    Direct {
        /// The kernel image.
        kernel: PathBuf,
        /// The initramfs, if any.
        initrd: Option<PathBuf>,
        /// The kernel command line.
        append: String,
    },
    /// UEFI firmware, which boots from the disks.
    Firmware(Firmware),
    /// Whatever the machine does by itself: on x86, a BIOS boot sector.
    Default,
}

/// What the guest's serial line reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// What is typed on this process's terminal.
    Inherit,
}

/// What a clock that counts instructions does while the guest waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// It jumps to the guest's next timer (`sleep=off`): a wait for a timer
    /// takes no wall time, but a wait for a disk, which answers in real time,
    /// may jump by as much as that timer is away: 10 s were seen on a busy host.
    Jump,
    /// It follows the host's (`sleep=on`): a wait for a disk costs what it costs
    /// on the host, some 0.1 ms.
    RealTime,
}

/// Where the emulator translates and does not count: without the instructions by which
/// a kernel clears and copies pages byte for byte (ERMS, FSRM). A byte that is written to
/// a page with translated code has QEMU go through all the translations of that page:
/// a kernel that reuses the memory of programs which have ended spends half of a boot
/// there. It takes eight bytes at a time then. What is counted keeps them.
const QUICK: &str = "max,-erms,-fsrm";

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Architecture.
    pub arch: Arch,
    /// What runs the guest's instructions.
    pub accel: Accel,
    /// QEMU's name of the processor; `None` is `host` under KVM, else `max`, on x86-64
    /// without icount less what makes the emulator slow.
    pub cpu: Option<String>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of processors; icount makes it 1.
    pub cpus: u16,
    /// QEMU's machine type, with options; `None` is q35 or virt. On microvm,
    /// which has no PCI, only [`Bus::VirtioMmio`] is of use.
    pub machine: Option<String>,
    /// What it starts from.
    pub boot: Boot,
    /// Its disks, in this order.
    pub disks: Vec<Disk>,
    /// Disks before them, many and all the same.
    pub crowds: Vec<Crowd>,
    /// Its CD-ROM drives.
    pub cdroms: Vec<Cdrom>,
    /// Controllers without disks, for [`crate::Vm::plug`].
    pub sockets: Vec<Bus>,
    /// Its TPM 2.0. Not part of [`Machine::args`] before it has a socket.
    pub tpm: Option<Tpm>,
    /// If set, the guest's clock counts instructions (one nanosecond each)
    /// rather than follow the host's: figures that repeat. Forces TCG.
    pub icount: Option<Idle>,
    /// A file that holds the guest's memory, to count touched pages.
    pub memory_file: Option<PathBuf>,
    /// Where QMP listens.
    pub qmp_socket: Option<PathBuf>,
    /// More arguments, at the end.
    pub extra: Vec<OsString>,
}

impl Machine {
    /// A machine of 2 GiB and two processors, without disks.
    #[must_use]
    pub fn new(arch: Arch, accel: Accel, boot: Boot) -> Self {
        Self {
            arch,
            accel,
            cpu: None,
            memory_mib: 2048,
            cpus: 2,
            machine: None,
            boot,
            disks: Vec::new(),
            crowds: Vec::new(),
            cdroms: Vec::new(),
            sockets: Vec::new(),
            tpm: None,
            icount: None,
            memory_file: None,
            qmp_socket: None,
            extra: Vec::new(),
        }
    }

    /// The emulator's arguments, without its name. The serial line is QEMU's
    /// standard input and output.
    #[must_use]
    pub fn args(&self) -> Vec<OsString> {
        let mut args = Args::default();
        args.words(&["-nodefaults", "-no-user-config", "-display", "none"]);
        // A guest's reset or power-off stops the machine but not QEMU, which
        // is asked for its statistics first and told to quit then.
        args.words(&["-no-reboot", "-no-shutdown"]);
        self.platform(&mut args);
        self.boot(&mut args);
        for (index, crowd) in self.crowds.iter().enumerate() {
            crowd.args(index, &mut args);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            disk.args(index, &mut args);
        }
        for (index, cdrom) in self.cdroms.iter().enumerate() {
            cdrom.args(index, &mut args);
        }
        for (index, &bus) in self.sockets.iter().enumerate() {
            disk::socket(index, bus, &mut args);
        }
        self.tpm(&mut args);
        args.words(&["-chardev", "stdio,id=console,signal=on,mux=off"]);
        args.words(&["-serial", "chardev:console"]);
        if let Some(socket) = &self.qmp_socket {
            args.option(
                "-chardev",
                "socket,id=qmp,server=on,wait=off,path=",
                Some(socket),
            );
            args.words(&["-mon", "chardev=qmp,mode=control"]);
        }
        args.0.extend(self.extra.iter().cloned());
        args.0
    }

    fn platform(&self, args: &mut Args) {
        let accel = self.icount.map_or(self.accel, |_| Accel::Tcg);
        let mut machine = self.machine.clone().unwrap_or_else(|| {
            match self.arch {
                Arch::X86_64 => "q35",
                Arch::Aarch64 => "virt",
            }
            .to_owned()
        });
        let secure = matches!(&self.boot, Boot::Firmware(f) if f.kind == FirmwareKind::SecureBoot);
        if secure && self.arch == Arch::X86_64 {
            machine.push_str(",smm=on");
            args.words(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        if let Some(file) = &self.memory_file {
            machine.push_str(",memory-backend=memory");
            let object = format!(
                "memory-backend-file,id=memory,size={}M,share=on,mem-path=",
                self.memory_mib
            );
            args.option("-object", &object, Some(file));
        }
        args.words(&["-machine", &machine, "-accel", accel.name()]);
        let cpu = match (&self.cpu, accel) {
            (Some(cpu), _) => cpu.as_str(),
            (None, Accel::Kvm) => "host",
            (None, Accel::Tcg) => match (self.arch, self.icount) {
                (Arch::X86_64, None) => QUICK,
                _ => "max",
            },
        };
        let cpus = self.icount.map_or(self.cpus, |_| 1);
        args.words(&["-cpu", cpu, "-smp", &cpus.to_string()]);
        args.words(&["-m", &format!("{}M", self.memory_mib)]);
        match self.icount {
            Some(Idle::Jump) => args.words(&["-icount", "shift=0,sleep=off"]),
            Some(Idle::RealTime) => args.words(&["-icount", "shift=0,sleep=on"]),
            None => {}
        }
    }

    fn tpm(&self, args: &mut Args) {
        let Some(tpm) = &self.tpm else { return };
        let Some(socket) = &tpm.socket else { return };
        args.option("-chardev", "socket,id=tpm-socket,path=", Some(socket));
        args.words(&["-tpmdev", "emulator,id=tpm,chardev=tpm-socket"]);
        let device = match (self.arch, tpm.interface) {
            (Arch::X86_64, TpmInterface::Crb) => "tpm-crb,tpmdev=tpm",
            (Arch::X86_64, TpmInterface::Tis) => "tpm-tis,tpmdev=tpm",
            (Arch::Aarch64, _) => "tpm-tis-device,tpmdev=tpm",
        };
        args.words(&["-device", device]);
    }

    fn boot(&self, args: &mut Args) {
        match &self.boot {
            Boot::Direct {
                kernel,
                initrd,
                append,
            } => {
                args.path("-kernel", kernel);
                if let Some(initrd) = initrd {
                    args.path("-initrd", initrd);
                }
                args.words(&["-append", append]);
            }
            Boot::Firmware(firmware) => {
                let code = "if=pflash,unit=0,format=raw,readonly=on,file=";
                args.option("-drive", code, Some(&firmware.code));
                let vars = "if=pflash,unit=1,format=raw,file=";
                args.option("-drive", vars, Some(&firmware.vars));
            }
            Boot::Default => {}
        }
    }
}

/// Arguments in the making.
#[derive(Debug, Default)]
pub(crate) struct Args(pub(crate) Vec<OsString>);

impl Args {
    pub(crate) fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn path(&mut self, flag: &str, path: &Path) {
        self.0.push(flag.into());
        self.0.push(path.into());
    }

    /// `flag prefixPATH`, with the commas of the path doubled as QEMU's option
    /// parser wants it.
    pub(crate) fn option(&mut self, flag: &str, prefix: &str, path: Option<&Path>) {
        self.0.push(flag.into());
        let mut value = OsString::from(prefix);
        if let Some(path) = path {
            value.push(escape(path.as_os_str()));
        }
        self.0.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct() -> Boot {
        Boot::Direct {
            kernel: "/k,1".into(),
            initrd: Some("/i".into()),
            append: "console=ttyS0 a=\"b c\"".to_owned(),
        }
    }

    fn strings(machine: &Machine) -> Vec<String> {
        machine
            .args()
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    fn value<'a>(args: &'a [String], flag: &str) -> &'a str {
        let at = args.iter().position(|arg| arg == flag).unwrap();
        &args[at + 1]
    }

    #[test]
    fn a_direct_boot_passes_its_files_as_they_are() {
        let args = strings(&Machine::new(Arch::X86_64, Accel::Tcg, direct()));
        assert_eq!(value(&args, "-kernel"), "/k,1");
        assert_eq!(value(&args, "-append"), "console=ttyS0 a=\"b c\"");
        assert_eq!(value(&args, "-machine"), "q35");
        assert_eq!(value(&args, "-cpu"), "max,-erms,-fsrm");
        assert_eq!(value(&args, "-smp"), "2");
        assert!(!args.iter().any(|arg| arg == "-icount"));
    }

    #[test]
    fn icount_means_one_emulated_processor() {
        let mut machine = Machine::new(Arch::X86_64, Accel::Kvm, direct());
        machine.icount = Some(Idle::Jump);
        machine.cpus = 8;
        let args = strings(&machine);
        assert_eq!(value(&args, "-accel"), "tcg");
        assert_eq!(value(&args, "-cpu"), "max");
        assert_eq!(value(&args, "-smp"), "1");
        assert_eq!(value(&args, "-icount"), "shift=0,sleep=off");
    }

    #[test]
    fn commas_in_option_paths_are_doubled() {
        let mut machine = Machine::new(Arch::X86_64, Accel::Tcg, direct());
        machine.memory_file = Some("/m,x".into());
        machine
            .disks
            .push(Disk::scratch("/a,b.img", Bus::VirtioBlk));
        let args = strings(&machine);
        assert!(value(&args, "-object").ends_with("mem-path=/m,,x"));
        assert!(value(&args, "-drive").ends_with("file=/a,,b.img"));
        assert_eq!(value(&args, "-machine"), "q35,memory-backend=memory");
    }

    #[test]
    fn secure_boot_needs_smm_and_secure_flash() {
        let firmware = |kind| {
            Boot::Firmware(Firmware {
                kind,
                code: "/code".into(),
                vars: "/vars".into(),
            })
        };
        let plain = strings(&Machine::new(
            Arch::X86_64,
            Accel::Tcg,
            firmware(FirmwareKind::Plain),
        ));
        assert!(!plain.join(" ").contains("smm"));
        let secure = strings(&Machine::new(
            Arch::X86_64,
            Accel::Tcg,
            firmware(FirmwareKind::SecureBoot),
        ));
        assert_eq!(value(&secure, "-machine"), "q35,smm=on");
        assert!(secure.join(" ").contains("property=secure,value=on"));
    }

    #[test]
    fn a_tpm_is_attached_once_it_has_a_socket() {
        let mut machine = Machine::new(Arch::X86_64, Accel::Tcg, direct());
        machine.tpm = Some(Tpm::new());
        assert!(!strings(&machine).iter().any(|arg| arg.contains("tpm")));
        let mut device = |arch, interface| {
            machine.arch = arch;
            machine.tpm = Some(Tpm {
                interface,
                state: None,
                socket: Some("/r,1/tpm".into()),
            });
            let args = strings(&machine);
            assert_eq!(
                value(&args, "-chardev"),
                "socket,id=tpm-socket,path=/r,,1/tpm"
            );
            assert_eq!(
                value(&args, "-tpmdev"),
                "emulator,id=tpm,chardev=tpm-socket"
            );
            value(&args, "-device").to_owned()
        };
        let x86 = Arch::X86_64;
        assert_eq!(device(x86, TpmInterface::Crb), "tpm-crb,tpmdev=tpm");
        assert_eq!(device(x86, TpmInterface::Tis), "tpm-tis,tpmdev=tpm");
        let arm = device(Arch::Aarch64, TpmInterface::Crb);
        assert_eq!(arm, "tpm-tis-device,tpmdev=tpm");
    }
}
