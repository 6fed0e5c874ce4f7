//! Virtual machines in QEMU, described, run and measured.
//!
//! A [`Machine`] says what the hardware is and how it starts; its
//! [`Machine::args`] are a pure function. [`Vm::start`] runs it: console lines
//! arrive live with the guest's own clock ([`ConsoleLine::kernel`]), QMP tells
//! why it ended and what it read ([`Outcome`]). Every wait has a limit, and a
//! machine never outlives its [`Vm`].
//!
//! # What was found *(QEMU 7.2, two cores, no usable KVM)*
//! * Debian 13's kernel (6.12) with its generic dracut initrd reaches
//!   multi-user on an ext4 root in 25 s under TCG with two processors.
//! * The same with `-icount shift=0,sleep=off -smp 1` takes 60 to 100 s of wall
//!   time; the guest's clock then counts instructions as nanoseconds, and says
//!   8.6 s at the exec of the root's init (6.3 s by initramfs-tools').
//! * The kernel alone, to its `/init`: 1.9 s on that clock, 8 s of wall time.
//! * Disk waits make `sleep=off` uneven ([`Idle::Jump`]): five boots through an
//!   EROFS image took 7.9, 8.0, 8.2, 14.0 and 16.1 s, the last two on a busy
//!   host; `sleep=on` gave 7.8 and 8.0 s in the same wall time.
//! * With icount, `sleep=off` and a guest that waits for nothing, QEMU warns
//!   of "no active timers" and stops for good: a guest that panics without
//!   `panic=-1` ends only by the time limit.
//! * `-no-shutdown` keeps QEMU alive after the guest has powered off, which is
//!   when block statistics are final; [`Vm::finish`] reads them, then quits.
//! * Firmware with Secure Boot starts a signed UKI of Debian 13 to PID 1 in 10 s.
//!   Of an unsigned one it says, within 5 s, "failed to load Boot0001 ...: Access
//!   Denied", then "Security Violation" of its own shell, and waits for a key.
//! * `-kernel` is of no use under Secure Boot: this QEMU changes the kernel's
//!   header, and with it the file that was signed.
//! * `/dev/kvm` that opens proves nothing: see [`Accel::detect`].

#![forbid(unsafe_code)]

mod accel;
mod answer;
mod console;
mod disk;
mod error;
mod firmware;
mod machine;
mod qmp;
mod streams;
mod tpm;
mod vm;

pub use accel::{ACCEL_ENV, Accel};
pub use answer::Answer;
pub use console::{ConsoleLine, LineBuffer, MAX_LINE, parse_kernel_line, strip_escapes};
pub use disk::{Bus, Cdrom, Crowd, Disk};
pub use error::Error;
pub use firmware::{Firmware, FirmwareKind, Snakeoil};
pub use machine::{Arch, Boot, Idle, Machine, Stdin};
pub use qmp::{BlockStats, Qmp, QmpEvent};
pub use tpm::{Tpm, TpmInterface};
pub use vm::{Exit, Outcome, RunOptions, Vm};
