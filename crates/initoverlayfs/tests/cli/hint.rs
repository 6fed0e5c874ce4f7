//! `hint`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{Ran, json, run};

/// A machine whose disk sda hangs on an AHCI port, and the record of its boot.
fn machine(dir: &Path) {
    let sys = dir.join("sys");
    let port = sys.join("devices/pci0000:00/0000:00:1f.2");
    let disk = port.join("ata1/host0/0:0:0:0/block/sda");
    fs::create_dir_all(disk.join("sda1")).unwrap();
    for (name, target) in [("sda", disk.clone()), ("sda1", disk.join("sda1"))] {
        let class = sys.join("class/block");
        fs::create_dir_all(&class).unwrap();
        symlink(target, class.join(name)).unwrap();
    }
    for (device, module) in [(port.as_path(), "ahci"), (&disk.join("../.."), "sd_mod")] {
        let driver = sys.join("bus").join(module);
        let modules = sys.join("module").join(module);
        fs::create_dir_all(&driver).unwrap();
        fs::create_dir_all(&modules).unwrap();
        symlink(&modules, driver.join("module")).unwrap();
        symlink(&driver, device.join("driver")).unwrap();
    }
    fs::write(
        dir.join("boot.json"),
        r#"{"image":{"partition":"/dev/sda1"}}"#,
    )
    .unwrap();
    fs::create_dir(dir.join("esp")).unwrap();
}

fn args(dir: &Path, action: &str) -> Vec<String> {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    [
        "hint".into(),
        action.into(),
        "--esp".into(),
        path("esp"),
        "--record".into(),
        path("boot.json"),
        "--sysfs".into(),
        path("sys"),
    ]
    .into()
}

#[test]
fn a_hint_is_recorded_shown_and_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    machine(dir);
    let Ran { code, stdout, .. } = run(args(dir, "show"));
    assert_eq!(code, 0);
    assert!(stdout.contains("no hint"), "{stdout}");

    let mut record = args(dir, "record");
    record.push("--json".into());
    let made = json(&record);
    assert_eq!(made["modules"], serde_json::json!(["ahci", "sd_mod"]));
    let file = dir.join("esp/loader/credentials/initoverlayfs.hint.cred");
    assert_eq!(fs::read_to_string(&file).unwrap(), "ahci\nsd_mod\n");
    // What storage-init reads it with.
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(iofs_cmdline::hints(&text).unwrap(), ["ahci", "sd_mod"]);
    // The same hint is not written again.
    let before = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(run(&record).code, 0);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
    let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    let ran = run(args(dir, "show"));
    assert!(ran.stdout.contains("ahci sd_mod"), "{}", ran.stdout);
    assert_eq!(run(args(dir, "clear")).code, 0);
    assert!(!file.exists());
    assert_eq!(run(args(dir, "clear")).code, 0);
}

#[test]
fn without_a_record_there_is_nothing_to_learn_from() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    machine(dir);
    fs::remove_file(dir.join("boot.json")).unwrap();
    let ran = run(args(dir, "record"));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("boot.json"), "{}", ran.stderr);
    assert!(ran.stderr.contains("storage-init"), "{}", ran.stderr);
    fs::write(dir.join("boot.json"), "{}").unwrap();
    assert_eq!(run(args(dir, "record")).code, 2);
    assert!(!dir.join("esp/loader").exists());
}
