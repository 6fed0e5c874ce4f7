//! KVM where it really works, emulation elsewhere.
//!
//! A `/dev/kvm` that opens proves little. Seen on a nested host: QEMU aborts on
//! the host's own processor model ("failed to set MSR"); with another model it
//! starts, but every kernel-mode instruction goes through KVM's software
//! emulator, thousands of times slower, which then fails on a distribution
//! kernel's first BMI2 instruction. So a guest of 50 bytes is run: it enters
//! protected mode, counts to fifty million (0.05 s on hardware, minutes in that
//! emulator) and reports through the isa-debug-exit device. Whatever else
//! happens, or nothing within the limit, means TCG.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Arch, Boot, Bus, Disk, Error, Machine};

/// The environment variable that overrides the detection: `tcg` or `kvm`.
pub const ACCEL_ENV: &str = "INITOVERLAYFS_ACCEL";

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's own translator. Works everywhere.
    Tcg,
    /// The kernel's virtualisation.
    Kvm,
}

/// How long the trial guest may take, QEMU's start included.
const TRIAL_LIMIT: Duration = Duration::from_secs(4);

/// The value that the trial guest writes; isa-debug-exit makes it `2 n + 1`.
const TRIAL_VALUE: u8 = 0x2a;

impl Accel {
    /// QEMU's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }

    /// What to use for x86-64 guests here: [`ACCEL_ENV`] if set, else KVM if
    /// a trial guest runs under it at a processor's speed. Takes at most four
    /// seconds, once in a process.
    ///
    /// # Errors
    /// [`Error::BadAccel`] if the environment variable has another value.
    pub fn detect() -> Result<Self, Error> {
        match env::var(ACCEL_ENV).as_deref() {
            Ok("tcg") => return Ok(Self::Tcg),
            Ok("kvm") => return Ok(Self::Kvm),
            Ok("") | Err(_) => {}
            Ok(value) => {
                return Err(Error::BadAccel {
                    variable: ACCEL_ENV,
                    value: value.to_owned(),
                });
            }
        }
        static FOUND: OnceLock<Accel> = OnceLock::new();
        Ok(*FOUND.get_or_init(|| {
            let usable = cfg!(target_arch = "x86_64")
                && OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/kvm")
                    .is_ok()
                && trial(Self::Kvm, "host", TRIAL_LIMIT);
            if usable { Self::Kvm } else { Self::Tcg }
        }))
    }
}

/// Whether the trial guest runs to its end within `limit`.
fn trial(accel: Accel, cpu: &str, limit: Duration) -> bool {
    let Ok(mut disk) = tempfile::NamedTempFile::new() else {
        return false;
    };
    // SeaBIOS does not boot from a disk of a single sector.
    if disk.write_all(&boot_sector()).is_err() || disk.as_file().set_len(1 << 20).is_err() {
        return false;
    }
    let mut machine = Machine::new(Arch::X86_64, accel, Boot::Default);
    machine.cpu = Some(cpu.to_owned());
    machine.cpus = 1;
    machine.memory_mib = 32;
    machine.disks.push(Disk {
        read_only: true,
        ..Disk::scratch(disk.path(), Bus::VirtioBlk)
    });
    let exit = "isa-debug-exit,iobase=0xf4,iosize=4";
    machine.extra = vec!["-device".into(), exit.into()];
    let child = Command::new(machine.arch.program())
        .args(machine.args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return false;
    };
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.code(),
            Ok(None) if start.elapsed() < limit => thread::sleep(Duration::from_millis(10)),
            _ => {
                // Killed and reaped: neither can fail for a child of ours.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    status == Some(i32::from(TRIAL_VALUE) * 2 + 1)
}

/// The trial guest: a boot sector, loaded at 0x7c00.
fn boot_sector() -> [u8; 512] {
    #[rustfmt::skip]
    const CODE: [u8; 58] = [
        0xfa,                               // 00 cli
        0x31, 0xc0,                         // 01 xor ax, ax
        0x8e, 0xd8,                         // 03 mov ds, ax
        0x0f, 0x01, 0x16, 0x34, 0x7c,       // 05 lgdt [0x7c34]
        0x0f, 0x20, 0xc0,                   // 0a mov eax, cr0
        0x0c, 0x01,                         // 0d or al, 1
        0x0f, 0x22, 0xc0,                   // 0f mov cr0, eax
        0xea, 0x17, 0x7c, 0x08, 0x00,       // 12 jmp 8:0x7c17
        0xb9, 0x80, 0xf0, 0xfa, 0x02,       // 17 mov ecx, 50000000
        0x49,                               // 1c dec ecx
        0x75, 0xfd,                         // 1d jnz 1c
        0xb0, TRIAL_VALUE,                  // 1f mov al, value
        0xe6, 0xf4,                         // 21 out 0xf4, al
        0xeb, 0xfe,                         // 23 jmp 23
        0, 0, 0, 0, 0, 0, 0,                // 25 (unused)
        0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0, // 2c descriptor 8: flat 32-bit code
        0x0f, 0x00, 0x24, 0x7c, 0, 0,       // 34 table: 16 bytes at 0x7c24
    ];
    let mut sector = [0; 512];
    for (to, from) in sector.iter_mut().zip(CODE) {
        *to = from;
    }
    sector[510] = 0x55;
    sector[511] = 0xaa;
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_guest_runs_in_emulation() {
        assert!(trial(Accel::Tcg, "max", Duration::from_secs(60)));
    }

    #[test]
    fn a_trial_that_takes_too_long_fails_and_is_over() {
        let start = Instant::now();
        assert!(!trial(Accel::Tcg, "max", Duration::ZERO));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_processor_that_does_not_exist_is_no_success() {
        assert!(!trial(Accel::Tcg, "no-such-processor", TRIAL_LIMIT));
    }

    #[test]
    fn detection_keeps_its_limit() {
        let start = Instant::now();
        Accel::detect().unwrap();
        assert!(start.elapsed() < TRIAL_LIMIT + Duration::from_secs(2));
    }
}
