//! Every target on mutated seeds, for some seconds.
//!
//! `IOFS_FUZZ_SECONDS=600 cargo test -p iofs-fuzz` searches for as long in all.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod mkfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iofs_fat::Fat;
use iofs_fuzz::seeds::{self, FAT_FILE, FatSize};
use iofs_fuzz::smoke::{self, Failure, Limits};
use iofs_fuzz::{TARGETS, Target};

/// Valid inputs, and what long runs have made of them.
fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    let mut all = match target {
        "ext4" => mkfs::ext4_seeds(),
        "erofs" => mkfs::erofs_seeds(),
        other => seeds::of(other),
    };
    all.extend(inputs("corpus", target).into_iter().map(|(_, bytes)| bytes));
    all
}

/// Writes a failing input where it can be taken from.
fn save(failure: &Failure) -> String {
    let name = format!("{}-{}", failure.target, failure.number);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match fs::write(&path, &failure.bytes) {
        Ok(()) => format!("{failure}\n  the input is in {}", path.display()),
        Err(error) => format!("{failure}\n  the input could not be saved: {error}"),
    }
}

#[test]
fn no_target_fails_on_mutated_seeds() {
    let asked = std::env::var("IOFS_FUZZ_SECONDS").ok();
    let seconds: Option<u32> = asked.map(|text| text.parse().expect("a number of seconds"));
    let targets = u32::try_from(TARGETS.len()).unwrap();
    let limits = Limits {
        inputs: if seconds.is_some() { u64::MAX } else { 20_000 },
        time: Duration::from_secs(seconds.unwrap_or(20).into()) / targets,
        // Inputs take micro- to milliseconds; this is a hang, on a busy machine too.
        input_time: Duration::from_secs(30),
    };
    let mut failures = Vec::new();
    for (name, target) in TARGETS {
        match smoke::run(name, *target, seeds_of(name), limits) {
            Ok(tried) => {
                println!("{name}: {tried} inputs");
                // Fewer would mean that the target hardly gets anywhere.
                assert!(tried > 50, "{name}: {tried} inputs in {:?}", limits.time);
            }
            Err(failure) => failures.push(save(&failure)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The inputs in a folder of a target, in the order of their names.
fn inputs(folder: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(target);
    // Most targets have no regressions.
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// What once broke something, and what long runs have found to be of interest.
#[test]
fn no_stored_input_fails() {
    const LARGEST: usize = 220 << 10;
    let mut failures = Vec::new();
    for (name, target) in TARGETS {
        let corpus = inputs("corpus", name);
        let size: usize = corpus.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(!corpus.is_empty(), "there is no fuzz/corpus/{name}");
        assert!(
            corpus.len() <= 48 && size <= LARGEST,
            "fuzz/corpus/{name} has grown to {} inputs, {size} bytes: fuzz/keep makes it small",
            corpus.len()
        );
        let (paths, all): (Vec<_>, Vec<_>) = inputs("regressions", name)
            .into_iter()
            .chain(corpus)
            .unzip();
        let limits = Limits {
            inputs: all.len() as u64,
            time: Duration::MAX,
            input_time: Duration::from_secs(30),
        };
        if let Err(failure) = smoke::run(name, *target, all, limits) {
            failures.push(format!(
                "{}: {}",
                paths[failure.seed].display(),
                failure.why
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_panic_and_a_hang_are_reported() {
    fn panics_on_change(data: &[u8]) {
        assert!(data.starts_with(b"seed"), "it does not start with seed");
    }
    fn sleeps_on_change(data: &[u8]) {
        if data != b"seed" {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    fn never_ends(data: &[u8]) {
        if data != b"seed" {
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
    let run = |target: Target, input_time: Duration| {
        let limits = Limits {
            inputs: 1000,
            time: Duration::from_secs(120),
            input_time,
        };
        let failure = smoke::run("test", target, vec![b"seed".to_vec()], limits).unwrap_err();
        // The number alone brings the input back.
        assert_eq!(
            smoke::input("test", &[b"seed".to_vec()], failure.number).1,
            failure.bytes
        );
        *failure
    };
    // Printing a panic's back trace can take a busy machine a while.
    let failure = run(panics_on_change, Duration::from_secs(60));
    assert_eq!(failure.why, "it does not start with seed");
    assert!(failure.number > 0 && failure.to_string().contains("input"));
    for target in [sleeps_on_change as Target, never_ends] {
        let failure = run(target, Duration::from_millis(200));
        assert!(failure.why.contains("took more than"));
    }
}

#[test]
fn seeds_are_valid() {
    for size in FatSize::ALL {
        let mut volume = seeds::fat_volume(size);
        volume.resize(4200 * 512, 0);
        let fat = Fat::open(&volume).unwrap();
        let map = fat.locate(FAT_FILE).unwrap();
        assert_eq!((map.size, map.extents.len()), (700, 2), "{size:?}");
        assert_eq!(fat.locate("/empty").unwrap().size, 0);
        assert_eq!(fat.entries("/EFI").unwrap().len(), 1);
    }
    for mut volume in mkfs::ext4_seeds() {
        volume.resize(4 << 20, 0);
        let ext4 = iofs_ext4::Ext4::open(&volume).unwrap();
        assert_eq!(ext4.locate("/link").unwrap().size, 9000);
    }
    for image in mkfs::erofs_seeds() {
        iofs_erofs::Superblock::read(&image).unwrap();
    }
    let plans = seeds::of("plan");
    assert_eq!(plans.len(), 3);
    for plan in plans {
        iofs_plan::BootPlan::decode(&plan).unwrap();
    }
    for module in seeds::of("modinfo") {
        let info = iofs_kmod::ModInfo::parse(&module).unwrap();
        assert_eq!(info.name(), Some("m"));
        assert_eq!(info.depends().collect::<Vec<_>>(), ["a", "b"]);
    }
    for archive in seeds::of("cpio") {
        let entries = iofs_cpio::Reader::new(&archive).collect::<Result<Vec<_>, _>>();
        assert_eq!(entries.unwrap().len(), 5);
    }
    authenticity_seeds_are_valid();
}

fn authenticity_seeds_are_valid() {
    for bytes in seeds::of("verity") {
        iofs_verity::Superblock::read(&bytes).unwrap();
    }
    // Whole, with a block left out; the second is refused.
    for (bytes, missing) in seeds::of("verifier").iter().zip([0, 512].iter().cycle()) {
        let hashes = &bytes[2..2 + 2048];
        let params = iofs_verity::Superblock::read(hashes).unwrap().params;
        assert_eq!(params.geometry(1).unwrap().levels().len(), 2);
        assert_eq!(params.data_len() + missing, bytes.len() as u64 - 2 - 2048);
    }
    for bytes in seeds::of("signature") {
        iofs_verity::Signature::parse(&bytes).unwrap();
    }
    let trusted: Vec<_> = seeds::of("certificate")
        .iter()
        .map(|der| iofs_trust::Certificate::parse(der).unwrap())
        .collect();
    let content = b"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    for (number, bytes) in seeds::of("trust").iter().enumerate() {
        let which = iofs_trust::verify_detached(bytes, content, &trusted);
        assert_eq!(which, Ok(number / 2));
    }
    assert_eq!(seeds::of("ddi").len(), 5);
    for bytes in seeds::of("pe") {
        assert_eq!(iofs_pe::Image::read(&bytes).unwrap().sections.len(), 3);
        iofs_pe::Appender::new(&bytes).unwrap();
    }
    for bytes in seeds::of("tpm") {
        assert_eq!(iofs_tpm::parse_pcr_event(&bytes).unwrap().len(), 2);
    }
}

#[test]
fn every_target_is_a_libfuzzer_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let source = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs")));
        let source = source.unwrap_or_else(|error| panic!("fuzz_targets/{name}.rs: {error}"));
        assert!(
            source.contains(&format!("iofs_fuzz::{name}(data)")),
            "{name}"
        );
        let line = format!("path = \"fuzz_targets/{name}.rs\"");
        assert!(
            manifest.contains(&line),
            "no {line} in libfuzzer/Cargo.toml"
        );
    }
}
