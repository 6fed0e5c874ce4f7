//! A power cut or a fault at every single write of an installation.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::common::{Fault, Faulty, Fixture, Loss, OTHERS, tree};
use installer::{ErrorKind, Silent, install_with};

fn attempt(fixture: &Fixture, vfs: &Faulty) -> Result<installer::Report, installer::InstallError> {
    install_with(
        &fixture.system,
        vfs,
        &fixture.root(),
        &fixture.set,
        &fixture.options(),
        &Silent,
    )
}

/// Others' files are as they were, and a new entry names only whole files.
fn check(fixture: &Fixture, when: &str) -> bool {
    let found = tree(&fixture.esp());
    for (path, text) in OTHERS {
        assert_eq!(
            found.get(&PathBuf::from(path)).map(Vec::as_slice),
            Some(text.as_bytes()),
            "{path} {when}"
        );
    }
    let Some(entry) = found.get(&PathBuf::from("loader/entries/debian-13-1.0.conf")) else {
        return false;
    };
    let entry = String::from_utf8(entry.clone()).unwrap();
    let value = |key: &str| {
        let line = entry.lines().find(|line| line.starts_with(key));
        let line = line.unwrap_or_else(|| panic!("no {key} in the entry {when}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let manifest = &fixture.set.manifest;
    for (path, artefact) in [
        (value("linux"), &manifest.kernel),
        (value("initrd"), &manifest.initrd),
        (crate::common::IMAGE_PATH.to_owned(), &manifest.image),
    ] {
        let there = found
            .get(&PathBuf::from(path.trim_start_matches('/')))
            .unwrap_or_else(|| panic!("{path} is missing {when}"));
        let built = fs::read(fixture.set.path(artefact)).unwrap();
        assert!(*there == built, "{path} is damaged {when}");
    }
    true
}

fn operations() -> usize {
    let fixture = Fixture::new();
    let vfs = Faulty::new(usize::MAX, Fault::PowerCut);
    attempt(&fixture, &vfs).unwrap();
    assert!(check(&fixture, "after a whole installation"));
    vfs.operations()
}

#[test]
fn a_power_cut_at_any_write_leaves_a_whole_entry_or_none() {
    let operations = operations();
    assert!(operations > 20, "only {operations} operations were seen");
    let mut with_entry = 0;
    for at in 0..operations {
        for loss in [
            Loss::Nothing,
            Loss::Unsynced,
            Loss::UnsyncedButEntries,
            Loss::Content,
        ] {
            let fixture = Fixture::new();
            let vfs = Faulty::new(at, Fault::PowerCut);
            attempt(&fixture, &vfs).unwrap_err();
            vfs.lose(loss);
            let when = format!("after a cut at operation {at} with the loss {loss:?}");
            with_entry += usize::from(check(&fixture, &when));

            // The next run finishes the work whatever the cut left, or says what
            // is in the way; it never takes a damaged file for a good one.
            let again = attempt(&fixture, &Faulty::new(usize::MAX, Fault::PowerCut));
            let report = again.unwrap_or_else(|e| panic!("{e} {when}"));
            assert!(
                check(&fixture, &when),
                "no entry after the second run {when}"
            );
            assert_eq!(report.files.len(), 4);
        }
    }
    // The cut after the entry's rename, where nothing or only its folder's
    // entries had been written back.
    assert!(
        with_entry > 0,
        "no cut left an entry: the model sees nothing"
    );
}

/// Whether the UKI is there; if so, it and the image are whole.
fn check_uki(fixture: &Fixture, when: &str) -> bool {
    check(fixture, when);
    let found = tree(&fixture.esp());
    let built = |artefact| fs::read(fixture.set.path(artefact)).unwrap();
    let manifest = &fixture.set.manifest;
    let Some(uki) = found.get(&PathBuf::from("EFI/Linux/debian-13-1.0.efi")) else {
        return false;
    };
    assert!(
        *uki == built(manifest.uki.as_ref().unwrap()),
        "the UKI is damaged {when}"
    );
    let image = found.get(&PathBuf::from("debian-13/1.0/image.erofs"));
    assert!(
        image.is_some_and(|image| *image == built(&manifest.image)),
        "the image is damaged or missing {when}"
    );
    true
}

#[test]
fn a_power_cut_at_any_write_leaves_a_whole_uki_or_none() {
    let fixture = Fixture::with_uki();
    let vfs = Faulty::new(usize::MAX, Fault::PowerCut);
    let report = attempt(&fixture, &vfs).unwrap();
    assert_eq!(report.entry_file, "debian-13-1.0.efi");
    assert_eq!(report.files.len(), 2);
    assert!(check_uki(&fixture, "after a whole installation"));
    assert!(!fixture.entry().exists(), "no entry of type 1 beside it");
    let operations = vfs.operations();
    assert!(operations > 15, "only {operations} operations were seen");
    let mut with_uki = 0;
    for at in 0..operations {
        for loss in [Loss::Nothing, Loss::Unsynced, Loss::UnsyncedButEntries] {
            let fixture = Fixture::with_uki();
            let vfs = Faulty::new(at, Fault::PowerCut);
            attempt(&fixture, &vfs).unwrap_err();
            vfs.lose(loss);
            let when = format!("after a cut at operation {at} with the loss {loss:?}");
            with_uki += usize::from(check_uki(&fixture, &when));
            attempt(&fixture, &Faulty::new(usize::MAX, Fault::PowerCut))
                .unwrap_or_else(|e| panic!("{e} {when}"));
            assert!(
                check_uki(&fixture, &when),
                "no UKI after the second run {when}"
            );
        }
    }
    assert!(with_uki > 0, "no cut left a UKI: the model sees nothing");
}

#[test]
fn a_uki_keeps_its_kernel_arguments_and_its_place() {
    let fixture = Fixture::with_uki();
    let install = |cmdline: &str| {
        let options = installer::Options {
            cmdline: Some(cmdline.into()),
            ..fixture.options()
        };
        let vfs = Faulty::new(usize::MAX, Fault::PowerCut);
        install_with(
            &fixture.system,
            &vfs,
            &fixture.root(),
            &fixture.set,
            &options,
            &Silent,
        )
    };
    let error = install("root=LABEL=b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("carries its own"), "{error}");
    // The same ones are no contradiction; a counted UKI is the same entry.
    let counted = fixture.esp().join("EFI/Linux/debian-13-1.0+3-1.efi");
    fs::write(&counted, "MZ").unwrap();
    let error = install("root=LABEL=a quiet").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    fs::rename(
        &counted,
        fixture.esp().join("EFI/Linux/debian-13-1.0b+3.efi"),
    )
    .unwrap();
    let report = install("root=LABEL=a quiet").unwrap();
    assert!(
        report.notes.iter().any(|note| note.contains("Secure Boot")),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_full_medium_at_any_write_leaves_nothing_behind() {
    let before: BTreeMap<_, _> = tree(&Fixture::new().esp());
    for at in 0..operations() {
        let fixture = Fixture::new();
        let error = attempt(&fixture, &Faulty::new(at, Fault::Once)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "operation {at}");
        assert_eq!(tree(&fixture.esp()), before, "operation {at}");
        assert!(!fixture.esp().join("debian-13").exists(), "operation {at}");
    }
}

#[test]
fn a_medium_that_returns_other_bytes_is_found_out() {
    let fixture = Fixture::new();
    let before = tree(&fixture.esp());
    let error = attempt(&fixture, &Faulty::new(0, Fault::WrongReadBack)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadBack);
    assert!(error.to_string().contains("image.erofs"), "{error}");
    assert_eq!(tree(&fixture.esp()), before);
}

#[test]
fn too_little_room_is_said_in_numbers_before_the_first_write() {
    let fixture = Fixture::new();
    let mut vfs = Faulty::new(usize::MAX, Fault::PowerCut);
    vfs.space.available = 1_000_000;
    let error = attempt(&fixture, &vfs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    // 2101248 + 4096 + 8192 + 4096 for the files in blocks, 262144 beside them.
    let text = error.to_string();
    assert!(text.contains("1000000 bytes free"), "{text}");
    assert!(text.contains("takes 2379776 (1379776 more)"), "{text}");
    assert_eq!(vfs.operations(), 0);
}
