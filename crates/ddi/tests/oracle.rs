//! Images against sgdisk, sfdisk, blkid, veritysetup and fsck.erofs.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{erofs, image, output, run, signature};
use ddi::write::{Image, Options, WriteError};
use ddi::{Arch, Ddi, Part, Role, RootHash, signature_part_uuid};
use serde_json::Value;
use tempfile::TempDir;

const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Arm64];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stored(folder: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("image.raw");
    fs::write(&path, bytes).unwrap();
    path
}

fn part<'a>(bytes: &'a [u8], part: &Part) -> &'a [u8] {
    let start = usize::try_from(part.start).unwrap();
    &bytes[start..start + usize::try_from(part.len).unwrap()]
}

#[test]
fn sgdisk_and_sfdisk_see_what_the_specification_says() {
    let erofs = erofs();
    for arch in ARCHES {
        let (bytes, root) = image(&erofs, arch);
        let folder = TempDir::new().unwrap();
        let path = stored(&folder, &bytes);
        let verified = run("sgdisk", &["-v", text(&path)]);
        assert!(verified.contains("No problems found"), "{verified}");

        let json: Value = serde_json::from_str(&run("sfdisk", &["--json", text(&path)])).unwrap();
        let table = &json["partitiontable"];
        let disk_guid = ddi::disk_guid(&root).to_string().to_uppercase();
        assert_eq!(table["id"], disk_guid.as_str());
        let partitions = table["partitions"].as_array().unwrap();
        assert_eq!(partitions.len(), 3);
        let uuids = [
            root.data_part_uuid(),
            root.verity_part_uuid(),
            signature_part_uuid(&root),
        ];
        for ((found, role), uuid) in partitions.iter().zip(Role::ALL).zip(uuids) {
            assert_eq!(
                found["type"],
                arch.type_guid(role).to_string().to_uppercase().as_str()
            );
            assert_eq!(found["uuid"], uuid.to_string().to_uppercase().as_str());
            let name = format!("root-{}{}", arch.name(), role.suffix());
            assert_eq!(found["name"], name.as_str());
            assert_eq!(found["attrs"], "GUID:60");
        }
    }
}

/// The type GUIDs again, as sfdisk names them.
#[test]
fn the_types_are_what_sfdisk_calls_them() {
    let erofs = erofs();
    for (arch, name) in [(Arch::X86_64, "x86-64"), (Arch::Arm64, "ARM-64")] {
        let folder = TempDir::new().unwrap();
        let path = stored(&folder, &image(&erofs, arch).0);
        let listed = run("sfdisk", &["-l", "-o", "Type", text(&path)]);
        let types: Vec<&str> = listed.lines().rev().take(3).map(str::trim).collect();
        assert_eq!(
            types,
            [
                format!("Linux root verity sign. ({name})"),
                format!("Linux root verity ({name})"),
                format!("Linux root ({name})"),
            ]
        );
    }
}

#[test]
fn veritysetup_and_fsck_accept_the_partitions() {
    let erofs = erofs();
    let (bytes, root) = image(&erofs, Arch::X86_64);
    let found = Ddi::read(&bytes, Arch::X86_64).unwrap();
    assert_eq!(part(&bytes, &found.root), erofs);

    let folder = TempDir::new().unwrap();
    let data = folder.path().join("root");
    fs::write(&data, part(&bytes, &found.root)).unwrap();
    run("fsck.erofs", &[text(&data)]);

    let hashes = folder.path().join("verity");
    fs::write(&hashes, part(&bytes, &found.verity)).unwrap();
    let verify = |hashes: &Path, offset: u64, root: &RootHash| {
        let offset = offset.to_string();
        let args = [
            "verify",
            "--hash-offset",
            &offset,
            text(&data),
            text(hashes),
            &root.to_hex(),
        ];
        output("veritysetup", &args).status.success()
    };
    assert!(verify(&hashes, 0, &root));
    // The same out of the whole image.
    let whole = stored(&folder, &bytes);
    assert!(verify(&whole, found.verity.start, &root));
    let other = RootHash::from_bytes(&[1; 32]).unwrap();
    assert!(!verify(&whole, found.verity.start, &other));
    // And what each would be by name.
    for (part, kind) in [(&found.root, "erofs"), (&found.verity, "DM_verity_hash")] {
        let offset = part.start.to_string();
        let probed = run(
            "blkid",
            &["-p", "-O", &offset, "-o", "export", text(&whole)],
        );
        assert!(probed.contains(&format!("TYPE={kind}")), "{probed}");
    }
}

#[test]
fn the_same_file_system_gives_the_same_image() {
    let erofs = erofs();
    let (one, root) = image(&erofs, Arch::X86_64);
    let (two, _) = image(&erofs, Arch::X86_64);
    assert!(one == two);
    let found = Ddi::read(&one, Arch::X86_64).unwrap();
    found.verify(&one, &root, |_| {}).unwrap();
    found.verify_all(&one, &root, |_| {}).unwrap();
    assert_eq!(found.signature(&one).unwrap(), Some(signature(&root)));

    let options = Options {
        salt: Some(vec![1]),
        ..Options::new(Arch::X86_64)
    };
    let salted = Image::new(&erofs[..], options, |_| {}).unwrap();
    assert_ne!(*salted.root_hash(), root);
}

#[test]
fn an_unsigned_image_has_two_partitions() {
    let erofs = erofs();
    let options = Options {
        label: Some("debian_13.1".into()),
        ..Options::new(Arch::Arm64)
    };
    let mut image = Image::new(&erofs[..], options, |_| {}).unwrap();
    let other = RootHash::from_bytes(&[1; 32]).unwrap();
    assert!(matches!(
        image.sign(&signature(&other)),
        Err(WriteError::Signature { .. })
    ));
    let labels: Vec<String> = image.partitions().into_iter().map(|p| p.label).collect();
    assert_eq!(labels, ["debian_13.1", "debian_13.1-verity"]);
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    let found = Ddi::read(&bytes, Arch::Arm64).unwrap();
    assert_eq!(found.signature(&bytes), Ok(None));
    found.verify(&bytes, image.root_hash(), |_| {}).unwrap();
}

/// What lies in real partitions is what lies in the image.
#[test]
fn partitions_are_written_one_by_one_too() {
    let erofs = erofs();
    let (bytes, root) = image(&erofs, Arch::X86_64);
    let found = Ddi::read(&bytes, Arch::X86_64).unwrap();
    let mut image = Image::new(&erofs[..], Options::new(Arch::X86_64), |_| {}).unwrap();
    image.sign(&signature(&root)).unwrap();
    let parts = [found.root, found.verity, found.signature.unwrap()];
    for (planned, placed) in image.partitions().iter().zip(&parts) {
        let mut contents = Vec::new();
        image.write_partition(planned.role, &mut contents).unwrap();
        assert_eq!(contents.len() as u64, planned.size);
        assert!(contents == part(&bytes, placed));
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let erofs = erofs();
    let new = |bytes: &[u8], label: Option<String>| {
        let options = Options {
            label,
            ..Options::new(Arch::X86_64)
        };
        Image::new(bytes, options, |_| {})
            .and_then(|image| image.write(&mut Vec::new()))
            .unwrap_err()
    };
    assert!(matches!(new(&[0; 4096], None), WriteError::Erofs(_)));
    assert!(matches!(
        new(&erofs[..erofs.len() - 1], None),
        WriteError::Truncated { .. }
    ));
    for label in ["x".repeat(26), "a\0".into()] {
        assert!(matches!(new(&erofs, Some(label)), WriteError::Layout(_)));
    }
}
