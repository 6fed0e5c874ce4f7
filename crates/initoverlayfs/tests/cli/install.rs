//! `install` of a set made by hand.

use std::fs;
use std::path::Path;

use installer::manifest::{Artefact, Manifest, NAME, Partition, Place, VERSION};

use crate::common::{json, run};

/// A set for the ESP.
fn set(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for name in ["image.erofs", "mini-initramfs.img", "vmlinuz"] {
        fs::write(dir.join(name), name.repeat(1000)).unwrap();
    }
    let manifest = Manifest {
        version: VERSION,
        product: "test".into(),
        product_version: "1".into(),
        kernel_release: "6.12".into(),
        auth: "none".into(),
        root_hash: None,
        uki: None,
        uki_signed: false,
        candidates: vec![Place {
            name: "esp".into(),
            partition: Partition::TypeGuid(installer::ESP_TYPE.to_string()),
            file: Some("/test/1/image.erofs".into()),
        }],
        image: Artefact::of(dir, "image.erofs").unwrap(),
        image_uuid: "00000000-0000-0000-0000-000000000000".into(),
        initrd: Artefact::of(dir, "mini-initramfs.img").unwrap(),
        extensions: Vec::new(),
        kernel: Artefact::of(dir, "vmlinuz").unwrap(),
        direct: Vec::new(),
        stage: "initrd".into(),
        cmdline: Some("root=LABEL=x quiet".into()),
    };
    fs::write(dir.join(NAME), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn dry_run_then_install_then_no_op() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).into_os_string();
    set(&dir.path().join("set"));
    fs::create_dir(dir.path().join("esp")).unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    let args = [
        "install".into(),
        "--root".into(),
        path("root"),
        "--from".into(),
        path("set"),
        "--esp".into(),
        path("esp"),
    ];
    let with = |more: &'static str| args.iter().cloned().chain([more.into()]);

    let ran = run(with("--dry-run"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("would be written"), "{}", ran.stdout);
    assert!(ran.stdout.contains("root=LABEL=x quiet"), "{}", ran.stdout);
    assert_eq!(fs::read_dir(dir.path().join("esp")).unwrap().count(), 0);

    let report = json(with("--json"));
    assert_eq!(report["target"], "esp");
    assert_eq!(report["files"][0]["action"], "written");
    let entry = dir.path().join("esp/loader/entries/test-1.conf");
    let entry = json(["inspect".as_ref(), "--json".as_ref(), entry.as_os_str()]);
    assert_eq!(entry["linux"], "/test/1/linux");
    assert_eq!(entry["options"], "root=LABEL=x quiet");

    let ran = run(args.iter().cloned());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("already installed"), "{}", ran.stdout);
}

#[test]
fn a_missing_target_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    set(&dir.path().join("set"));
    let ran = run([
        "install".as_ref(),
        "--root".as_ref(),
        dir.path().as_os_str(),
        "--from".as_ref(),
        dir.path().join("set").as_os_str(),
    ]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no vfat"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--esp"), "{}", ran.stderr);
}

#[test]
fn partitions_for_the_image_are_read_and_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    set(&dir.path().join("set"));
    let install = |partitions: &str| {
        run([
            "install".as_ref(),
            "--root".as_ref(),
            dir.path().as_os_str(),
            "--from".as_ref(),
            dir.path().join("set").as_os_str(),
            "--image-partitions".as_ref(),
            partitions.as_ref(),
        ])
    };
    let ran = install("vda3,PARTLABEL=b");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("PARTLABEL=NAME"), "{}", ran.stderr);

    let ran = install("/dev/null");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("not a partition"), "{}", ran.stderr);
    assert!(ran.stderr.contains("lsblk"), "{}", ran.stderr);

    let ran = install("PARTLABEL=no such name");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("no disk"), "{}", ran.stderr);
}
