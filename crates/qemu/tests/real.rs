//! The driver against the real emulator, with guests of a few bytes.

#![allow(
    clippy::unwrap_used,
    reason = "clippy does not see that the functions below are only for tests"
)]

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use qemu_driver::{Accel, Arch, Boot, Bus, Disk, Error, Exit, Machine, RunOptions, Vm};

/// A boot sector that runs `code` (16-bit, at 0x7c00) and halts.
fn boot_sector(dir: &Path, code: &[u8]) -> Machine {
    let mut sector = vec![0; 1 << 20];
    sector[..code.len()].copy_from_slice(code);
    // cli; hlt; jmp back
    sector[code.len()..code.len() + 4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfc]);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = dir.join("a,b.img");
    std::fs::File::create(&path)
        .unwrap()
        .write_all(&sector)
        .unwrap();
    let mut machine = Machine::new(Arch::X86_64, Accel::Tcg, Boot::Default);
    machine.memory_mib = 64;
    machine.disks.push(Disk::scratch(path, Bus::VirtioBlk));
    machine
}

/// Prints `text` on the first serial line by polling-free writes to its port.
fn printing(text: &str) -> Vec<u8> {
    let mut code = vec![0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

#[test]
fn console_statistics_and_memory_of_a_running_guest() {
    let dir = tempfile::tempdir().unwrap();
    let machine = boot_sector(dir.path(), &printing("[    1.500000] hi\n"));
    let options = RunOptions {
        count_memory: true,
        ..RunOptions::default()
    };
    let mut vm = Vm::start(&machine, options).unwrap();
    let line = vm
        .wait_for("the greeting", Duration::from_secs(30), |l| {
            l.message() == "hi"
        })
        .unwrap();
    assert_eq!(line.kernel.unwrap().0, Duration::from_millis(1500));
    let pid = vm.pid();
    let outcome = vm.stop().unwrap();
    assert_eq!(outcome.exit, Exit::Stopped);
    let disk = outcome.disks.iter().find(|d| d.device == "disk0").unwrap();
    assert!(disk.read_bytes >= 512);
    let touched = outcome.touched_bytes.unwrap();
    assert!((4096..64 << 20).contains(&touched), "{touched}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_reset_is_told_from_silence() {
    let dir = tempfile::tempdir().unwrap();
    // mov al, 0xfe; out 0x64, al: the keyboard controller resets the machine.
    let machine = boot_sector(dir.path(), &[0xb0, 0xfe, 0xe6, 0x64]);
    let vm = Vm::start(&machine, RunOptions::default()).unwrap();
    let outcome = vm.finish(Duration::from_secs(30)).unwrap();
    assert_eq!(outcome.exit, Exit::Reset);

    let machine = boot_sector(dir.path(), &[]);
    let vm = Vm::start(&machine, RunOptions::default()).unwrap();
    let pid = vm.pid();
    let error = vm.finish(Duration::from_secs(1)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_machine_that_cannot_be_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = boot_sector(dir.path(), &[]);
    machine.disks[0].path = dir.path().join("missing.img");
    let error = Vm::start(&machine, RunOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Died { .. }), "{text}");
    assert!(text.contains("missing.img"), "{text}");
}

#[test]
fn what_does_not_come_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let machine = boot_sector(dir.path(), &printing("only this\n"));
    let mut vm = Vm::start(&machine, RunOptions::default()).unwrap();
    let error = vm
        .wait_for("the other line", Duration::from_secs(3), |_| false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the other line did not come"), "{error}");
    assert!(error.contains("only this"), "{error}");
}
