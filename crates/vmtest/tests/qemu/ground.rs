//! The ground of the tests itself: firmware, TPM, other kernels, systemd's tools.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Failed;
use qemu_driver::{
    Arch, Boot, Bus, Disk, Firmware, FirmwareKind, Machine, RunOptions, Tpm, TpmInterface, Vm,
};
use vmtest::command;
use vmtest::disk::{Entry, fat};
use vmtest::kernels::{Kernel, Release};
use vmtest::tools::{Tools, WORK};

use crate::Test;
use crate::support::Ground;

pub(crate) const TESTS: &[Test] = &[
    Test::new("firmware_refuses_an_unsigned_program", secure_boot),
    Test::new("a_tpm_is_there_and_keeps_its_state", tpm),
    Test::new("kernels_of_other_releases_can_be_had", kernels),
    Test::new("systemd_tools_answer", tools),
];

/// The firmware takes seconds; two busy processors were seen to take 20.
const FIRMWARE_LIMIT: Duration = Duration::from_secs(90);

/// systemd-boot as it comes is signed by nobody whom the firmware trusts. The
/// firmware says "Security Violation" whatever it was given: of its own shell,
/// which it tries last. Of the disk's program it says "Access Denied".
fn secure_boot(ground: &Ground) -> Result<(), Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let dir = ground.dir();
    let esp = dir.join("esp.img");
    let entries = [Entry::new("EFI/BOOT/BOOTX64.EFI", tools.systemd_boot())];
    fat::make(&esp, fat::Format::new(64 << 20), &entries)?;
    let firmware = Firmware::prepare(FirmwareKind::SecureBoot, &dir.join("vars.fd"))?;
    let mut machine = Machine::new(Arch::X86_64, ground.accel(), Boot::Firmware(firmware));
    machine.disks.push(Disk::scratch(&esp, Bus::VirtioBlk));
    let mut vm = Vm::start(&machine, RunOptions::default())?;
    let refused = vm.wait_for("the firmware's word on Boot0001", FIRMWARE_LIMIT, |line| {
        ["starting Boot0001", "failed to load Boot0001"]
            .iter()
            .any(|part| line.text.contains(part))
    })?;
    match refused.text.contains("Access Denied") {
        true => Ok(()),
        false => Err(refused.text.into()),
    }
}

/// Both interfaces, and one TPM under two boots.
fn tpm(ground: &Ground) -> Result<(), Failed> {
    let state = ground.dir().join("tpm");
    let mut kept = Vec::new();
    for interface in [TpmInterface::Crb, TpmInterface::Tis] {
        let mut machine = Machine::new(
            Arch::X86_64,
            ground.accel(),
            Boot::Direct {
                kernel: ground.guest.kernel(),
                initrd: None,
                append: "console=ttyS0 panic=-1".to_owned(),
            },
        );
        machine.tpm = Some(Tpm {
            interface,
            state: Some(state.clone()),
            socket: None,
        });
        let mut vm = Vm::start(&machine, RunOptions::default())?;
        // Said by the kernel that has no init, after all built-in drivers.
        let end = "Kernel panic";
        vm.wait_for(end, FIRMWARE_LIMIT, |line| line.text.contains(end))?;
        let driver = match interface {
            TpmInterface::Crb => "tpm_crb",
            TpmInterface::Tis => "tpm_tis",
        };
        let outcome = vm.stop()?;
        if outcome.find(driver).is_none() {
            return Err(crate::support::fail(&outcome, &format!("no {driver}")));
        }
        kept.push(fs::read(state.join("tpm2-00.permall"))?.len());
    }
    match kept.as_slice() {
        [first, second] if *first > 0 && *second > 0 => Ok(()),
        _ => Err(format!("the TPM's state has {kept:?} bytes").into()),
    }
}

fn kernels(_: &Ground) -> Result<(), Failed> {
    for (release, begins) in [
        (Release::Debian12, "6.1."),
        (Release::Debian13Cloud, "6.12."),
        (Release::Forky, "7."),
    ] {
        let kernel = Kernel::ensure(release, &mut |line| eprintln!("{line}"))?;
        let version = kernel.kernel_release();
        if !version.starts_with(begins) {
            return Err(format!("{release:?} has kernel {version}").into());
        }
        let image = fs::read(kernel.kernel())?;
        // The magic number of the x86 boot protocol.
        if image.get(0x202..0x206) != Some(b"HdrS") {
            return Err(format!("{} is no kernel", kernel.kernel().display()).into());
        }
        let shown = command::output(
            Command::new("/usr/sbin/modprobe")
                .arg("--dirname")
                .arg(kernel.modules_root())
                .args(["--set-version", version])
                .args(["--show-depends", "--all"])
                .args(["dm-verity", "erofs", "overlay", "virtio_blk", "nvme"]),
        )?;
        for line in String::from_utf8(shown)?.lines() {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["insmod", path] if Path::new(path).is_file() => {}
                ["builtin", _] => {}
                _ => return Err(format!("{release:?}: {line}").into()),
            }
        }
    }
    Ok(())
}

/// Each tool once on something real, so that what it loads is there too.
fn tools(ground: &Ground) -> Result<(), Failed> {
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let dir = ground.dir().join("tools");
    fs::create_dir_all(dir.join("tree/etc"))?;
    fs::create_dir_all(dir.join("repart.d"))?;
    fs::write(dir.join("tree/etc/os-release"), "ID=test\n")?;
    for (name, rest) in [
        (
            "10-root",
            "Type=root\nFormat=erofs\nCopyFiles=/work/tree:/\nMinimize=best\nVerity=data\n",
        ),
        (
            "20-verity",
            "Type=root-verity\nMinimize=best\nVerity=hash\n",
        ),
        ("30-sig", "Type=root-verity-sig\nVerity=signature\n"),
    ] {
        let text = format!("[Partition]\n{rest}VerityMatchKey=root\n");
        fs::write(dir.join(format!("repart.d/{name}.conf")), text)?;
    }
    fs::copy(ground.guest.kernel(), dir.join("vmlinuz"))?;
    let script = "set -ex; cd /work
        openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 3650 -subj /CN=test
        systemd-repart --offline=yes --empty=create --size=auto --definitions=repart.d \
            --private-key=k.pem --certificate=c.pem ddi.raw
        systemd-dissect --validate ddi.raw
        ukify build --linux=vmlinuz --cmdline=quiet --output=uki.efi
        ukify inspect uki.efi
        sbsign --key k.pem --cert c.pem --output signed.efi uki.efi
        sbverify --cert c.pem signed.efi
        /usr/lib/systemd/systemd-measure calculate --linux=vmlinuz --cmdline=c.pem --json=short
        tpm2_eventlog --version
        /usr/lib/systemd/systemd-pcrlock --version";
    let output = command::output(&mut tools.chroot(&dir).command(&["sh", "-c", script]))?;
    let text = String::from_utf8_lossy(&output);
    for part in [".linux", ".cmdline", "Signature verification OK", "sha256"] {
        if !text.contains(part) {
            return Err(format!("{part:?} is not in {WORK}'s output: {text}").into());
        }
    }
    Ok(())
}
