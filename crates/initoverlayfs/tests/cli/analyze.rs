//! `analyze`, of a real boot: tests/data/analyze has the record of Debian 13 in
//! QEMU on two busy CPUs, and what systemd said there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use assert_cmd::cargo::cargo_bin_cmd;

use crate::common::{Ran, json, run};

fn data(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/analyze");
    dir.join(name)
}

/// The machine: EFI, a virtio disk vda, and a SCSI driver with another device.
fn machine(dir: &Path) {
    let sys = dir.join("sys");
    let device = sys.join("devices/pci0000:00/0000:00:02.0/virtio1");
    let disk = device.join("block/vda");
    fs::create_dir_all(disk.join("vda1")).unwrap();
    let class = sys.join("class/block");
    fs::create_dir_all(&class).unwrap();
    symlink(&disk, class.join("vda")).unwrap();
    symlink(disk.join("vda1"), class.join("vda1")).unwrap();
    let module = |name: &str| sys.join("module").join(name);
    let driver = sys.join("bus/virtio_blk");
    fs::create_dir_all(&driver).unwrap();
    fs::create_dir_all(module("virtio_blk/drivers/virtio:virtio_blk")).unwrap();
    symlink(module("virtio_blk"), driver.join("module")).unwrap();
    symlink(&driver, device.join("driver")).unwrap();
    fs::create_dir_all(module("scsi_mod/drivers/scsi:x")).unwrap();
    fs::create_dir_all(module("scsi_common/holders/scsi_mod")).unwrap();
    fs::create_dir_all(module("dm_mod/holders/dm_verity")).unwrap();
    let efivars = sys.join("firmware/efi/efivars");
    fs::create_dir_all(&efivars).unwrap();
    for (name, text) in [
        ("LoaderTimeInitUSec", "2000000"),
        ("LoaderTimeExecUSec", "3500000"),
        ("LoaderTimeMenuUSec", "2100000"),
    ] {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        let bytes: Vec<u8> = [6, 0, 0, 0].into_iter().chain(units).collect();
        let name = format!("{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
        fs::write(efivars.join(name), bytes).unwrap();
    }
}

fn args(dir: &Path, more: &[&str]) -> Vec<String> {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let mut args = vec![
        "analyze".to_owned(),
        "--boot-json".into(),
        text(data("boot.json")),
        "--systemd-times".into(),
        text(data("systemd")),
        "--sysfs".into(),
        text(dir.join("sys")),
    ];
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args
}

#[test]
fn a_boot_is_shown_as_text() {
    let dir = tempfile::tempdir().unwrap();
    machine(dir.path());
    let output = cargo_bin_cmd!("initoverlayfs")
        .args(args(dir.path(), &[]))
        .env("LC_ALL", "C")
        .env("COLUMNS", "90")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said,
        fs::read_to_string(data("expected.txt")).unwrap(),
        "{said}"
    );
}

#[test]
fn a_boot_is_told_as_json() {
    let dir = tempfile::tempdir().unwrap();
    machine(dir.path());
    let said = json(args(dir.path(), &["--json"]));
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(data("boot.json")).unwrap()).unwrap();
    // Each phase begins where the one before ends, and ends with its stage.
    let phases = said["phases"].as_array().unwrap();
    let mut at = -3_500_000;
    for phase in phases {
        assert_eq!(phase["at_us"], at, "{phase}");
        at += phase["us"].as_i64().unwrap();
        let mut stages = record["stages"].as_array().unwrap().iter();
        if let Some(stage) = stages.find(|stage| stage["name"] == phase["name"]) {
            assert_eq!(stage["us"], at, "{phase}");
        }
    }
    let names: Vec<&str> = phases.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let want = "firmware loader kernel plan device modules proof image mount handover exec \
                init initrd system";
    assert_eq!(names.join(" "), want);
    let modules = said["modules"].as_array().unwrap();
    let others: Vec<&str> = modules
        .iter()
        .filter(|module| module["for_others"] == true)
        .map(|module| module["name"].as_str().unwrap())
        .collect();
    assert_eq!(others, ["scsi_common", "scsi_mod"]);
    assert_eq!(said["firmware"]["menu_us"], 1_400_000);
    assert_eq!(said["advice"][0]["saves_us"], 1_400_000);
}

#[test]
fn a_boot_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    machine(dir.path());
    let file = dir.path().join("boot.svg");
    assert_eq!(
        run(args(dir.path(), &["--svg", file.to_str().unwrap()])).code,
        0
    );
    let text = fs::read_to_string(&file).unwrap();
    for part in ["<svg ", "virtio_blk", "firmware", "initrd", "</svg>"] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let path = data("boot.json");
    let Ran { code, stdout, .. } = run(["analyze", "--boot-json", path.to_str().unwrap()]);
    assert_eq!(code, 0);
    for part in [
        "firmware and loader are not asked",
        "systemd is not asked",
        "no sysfs",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
    assert!(!stdout.contains("initrd  "), "{stdout}");
    // Another boot's times.
    let dir = tempfile::tempdir().unwrap();
    let times = dir.path().join("times");
    fs::write(&times, "UserspaceTimestampMonotonic=5\n").unwrap();
    let (path, times) = (path.to_str().unwrap(), times.to_str().unwrap());
    let ran = run(["analyze", "--boot-json", path, "--systemd-times", times]);
    assert!(ran.stdout.contains("not of the boot"), "{}", ran.stdout);
}

#[test]
fn what_is_no_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("boot.json");
    let path = file.to_str().unwrap();
    let ran = run(["analyze", "--boot-json", path]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("only a boot through storage-init"),
        "{}",
        ran.stderr
    );
    for (text, why) in [
        ("", "EOF"),
        (r#"{"version":2}"#, "format version 2"),
        (r#"{"version":1,"stages":7}"#, "invalid type"),
    ] {
        fs::write(&file, text).unwrap();
        let ran = run(["analyze", "--boot-json", path]);
        assert_eq!(ran.code, 1);
        assert!(
            ran.stderr.contains("is no record of a boot"),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    // No end: read up to the limit only.
    let ran = run(["analyze", "--boot-json", "/dev/zero"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("more than 4194304 bytes"),
        "{}",
        ran.stderr
    );
}
