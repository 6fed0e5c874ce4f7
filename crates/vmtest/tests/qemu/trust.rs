//! Trust from the firmware on: Secure Boot, the TPM, and what the kernels of
//! three releases make of a signed image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use qemu_driver::{Boot, FirmwareKind, Outcome, Snakeoil, Tpm};
use serde_json::Value;
use vmtest::command;
use vmtest::disk::Entry;
use vmtest::kernels::{Kernel, Release};
use vmtest::set::Set;
use vmtest::tools::Tools;

use crate::Test;
use crate::support::{CONSOLE, Ground, Key, Small, expect, fail, reports};

pub(crate) const TESTS: &[Test] = &[
    Test::new("secure_boot_from_firmware_to_a_sealed_image", sealed),
    Test::new("secure_boot_and_tpm_with_a_signed_image", signed),
    Test::new("a_signer_unknown_to_the_kernel_is_refused", refused),
    Test::new("forky_takes_the_plans_certificate", forky),
    Test::new("debian_12_leaves_the_signature_to_us", debian_12),
];

/// The kernel says this of a signature that one of its keyrings vouches for.
const VOUCHED: &str = "the kernel has checked the root hash's signature too";

/// A parameter that makes dm-verity insist on that.
const REQUIRE: &str = "dm_verity.require_signatures=1";
const REQUIRED: &str = "/sys/module/dm_verity/parameters/require_signatures";

/// File systems that nobody has authenticated when the image is looked for.
const UNTRUSTED: &[&str] = &["fat", "vfat", "msdos", "exfat", "ext4", "jbd2"];

const MEASURED: &str = "/run/log/systemd/tpm2-measure.log";
const PCR: &str = "/sys/class/tpm/tpm0/pcr-sha256/13";
const RECORD: &str = "/run/initoverlayfs/boot.json";

/// The firmware passes over a changed and an unsigned UKI, and starts a signed
/// systemd-boot; that finds the UKI where `install` has put it; that has the
/// root hash of the image beside it. The init in the image tells which modules
/// were needed to get there.
fn sealed(ground: &Ground) -> Result<(), Failed> {
    let snakeoil = snakeoil(ground)?;
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let dir = ground.dir().join("sealed");
    let set = Small {
        words: &format!("testinit.cat=/proc/modules testinit.cat={RECORD}"),
        uki: Some(&snakeoil),
        ..Small::of(ground)
    }
    .build(ground, &dir)?;
    let uki = set.uki.as_deref().ok_or("no UKI was built")?;
    let [changed, unsigned] = forged(uki, &dir)?;
    let boot = dir.join("boot.efi");
    sign_program(&snakeoil, &tools.systemd_boot(), &boot)?;
    let mut entries = installed(ground, &set, &dir)?;
    entries.push(Entry::new("EFI/BOOT/BOOTX64.EFI", boot));
    let disks = [
        ground.bootable(&dir.join("changed.img"), &changed)?,
        ground.bootable(&dir.join("unsigned.img"), &unsigned)?,
        ground.esp_disk(&dir.join("disk.img"), &entries)?,
    ];
    let firmware = ground.firmware(FirmwareKind::SecureBoot, &dir)?;
    let outcome = ground.machine(firmware, &disks, Some(Tpm::new()))?;
    for (number, what) in [(1, "the changed UKI"), (2, "the unsigned UKI")] {
        let entry = format!("failed to load Boot000{number} ");
        let denied = |line: &str| line.contains(&entry) && line.contains("Access Denied");
        if !outcome.lines.iter().any(|line| denied(&line.text)) {
            return Err(fail(&outcome, &format!("{what} was not refused")));
        }
    }
    for text in [
        "starting Boot0003 ",
        "Secure boot enabled",
        "[stage start] storage-init",
        ", sealed in the boot plan",
        "TESTINIT stage: first",
    ] {
        expect(&outcome, text)?;
    }
    let record = reports(&outcome, RECORD).concat();
    let record: Value =
        serde_json::from_str(&record).map_err(|e| fail(&outcome, &format!("{RECORD}: {e}")))?;
    if record.pointer("/image/candidate") != Some(&Value::from("esp")) {
        return Err(fail(&outcome, "the image is not that on the ESP"));
    }
    no_untrusted_file_system(&outcome)
}

/// The UKI with one bit changed, and without its signature.
fn forged(uki: &Path, dir: &Path) -> Result<[PathBuf; 2], Failed> {
    let changed = dir.join("changed.efi");
    let mut bytes = fs::read(uki)?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    fs::write(&changed, bytes)?;
    let unsigned = dir.join("unsigned.efi");
    fs::copy(uki, &unsigned)?;
    command::output(Command::new("sbattach").arg("--remove").arg(&unsigned))?;
    Ok([changed, unsigned])
}

/// The files that `install` puts on an ESP.
fn installed(ground: &Ground, set: &Set, dir: &Path) -> Result<Vec<Entry>, Failed> {
    let esp = dir.join("esp");
    fs::create_dir_all(&esp)?;
    let root = dir.join("system");
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/os-release"), "ID=test\nVERSION_ID=1\n")?;
    command::output(
        Command::new(ground.dist.join("initoverlayfs"))
            .args(["install", "--entry-token", "product"])
            .arg("--root")
            .arg(&root)
            .arg("--from")
            .arg(&set.dir)
            .arg("--esp")
            .arg(&esp),
    )?;
    let entries = entries_of(&esp)?;
    match entries.iter().any(|e| e.to.starts_with("EFI/Linux/")) {
        true => Ok(entries),
        false => Err(format!("install has put no UKI into EFI/Linux: {entries:?}").into()),
    }
}

/// What `/proc/modules` has at the image's init.
fn no_untrusted_file_system(outcome: &Outcome) -> Result<(), Failed> {
    let modules = reports(outcome, "/proc/modules");
    let names: Vec<&str> = modules
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    // The list is the real one only if what must be in it is.
    for name in ["erofs", "dm_verity", "virtio_blk"] {
        if !names.contains(&name) {
            return Err(fail(outcome, &format!("{name} is not among {names:?}")));
        }
    }
    let untrusted = |name: &&&str| UNTRUSTED.contains(*name) || name.starts_with("nls_");
    match names.iter().find(untrusted) {
        Some(name) => Err(fail(outcome, &format!("{name} is loaded"))),
        None => Ok(()),
    }
}

/// An image signed by a key of the UEFI db: user space, the kernel and the TPM
/// each do their part, and dm-verity may insist on it.
fn signed(ground: &Ground) -> Result<(), Failed> {
    let snakeoil = snakeoil(ground)?;
    let dir = ground.dir().join("signed");
    let set = Small {
        words: &format!(
            "{REQUIRE} testinit.cat={REQUIRED} testinit.cat={PCR} testinit.cat={MEASURED} \
             testinit.sum={MEASURED}"
        ),
        uki: Some(&snakeoil),
        signer: Some(&snakeoil),
        options: &["--measure-required"],
        ..Small::of(ground)
    }
    .build(ground, &dir)?;
    let entries = with_image(&set, "EFI/BOOT/BOOTX64.EFI", set.uki.as_deref())?;
    let disks = [ground.esp_disk(&dir.join("disk.img"), &entries)?];
    let firmware = ground.firmware(FirmwareKind::SecureBoot, &dir)?;
    let outcome = ground.machine(firmware, &disks, Some(Tpm::new()))?;
    let text = format!("initoverlayfs-image:{}", root_hash(&set)?);
    let in_order = [
        "starting Boot0001 ".to_owned(),
        ", signed by ".to_owned(),
        format!("measured into PCR 13: {text}"),
        VOUCHED.to_owned(),
        "[stage mount]".to_owned(),
        "TESTINIT stage: first".to_owned(),
    ];
    let mut lines = outcome.lines.iter();
    for part in &in_order {
        if !lines.any(|line| line.text.contains(part.as_str())) {
            return Err(fail(&outcome, &format!("{part:?} did not come, in order")));
        }
    }
    if reports(&outcome, REQUIRED) != ["Y"] {
        return Err(fail(&outcome, "dm-verity does not insist on a signature"));
    }
    measured(&outcome, &dir, &text)
}

/// The register and the log both have `text`, and systemd reads the log.
fn measured(outcome: &Outcome, dir: &Path, text: &str) -> Result<(), Failed> {
    let digest = sha256(dir, text.as_bytes())?;
    let mut extended = vec![0; 32];
    extended.extend(from_hex(&digest)?);
    let expected = sha256(dir, &extended)?;
    let register = reports(outcome, PCR).concat().to_lowercase();
    if register != expected {
        let what = format!("PCR 13 is {register:?}, not {expected}");
        return Err(fail(outcome, &what));
    }

    // What `cat` says, then `sum`. On the console a control character is a
    // question mark; the sum tells whether that is all that was changed.
    let shown = reports(outcome, MEASURED);
    let parted = shown.split_last().and_then(|(sum, record)| {
        let record = record.concat();
        Some((*sum, record.strip_prefix('?')?.to_owned()))
    });
    let (sum, record) = parted.ok_or_else(|| fail(outcome, &format!("{MEASURED}: {shown:?}")))?;
    let bytes = format!("\x1e{record}\n").into_bytes();
    let wanted = format!("{} bytes, {:016x}", bytes.len(), fnv1a(&bytes));
    if sum != wanted {
        return Err(fail(
            outcome,
            &format!("{MEASURED} has {sum}, not {wanted}"),
        ));
    }
    systemd_reads(dir, &bytes, &digest)
}

/// systemd-pcrlock finds that digest of PCR 13 in the log.
fn systemd_reads(dir: &Path, log: &[u8], digest: &str) -> Result<(), Failed> {
    let run = dir.join("run");
    fs::create_dir_all(run.join("log/systemd"))?;
    fs::write(run.join("log/systemd/tpm2-measure.log"), log)?;
    let kernel = dir.join("kernel");
    fs::create_dir_all(kernel.join("security/tpm0"))?;
    fs::write(
        kernel.join("security/tpm0/binary_bios_measurements"),
        firmware_log(),
    )?;
    let tools = Tools::ensure(&mut |line| eprintln!("{line}"))?;
    let output = command::output(
        &mut tools
            .chroot(dir)
            .bind(&run, "/run")
            .bind(&kernel, "/sys/kernel")
            .command(&["/usr/lib/systemd/systemd-pcrlock", "cel", "--json=short"]),
    )?;
    let records: Value = serde_json::from_slice(&output)?;
    let found = records.as_array().into_iter().flatten().any(|record| {
        let sha256 = Value::from("sha256");
        record["pcr"] == 13
            && record["digests"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|d| d["hashAlg"] == sha256 && d["digest"] == digest)
    });
    match found {
        true => Ok(()),
        false => Err(format!("systemd-pcrlock sees no {digest} in PCR 13: {records}").into()),
    }
}

/// The firmware's own log with nothing but its head: without it systemd-pcrlock
/// reads no log at all. TCG PC Client Platform Firmware Profile, 10.4.5.1.
fn firmware_log() -> Vec<u8> {
    let algorithms: [(u16, u16); 4] = [(0x4, 20), (0xb, 32), (0xc, 48), (0xd, 64)];
    let mut event = b"Spec ID Event03\0".to_vec();
    event.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    event.extend(4_u32.to_le_bytes());
    for (algorithm, size) in algorithms {
        event.extend(algorithm.to_le_bytes());
        event.extend(size.to_le_bytes());
    }
    event.push(0);
    let mut log = vec![0; 4];
    // EV_NO_ACTION, and a SHA-1 of zeros.
    log.extend(3_u32.to_le_bytes());
    log.extend([0; 20]);
    log.extend(u32::try_from(event.len()).unwrap_or(0).to_le_bytes());
    log.extend(event);
    log
}

/// The plan trusts the signer, the kernel does not know it: where dm-verity
/// insists, the boot ends and says so.
fn refused(ground: &Ground) -> Result<(), Failed> {
    let key = ground.key("stranger", "p384")?;
    let dir = ground.dir().join("refused");
    let set = Small {
        signer: Some(&key),
        ..Small::of(ground)
    }
    .build(ground, &dir)?;
    let disks = [ground.esp_disk(&dir.join("disk.img"), &with_image(&set, "", None)?)?];
    let boot = direct(
        &ground.guest.kernel(),
        &set,
        &format!("{REQUIRE} initoverlayfs.failure_wait=0"),
    );
    let outcome = ground.machine(boot, &disks, None)?;
    for text in [
        ", signed by ",
        "the kernel does not vouch for the root hash's signature",
        "with dm_verity.require_signatures=1 wants a signer from its own keyrings",
    ] {
        expect(&outcome, text)?;
    }
    match outcome.find("TESTINIT") {
        Some(_) => Err(fail(&outcome, "the image's init ran")),
        None => Ok(()),
    }
}

/// Linux 7: the plan's certificate goes into dm-verity's keyring. The kernel is asked
/// because it is there: it does not insist.
fn forky(ground: &Ground) -> Result<(), Failed> {
    let kernel = Kernel::ensure(Release::Forky, &mut |line| eprintln!("{line}"))?;
    let key = ground.key("forky", "p256")?;
    let words = format!("testinit.cat=/proc/keys testinit.cat={REQUIRED}");
    let outcome = other_kernel(ground, &kernel, &key, &words)?;
    for text in [
        "the plan's certificates are in the kernel's keyring .dm-verity, now closed",
        VOUCHED,
        "TESTINIT stage: first",
    ] {
        expect(&outcome, text)?;
    }
    if reports(&outcome, REQUIRED) != ["N"] {
        return Err(fail(&outcome, "dm-verity insists on a signature"));
    }
    let keys = reports(&outcome, "/proc/keys");
    match keys.iter().find(|line| line.contains(".dm-verity: ")) {
        Some(line) if line.trim_end().ends_with(": 1") => Ok(()),
        line => Err(fail(&outcome, &format!("the keyring is {line:?}"))),
    }
}

/// Linux 6.1: no keyring of it can hold the certificate, and the check is ours.
fn debian_12(ground: &Ground) -> Result<(), Failed> {
    let kernel = Kernel::ensure(Release::Debian12, &mut |line| eprintln!("{line}"))?;
    let key = ground.key("debian-12", "rsa3072")?;
    let outcome = other_kernel(ground, &kernel, &key, "testinit.stacked")?;
    for text in [
        ", signed by ",
        "the kernel does not vouch for the root hash's signature: it has no key ",
        "the root hash is not measured: the kernel shows no TPM 2.0",
        "TESTINIT stage: first",
        "TESTINIT stacked: dm-0 loop0",
    ] {
        expect(&outcome, text)?;
    }
    match outcome.find(VOUCHED) {
        Some(_) => Err(fail(&outcome, "it has checked, which it cannot")),
        None => Ok(()),
    }
}

fn other_kernel(
    ground: &Ground,
    kernel: &Kernel,
    key: &Key,
    words: &str,
) -> Result<Outcome, Failed> {
    let dir = ground.dir().join(kernel.kernel_release());
    let image = kernel.kernel();
    let set = Small {
        sysroot: kernel.modules_root(),
        kernel: image.clone(),
        signer: Some(key),
        ..Small::of(ground)
    }
    .build(ground, &dir)?;
    let disks = [ground.esp_disk(&dir.join("disk.img"), &with_image(&set, "", None)?)?];
    ground.machine(direct(&image, &set, words), &disks, None)
}

pub(crate) fn direct(kernel: &Path, set: &Set, words: &str) -> Boot {
    Boot::Direct {
        kernel: kernel.to_owned(),
        initrd: Some(set.mini_initramfs()),
        append: format!("{} {words}", CONSOLE),
    }
}

/// The image at its place on the ESP, and perhaps another file.
pub(crate) fn with_image(set: &Set, to: &str, from: Option<&Path>) -> Result<Vec<Entry>, Failed> {
    let place = set.image_path.as_deref().ok_or("the image is no file")?;
    let mut entries = vec![Entry::new(place.trim_start_matches('/'), &set.image)];
    entries.extend(from.map(|from| Entry::new(to, from)));
    Ok(entries)
}

/// The key that the firmware trusts, without its passphrase.
pub(crate) fn snakeoil(ground: &Ground) -> Result<Key, Failed> {
    let found = Snakeoil::find()?;
    let key = ground.dir().join("snakeoil.key");
    command::output(
        Command::new("openssl")
            .args(["pkey", "-passin"])
            .arg(format!("pass:{}", Snakeoil::PASSPHRASE))
            .arg("-in")
            .arg(found.key)
            .arg("-out")
            .arg(&key),
    )?;
    Ok(Key {
        key,
        certificate: found.certificate,
    })
}

fn sign_program(key: &Key, from: &Path, to: &Path) -> Result<(), Failed> {
    command::output(
        Command::new("sbsign")
            .arg("--key")
            .arg(&key.key)
            .arg("--cert")
            .arg(&key.certificate)
            .arg("--output")
            .args([to, from]),
    )?;
    Ok(())
}

/// Every file of a folder, for a volume.
fn entries_of(folder: &Path) -> Result<Vec<Entry>, Failed> {
    let mut entries = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inside))? {
            let entry = entry?;
            let place = inside.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(place);
            } else {
                entries.push(Entry::new(&place.to_string_lossy(), entry.path()));
            }
        }
    }
    Ok(entries)
}

/// What the manifest says of the image.
pub(crate) fn root_hash(set: &Set) -> Result<String, Failed> {
    let manifest: Value = serde_json::from_slice(&fs::read(set.dir.join("build.json"))?)?;
    let root = manifest["root-hash"].as_str();
    Ok(root.ok_or("the manifest has no root hash")?.to_owned())
}

fn sha256(dir: &Path, bytes: &[u8]) -> Result<String, Failed> {
    let file = dir.join("hashed");
    fs::write(&file, bytes)?;
    let output = command::output(Command::new("sha256sum").arg(&file))?;
    let text = String::from_utf8(output)?;
    Ok(text.split_whitespace().next().unwrap_or("").to_owned())
}

fn from_hex(text: &str) -> Result<Vec<u8>, Failed> {
    let pair = |at| u8::from_str_radix(text.get(at..at + 2).unwrap_or(""), 16);
    let bytes: Result<_, _> = (0..text.len()).step_by(2).map(pair).collect();
    Ok(bytes?)
}

/// As `testinit.sum` has it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
