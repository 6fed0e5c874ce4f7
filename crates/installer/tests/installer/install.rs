//! What is installed where, and what is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::common::{Fixture, tree};
use installer::manifest::Partition;
use installer::vfs::HostVfs;
use installer::{
    Action, BuiltSet, EntryToken, ErrorKind, InstallError, Options, Report, Silent, TargetKind,
    XBOOTLDR_TYPE, install_with,
};

fn attempt(fixture: &Fixture, options: &Options) -> Result<Report, InstallError> {
    install_with(
        &fixture.system,
        &HostVfs,
        &fixture.root(),
        &fixture.set,
        options,
        &Silent,
    )
}

#[test]
fn the_set_lies_where_the_plan_looks_and_the_entry_names_it() {
    let fixture = Fixture::new();
    let report = attempt(&fixture, &fixture.options()).unwrap();
    assert_eq!(report.target, TargetKind::Esp);
    assert_eq!(report.entry_id, "debian-13-1.0");
    let dir = fixture.esp().join("debian-13/1.0");
    for (name, mode) in [("image.erofs", 0o600), ("initrd", 0o600), ("linux", 0o644)] {
        let found = fs::metadata(dir.join(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    let entry = fs::read_to_string(fixture.entry()).unwrap();
    let values: Vec<(&str, &str)> = entry
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(key, value)| (key, value.trim()))
        .collect();
    for pair in [
        ("title", "Debian GNU/Linux 13 (trixie)"),
        ("version", "1.0"),
        ("machine-id", "0123456789abcdef0123456789abcdef"),
        ("sort-key", "debian-13"),
        ("linux", "/debian-13/1.0/linux"),
        ("initrd", "/debian-13/1.0/initrd"),
        ("options", "root=/dev/vda2 quiet"),
    ] {
        assert!(values.contains(&pair), "{pair:?} in {entry}");
    }
    assert_eq!(entry, report.entry);
}

#[test]
fn a_second_installation_changes_nothing() {
    let fixture = Fixture::new();
    attempt(&fixture, &fixture.options()).unwrap();
    let before = tree(&fixture.esp());
    let report = attempt(&fixture, &fixture.options()).unwrap();
    assert!(report.already_installed());
    assert_eq!(tree(&fixture.esp()), before);
}

#[test]
fn a_dry_run_writes_nothing_and_tells_all() {
    let fixture = Fixture::new();
    let before = tree(&fixture.esp());
    let options = Options {
        dry_run: true,
        ..fixture.options()
    };
    let report = attempt(&fixture, &options).unwrap();
    assert_eq!(tree(&fixture.esp()), before);
    assert!(report.files.iter().all(|f| f.action == Action::WouldWrite));
    assert!(report.files[3].path.ends_with("debian-13-1.0.conf"));
}

#[test]
fn other_content_under_the_same_name_is_a_conflict() {
    for victim in [
        "debian-13/1.0/image.erofs",
        "debian-13/1.0/linux",
        "loader/entries/debian-13-1.0.conf",
    ] {
        let fixture = Fixture::new();
        let path = fixture.esp().join(victim);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let before = tree(&fixture.esp());
        let error = attempt(&fixture, &fixture.options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{victim}");
        assert!(error.to_string().contains(victim), "{error}");
        assert!(error.hint().unwrap().contains("--version"));
        assert_eq!(tree(&fixture.esp()), before, "{victim}");
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_a_conflict() {
    let fixture = Fixture::new();
    let dir = fixture.esp().join("debian-13/1.0");
    fs::create_dir_all(&dir).unwrap();
    symlink(fixture.set.dir.join("vmlinuz"), dir.join("linux")).unwrap();
    let error = attempt(&fixture, &fixture.options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[test]
fn another_path_than_the_plans_is_refused_with_both() {
    let fixture = Fixture::new();
    let options = Options {
        entry_token: EntryToken::MachineId,
        ..fixture.options()
    };
    let error = attempt(&fixture, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PathMismatch);
    let text = error.to_string();
    assert!(text.contains("/debian-13/1.0/image.erofs on esp"), "{text}");
    let other = "/0123456789abcdef0123456789abcdef/1.0/image.erofs";
    assert!(text.contains(other), "{text}");
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&format!("--image-path {other}"))
    );
}

#[test]
fn a_set_that_changed_after_the_build_is_refused_and_taken_back() {
    let fixture = Fixture::new();
    let before = tree(&fixture.esp());
    fs::write(fixture.set.dir.join("vmlinuz"), vec![1u8; 5000]).unwrap();
    let error = attempt(&fixture, &fixture.options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Set);
    assert!(error.to_string().contains("linux"), "{error}");
    assert_eq!(tree(&fixture.esp()), before);
    fs::write(fixture.set.dir.join("vmlinuz"), "short").unwrap();
    assert_eq!(
        BuiltSet::open(&fixture.set.dir).unwrap_err().kind(),
        ErrorKind::Set
    );
}

#[test]
fn a_hostile_manifest_cannot_name_files_elsewhere() {
    let fixture = Fixture::new();
    for name in ["../vmlinuz", "/etc/passwd", "", ".hidden"] {
        let mut manifest = fixture.set.manifest.clone();
        manifest.kernel.name = name.into();
        let text = serde_json::to_vec(&manifest).unwrap();
        fs::write(fixture.set.dir.join("build.json"), text).unwrap();
        let error = BuiltSet::open(&fixture.set.dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Set, "{name:?}");
    }
    let mut set = fixture.set.clone();
    set.manifest.product_version = "../../evil".into();
    let error = install_with(
        &fixture.system,
        &HostVfs,
        &fixture.root(),
        &set,
        &fixture.options(),
        &Silent,
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Set);
}

#[test]
fn a_vfat_mount_is_found_and_an_ext4_one_is_not() {
    let fixture = Fixture::new();
    let efi = fixture.root().join("efi");
    fs::create_dir_all(efi.join("loader/entries")).unwrap();
    fixture.mountinfo(&[("254:1", &efi, "ext4")]);
    let error = attempt(&fixture, &Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTarget);
    assert!(error.to_string().contains("no vfat"), "{error}");

    fixture.mountinfo(&[("254:1", &efi, "ext4"), ("254:1", &efi, "vfat")]);
    let report = attempt(&fixture, &Options::default()).unwrap();
    assert_eq!(report.folder, fs::canonicalize(&efi).unwrap());
    // Without a partition table to read, the type is taken on trust, and said.
    assert!(report.notes[0].contains("could not be checked"));
}

/// A disk made by sgdisk with an ESP, an XBOOTLDR and a root partition, and the
/// files of sysfs that lead from device numbers to it.
fn with_disk(fixture: &Fixture) {
    let (sys, dev) = (&fixture.system.sys, &fixture.system.dev);
    fs::create_dir_all(dev).unwrap();
    let disk = fs::File::create(dev.join("vda")).unwrap();
    disk.set_len(64 << 20).unwrap();
    let made = Command::new("sgdisk")
        .args(["-n1:0:+8M", "-t1:ef00", "-n2:0:+8M", "-t2:ea00"])
        .args(["-n3:0:+8M", "-t3:8304", "-c3:root"])
        .arg(dev.join("vda"))
        .output()
        .expect("this test needs sgdisk (Debian package gdisk)");
    assert!(made.status.success(), "{made:?}");
    for number in ["1", "2", "3"] {
        let part = sys.join(format!("devices/virtio0/block/vda/vda{number}"));
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("partition"), format!("{number}\n")).unwrap();
        fs::create_dir_all(sys.join("dev/block")).unwrap();
        symlink(&part, sys.join(format!("dev/block/254:{number}"))).unwrap();
    }
    let queue = sys.join("devices/virtio0/block/vda/queue");
    fs::create_dir_all(&queue).unwrap();
    fs::write(queue.join("logical_block_size"), "512\n").unwrap();
}

#[test]
fn partition_types_come_from_the_table_itself() {
    let kind = Partition::TypeGuid(XBOOTLDR_TYPE.to_string());
    let fixture = Fixture::with_candidate("xbootldr", kind, crate::common::IMAGE_PATH);
    with_disk(&fixture);
    let boot = fixture.root().join("boot");
    fs::create_dir_all(&boot).unwrap();
    let efi = fixture.root().join("efi");
    fs::create_dir_all(&efi).unwrap();

    fixture.mountinfo(&[("254:1", &efi, "vfat"), ("254:3", &boot, "ext4")]);
    let error = attempt(&fixture, &Options::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
        "{error}"
    );

    fixture.mountinfo(&[("254:1", &efi, "vfat"), ("254:2", &boot, "ext4")]);
    let report = attempt(&fixture, &Options::default()).unwrap();
    assert_eq!(report.target, TargetKind::Xbootldr);
    assert_eq!(report.folder, fs::canonicalize(&boot).unwrap());
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    assert!(report.notes[0].contains("not authenticated"));
}

#[test]
fn a_vfat_that_is_no_esp_is_refused() {
    let fixture = Fixture::new();
    with_disk(&fixture);
    let efi = fixture.root().join("efi");
    fs::create_dir_all(&efi).unwrap();
    fixture.mountinfo(&[("254:2", &efi, "vfat")]);
    let error = attempt(&fixture, &Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTarget);
    assert!(
        error.to_string().contains("not on an EFI system partition"),
        "{error}"
    );
}

#[test]
fn boot_on_the_root_file_system_has_its_path_in_the_entry() {
    let label = Partition::Partlabel("root".into());
    let fixture = Fixture::with_candidate("boot", label, "/boot/debian-13/1.0/image.erofs");
    with_disk(&fixture);
    let boot = fixture.root().join("boot");
    fs::create_dir_all(&boot).unwrap();
    fixture.mountinfo(&[("254:3", &fixture.root(), "ext4")]);
    let report = attempt(&fixture, &Options::default()).unwrap();
    assert_eq!(report.target, TargetKind::Boot);
    assert!(boot.join("debian-13/1.0/image.erofs").exists());
    assert!(report.entry.contains("/boot/debian-13/1.0/linux"));

    fixture.mountinfo(&[("254:3", &fixture.root(), "btrfs")]);
    let error = attempt(&fixture, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("FAT and ext4 only"), "{error}");
    fixture.mountinfo(&[("254:2", &fixture.root(), "ext4")]);
    let error = attempt(&fixture, &Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTarget, "{error}");
}

#[test]
fn an_entry_that_counts_its_boots_is_the_same_entry() {
    let fixture = Fixture::new();
    let counted = fixture.esp().join("loader/entries/debian-13-1.0+2-1.conf");
    fs::write(counted, "title counted\n").unwrap();
    let error = attempt(&fixture, &fixture.options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("+2-1.conf"), "{error}");

    let mut fixture = Fixture::new();
    fixture.set.manifest.product_version = "1.0+3".into();
    fixture.set.manifest.candidates[0].file = Some("/debian-13/1.0+3/image.erofs".into());
    let error = attempt(&fixture, &fixture.options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

/// Makes the fixture's set one whose image is packed into its mini-initramfs.
fn embed(fixture: &mut Fixture) {
    let place = &mut fixture.set.manifest.candidates[0];
    place.name = "embedded".into();
    place.partition = Partition::Embedded;
    place.file = None;
}

#[test]
fn an_image_in_the_mini_initramfs_is_not_installed_once_more() {
    let mut fixture = Fixture::new();
    embed(&mut fixture);
    let report = attempt(&fixture, &fixture.options()).unwrap();
    assert_eq!(report.target, TargetKind::Esp);
    let names: Vec<_> = report
        .files
        .iter()
        .map(|file| file.path.file_name().unwrap().to_str().unwrap())
        .collect();
    let entry = format!("{}.conf", report.entry_id);
    assert_eq!(names, ["initrd", "linux", &entry]);
    assert!(report.files.iter().all(|file| file.path.is_file()));
    let again = attempt(&fixture, &fixture.options()).unwrap();
    assert!(again.already_installed());
}

#[test]
fn a_uki_with_the_image_inside_is_all_that_is_installed() {
    let mut fixture = Fixture::with_uki();
    embed(&mut fixture);
    let report = attempt(&fixture, &fixture.options()).unwrap();
    assert_eq!(report.files.len(), 1);
    assert!(
        report.files[0]
            .path
            .starts_with(fixture.esp().join("EFI/Linux"))
    );
    assert!(!fixture.esp().join("debian-13").exists());
}

#[test]
fn an_image_in_the_mini_initramfs_takes_no_partition() {
    let mut fixture = Fixture::new();
    embed(&mut fixture);
    let options = Options {
        image_partitions: vec!["/dev/vda3".parse().unwrap()],
        ..fixture.options()
    };
    let error = attempt(&fixture, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PathMismatch);
}

#[test]
fn an_image_that_is_the_system_gets_no_root() {
    let mut fixture = Fixture::new();
    fixture.set.manifest.stage = "system".into();
    let report = attempt(&fixture, &fixture.options()).unwrap();
    let lines: Vec<Vec<&str>> = report
        .entry
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(
        lines.contains(&vec!["options", "quiet"]),
        "{}",
        report.entry
    );
    assert!(
        lines.contains(&vec!["title", "debian-13"]),
        "{}",
        report.entry
    );
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("goes without root=/dev/vda2")),
        "{:?}",
        report.notes
    );
}
