//! A root on LUKS2 that the TPM opens: firmware with Secure Boot, a UKI whose
//! signer vouches for PCR 11, swtpm.
//!
//! The stub puts that signature into /.extra, so it also tells that storage-init
//! hands this over.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Failed;
use qemu_driver::{Answer, Arch, Boot, Disk, FirmwareKind, Machine, Outcome, RunOptions, Tpm, Vm};
use vmtest::command;
use vmtest::matrix::{Reached, Row};
use vmtest::set::Set;
use vmtest::stack::{LUKS_UUID, Stack};
use vmtest::tools::{Tools, WORK};

use crate::Test;
use crate::roots::{FACTS, LIMIT, PROMPT, Roots, disks, is_sound, run};
use crate::support::{CONSOLE, Ground, facts, fail};
use crate::trust::{snakeoil, with_image};

pub(crate) const TESTS: &[Test] = &[Test::new(NAME, opened_by_tpm)];

const NAME: &str = "luks_by_tpm_behind_secure_boot";

const MOUNT: &[&str] = &["/dev/mapper/root ext4"];

/// The first boot is opened by passphrase and enrols the TPM; the second is
/// opened by that. Without Secure Boot PCR 7 is another, and the passphrase is
/// asked for again.
fn opened_by_tpm(ground: &Ground) -> Result<(), Failed> {
    let roots = Roots::of(ground)?;
    let dir = ground.dir().join("sealed-root");
    fs::create_dir_all(&dir)?;
    let set = uki(ground, roots, &dir)?;
    let entries = with_image(&set, "EFI/BOOT/BOOTX64.EFI", set.uki.as_deref())?;
    let parts = roots.stack(ground, Stack::Luks)?;
    let mut disks = disks(&dir, &entries, Stack::Luks, parts)?;
    for disk in &mut disks {
        disk.snapshot = false;
    }
    let firmware = ground.firmware(FirmwareKind::SecureBoot, &dir)?;
    let secure = machine(ground, firmware, &disks, &dir);

    let first = run(&secure, Some(PROMPT))?;
    is_sound(&first, MOUNT)?;
    let text = facts(&first, "enrol").join("\n");
    if !text.contains("New TPM2 token enrolled") {
        return Err(fail(&first, &format!("the TPM is not enrolled: {text}")));
    }
    let second = run(&secure, None)?;
    is_sound(&second, MOUNT)?;
    bound(&second)?;

    let plain = dir.join("plain");
    fs::create_dir_all(&plain)?;
    let firmware = ground.firmware(FirmwareKind::Plain, &plain)?;
    asks(&machine(ground, firmware, &disks, &dir))?;
    fs::remove_dir_all(&dir)?;
    let row = Row {
        bus: "virtio-blk, UEFI with Secure Boot".to_owned(),
        kernel: ground.kernel_name(),
        stage: "dracut".to_owned(),
        root: "ext4 on LUKS2 (TPM, PCR 7 and 11)".to_owned(),
        reached: Reached::MultiUser,
        test: NAME.to_owned(),
    };
    row.record()?;
    Ok(())
}

/// Its TPM and its disks keep what was written.
fn machine(ground: &Ground, boot: Boot, disks: &[Disk], dir: &Path) -> Machine {
    let mut machine = Machine::new(Arch::X86_64, ground.accel(), boot);
    machine.disks = disks.to_vec();
    machine.tpm = Some(Tpm {
        state: Some(dir.join("tpm")),
        ..Tpm::new()
    });
    machine
}

/// The volume's token wants PCR 7 as it is and PCR 11 as signed.
fn bound(outcome: &Outcome) -> Result<(), Failed> {
    let tokens = facts(outcome, "tokens");
    let has = |name: &str, value: &str| {
        tokens.iter().any(|line| {
            line.trim()
                .strip_prefix(name)
                .is_some_and(|rest| rest.trim() == value)
        })
    };
    match has("tpm2-hash-pcrs:", "7") && has("tpm2-pubkey-pcrs:", "11") {
        true => Ok(()),
        false => Err(fail(outcome, &format!("the token is {tokens:?}"))),
    }
}

/// The passphrase is asked for. What is typed, a wrong one, ends the line.
fn asks(machine: &Machine) -> Result<(), Failed> {
    let options = RunOptions {
        answers: vec![Answer::new(PROMPT, "wrong")],
        ..RunOptions::default()
    };
    let mut vm = Vm::start(machine, options)?;
    vm.wait_for("the prompt", LIMIT, |line| line.text.contains(PROMPT))?;
    // Nothing opened it meanwhile.
    let opened = vm.wait_for("the switch", Duration::from_secs(5), |line| {
        line.text.contains("Switch Root")
    });
    match opened {
        Ok(_) => Err("the volume was opened without the PCRs".into()),
        Err(_) => Ok(()),
    }
}

/// Built in the tree of tools: systemd-measure signs with a key made for it.
fn uki(ground: &Ground, roots: &Roots, dir: &Path) -> Result<Set, Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let snakeoil = snakeoil(ground)?;
    for (from, to) in [
        (&snakeoil.key, "boot.key"),
        (&snakeoil.certificate, "boot.crt"),
        (&tools.stub(), "stub"),
        (&roots.storage.dracut_initrd(), "initrd"),
    ] {
        fs::copy(from, dir.join(to))?;
    }
    signing_key(dir)?;
    let cmdline = format!(
        "{CONSOLE} root=/dev/mapper/root rw rd.luks.name={LUKS_UUID}=root \
         rd.luks.options={LUKS_UUID}=tpm2-device=auto iofs-storage.enrol {FACTS}"
    );
    let inside = |name: &str| format!("{WORK}/{name}");
    let files = [
        ("--initrd", "initrd"),
        ("--stub", "stub"),
        ("--secure-boot-key", "boot.key"),
        ("--secure-boot-certificate", "boot.crt"),
        ("--pcr-key", "pcr.key"),
        ("--pcr-public-key", "pcr.pub"),
        ("--output", "set"),
    ];
    let files = files.map(|(option, name)| [option.to_owned(), inside(name)]);
    let mut args = vec!["/srv/initoverlayfs", "build", "--uki"];
    args.extend(["--modules", "virtio-blk,virtio-pci", "--sysroot", "/mnt"]);
    args.extend(["--cmdline", &cmdline]);
    args.extend(files.iter().flatten().map(String::as_str));
    let chroot = tools
        .chroot(dir)
        .bind(&ground.dist, "/srv")
        .bind(roots.storage.tree(), "/mnt");
    command::output(&mut chroot.command(&args))?;
    Ok(Set::open(&dir.join("set"))?)
}

/// An RSA key for PCR values and its public half.
fn signing_key(dir: &Path) -> Result<(), Failed> {
    let key = dir.join("pcr.key");
    command::output(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-out"])
            .arg(&key),
    )?;
    command::output(
        Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(&key)
            .arg("-out")
            .arg(dir.join("pcr.pub")),
    )?;
    Ok(())
}
