//! What the boot loader appends to the mini-initramfs: all of it, or what the
//! plan allows of it, is in the new root, and nothing is left behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use builder::Selector;
use iofs_cpio::{Format, NewEntry, Writer};
use libtest_mimic::Failed;
use vmtest::command;
use vmtest::disk::Partition;

use crate::Test;
use crate::handover::partition_boot;
use crate::support::{Boot, FIRST, Ground, Seen, on_esp, partition_at, sum};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("appended_files_arrive_as_they_were", everything),
    Test::new(
        "appended_folders_follow_the_links_of_the_image",
        linked_folders,
    ),
    Test::new("a_proven_image_gets_extra_alone", extra_alone),
    Test::new("extra_that_is_a_link_is_left_out", linked_extra),
    Test::new("the_initramfs_is_freed", freed),
    Test::new("appended_files_take_memory_once", appended_once),
    Test::new(
        "appended_files_that_do_not_fit_are_not_lost_silently",
        too_much,
    ),
];

/// Appends archives, as boot loaders do.
pub(crate) fn append(boot: &mut Boot<'_>, archives: Vec<Vec<u8>>) {
    boot.edit(move |mini| {
        for archive in archives {
            mini.resize(mini.len().next_multiple_of(4), 0);
            mini.extend(archive);
        }
    });
}

pub(crate) fn archive(entries: &[NewEntry<'_>]) -> Vec<u8> {
    let mut writer = Writer::new(Format::Newc);
    for entry in entries {
        writer.append(entry).unwrap();
    }
    writer.finish()
}

/// systemd-stub makes an archive for each sort of companion file.
fn companions() -> Vec<Vec<u8>> {
    let extra = NewEntry::directory(".extra", 0o555);
    let folders = [
        (
            ".extra/credentials",
            0o500,
            ".extra/credentials/secret.cred",
            0o400,
        ),
        (
            ".extra/global_credentials",
            0o500,
            ".extra/global_credentials/g.cred",
            0o400,
        ),
        (".extra/sysext", 0o555, ".extra/sysext/tool.raw", 0o444),
        (".extra/confext", 0o555, ".extra/confext/conf.raw", 0o444),
    ];
    let mut archives: Vec<Vec<u8>> = folders
        .iter()
        .map(|(folder, folder_mode, file, mode)| {
            archive(&[
                extra,
                NewEntry::directory(*folder, *folder_mode),
                NewEntry::file(*file, *mode, file.as_bytes()),
            ])
        })
        .collect();
    let signature = ".extra/tpm2-pcr-signature.json";
    let file = NewEntry::file(signature, 0o444, signature.as_bytes());
    archives.push(archive(&[extra, file]));
    archives
}

const COMPANIONS: [(&str, &str); 9] = [
    ("/.extra", "Directory mode 555 owner 0:0"),
    ("/.extra/credentials", "Directory mode 500 owner 0:0"),
    (
        "/.extra/credentials/secret.cred",
        "RegularFile mode 400 owner 0:0 size 30",
    ),
    ("/.extra/global_credentials", "Directory mode 500 owner 0:0"),
    (
        "/.extra/global_credentials/g.cred",
        "RegularFile mode 400 owner 0:0 size 32",
    ),
    ("/.extra/sysext", "Directory mode 555 owner 0:0"),
    (
        "/.extra/sysext/tool.raw",
        "RegularFile mode 444 owner 0:0 size 22",
    ),
    (
        "/.extra/confext/conf.raw",
        "RegularFile mode 444 owner 0:0 size 23",
    ),
    (
        "/.extra/tpm2-pcr-signature.json",
        "RegularFile mode 444 owner 0:0 size 30",
    ),
];

/// What boot loaders other than systemd-stub may append.
fn others() -> Vec<Vec<u8>> {
    let program = NewEntry {
        uid: 1000,
        gid: 2000,
        mtime: 1_234_567_890,
        ..NewEntry::file("srv-file", 0o4751, b"of another\n")
    };
    let special = |name, mode, rdev| NewEntry {
        mode,
        rdev,
        ..NewEntry::file(name, 0, b"")
    };
    let mut writer = Writer::new(Format::Newc);
    for entry in [
        program,
        NewEntry::symlink("srv-link", "srv-file"),
        special("srv-device", 0o020_640, (1, 3)),
        special("srv-pipe", 0o010_600, (0, 0)),
        // One that the image has too.
        NewEntry::directory("etc", 0o755),
        NewEntry::file("etc/os-release", 0o644, b"ID=appended\n"),
        // The kernel has this folder already, empty.
        NewEntry::directory("root", 0o700),
        NewEntry::file("root/note", 0o600, b"for root\n"),
        NewEntry::directory("kernel", 0o755),
        NewEntry::file("kernel/microcode.bin", 0o644, b"for the kernel\n"),
    ] {
        writer.append(&entry).unwrap();
    }
    let linked = NewEntry::file("", 0o644, b"one content\n");
    writer
        .append_links(&[b"srv-one", b"srv-other"], &linked)
        .unwrap();
    vec![writer.finish()]
}

/// The first fact about `path` starts so.
fn starts(seen: &Seen, path: &str, text: &str) {
    let facts = seen.facts(path);
    assert!(
        facts.first().is_some_and(|fact| fact.starts_with(text)),
        "{path}: {facts:?}, not {text}\n{}",
        seen.outcome.text()
    );
}

fn look_at_companions(boot: &mut Boot<'_>) {
    for (path, _) in COMPANIONS {
        boot.words(&format!("testinit.stat={path}"));
    }
}

fn companions_are_there(seen: &Seen) {
    for (path, text) in COMPANIONS {
        starts(seen, path, text);
    }
    seen.expects("carried over /.extra (10 entries, 0 in place of the image's)");
}

fn everything(ground: &Ground) -> Result<(), Failed> {
    let mut boot = partition_boot(ground);
    append(&mut boot, [companions(), others()].concat());
    look_at_companions(&mut boot);
    boot.words("testinit.stat=/srv-file testinit.link=/srv-link testinit.cat=/etc/os-release");
    boot.words("testinit.cat=/root/note testinit.stat=/srv-device testinit.stat=/srv-pipe");
    boot.words("testinit.cat=/srv-other testinit.inode=/srv-one testinit.inode=/srv-other");
    boot.words("testinit.inode=/srv-file testinit.inode=/srv-device");
    boot.words("testinit.cat=/kernel/microcode.bin");
    let seen = boot.succeeds();
    companions_are_there(&seen);
    let file = seen.facts("/srv-file");
    assert_eq!(file[0], "RegularFile mode 4751 owner 1000:2000 size 11");
    assert!(
        file[1].ends_with("device 0:0 modified 1234567890"),
        "{file:?}"
    );
    starts(&seen, "/srv-link", "srv-file");
    starts(&seen, "/etc/os-release", "ID=appended");
    starts(&seen, "/root/note", "for root");
    starts(&seen, "/kernel/microcode.bin", "for the kernel");
    starts(&seen, "/srv-pipe", "Fifo mode 600 owner 0:0 size 0");
    let device = seen.facts("/srv-device");
    assert_eq!(device[0], "CharacterDevice mode 640 owner 0:0 size 0");
    assert!(device[1].contains("device 1:3"), "{device:?}");
    let one = seen.fact("/srv-one");
    assert!(one.contains("names 2 "), "{one}");
    assert_eq!(seen.facts("/srv-other"), ["one content", &one]);
    seen.expects("carried over /etc (2 entries, 1 in place of the image's)");
    seen.rejects("left out");
    Ok(())
}

/// The old root has no `/usr/lib` at all, and must not get one.
fn linked_folders(ground: &Ground) -> Result<(), Failed> {
    let image = ground.build_image("linked", &|tree| {
        fs::create_dir_all(tree.join("usr/lib/firmware")).unwrap();
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        symlink("/usr/lib", tree.join("lib")).unwrap();
        symlink("usr/bin", tree.join("sbin")).unwrap();
    });
    let mut candidate = partition_at("partition", Selector::PartUuid(FIRST));
    candidate.expect = image.expect;
    let mut boot = Boot::new(ground, &[candidate]);
    boot.disk(&[Partition::root(FIRST, &image.path).unwrap()]);
    let entries = [
        NewEntry::directory("lib", 0o755),
        NewEntry::directory("lib/firmware", 0o755),
        NewEntry::file("lib/firmware/blob", 0o644, b"firmware\n"),
        NewEntry::directory("sbin", 0o755),
        NewEntry::file("sbin/tool", 0o755, b"tool\n"),
    ];
    append(&mut boot, vec![archive(&entries)]);
    boot.words("testinit.cat=/usr/lib/firmware/blob testinit.cat=/usr/bin/tool");
    boot.words("testinit.link=/lib testinit.link=/sbin");
    let seen = boot.succeeds();
    assert_eq!(seen.fact("/usr/lib/firmware/blob"), "firmware");
    assert_eq!(seen.fact("/usr/bin/tool"), "tool");
    assert_eq!(seen.fact("/lib"), "/usr/lib");
    assert_eq!(seen.fact("/sbin"), "usr/bin");
    Ok(())
}

/// A boot from an image that proves itself.
fn proven_boot(ground: &Ground) -> Boot<'_> {
    let image = ground.proven();
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[on_esp()]);
    boot.esp_with(&image.path, volumes::fat32);
    boot
}

fn extra_alone(ground: &Ground) -> Result<(), Failed> {
    let mut boot = proven_boot(ground);
    append(&mut boot, [companions(), others()].concat());
    look_at_companions(&mut boot);
    boot.words("testinit.cat=/etc/os-release testinit.list=/");
    let seen = boot.succeeds();
    companions_are_there(&seen);
    starts(&seen, "/etc/os-release", "ID=test");
    let names = seen.facts("/");
    for name in names {
        assert!(
            !name.starts_with("srv") && name != "root" && name != "kernel",
            "{name}"
        );
    }
    seen.expects(
        "left out what the boot loader appended, as nobody has proven it: /etc /root /srv-device \
         /srv-file /srv-link /srv-one /srv-other /srv-pipe (",
    );
    seen.expects("build with --appended all");
    Ok(())
}

/// Nothing behind it is what systemd-stub made.
fn linked_extra(ground: &Ground) -> Result<(), Failed> {
    let mut boot = proven_boot(ground);
    append(
        &mut boot,
        vec![archive(&[NewEntry::symlink(".extra", "etc")])],
    );
    let seen = boot.words("testinit.list=/").succeeds();
    seen.expects("as nobody has proven it: /.extra (");
    assert!(!seen.facts("/").contains(&".extra".to_owned()));
    Ok(())
}

/// What the file systems in memory hold, and what of it can be seen, in KiB. In a
/// kernel for one processor both counts are exact.
/// Whoever reads ahead is storage-init's program and keeps its file until it is
/// done, so these boots do without.
fn memory(seen: &Seen) -> (u64, u64) {
    let fact = seen.fact("memory");
    let numbers: Vec<u64> = fact
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [held, seen] => (held, seen),
        _ => panic!("{fact}"),
    }
}

/// 32 MiB in the mini-initramfs's own folder: the next init must not pay for a
/// page of them.
fn freed(ground: &Ground) -> Result<(), Failed> {
    let ballast = vec![0xa5; 32 << 20];
    let mut boot = partition_boot(ground);
    let file = NewEntry::file("initoverlayfs/ballast", 0o600, &ballast);
    append(&mut boot, vec![archive(&[file])]);
    let seen = boot
        .words("testinit.memory initoverlayfs.prefetch=off")
        .succeeds();
    seen.rejects("not all of the mini-initramfs is freed");
    let (held, visible) = memory(&seen);
    assert_eq!(held, visible, "KiB are held, can be seen");
    assert!(visible < 64, "{visible} KiB are held");
    Ok(())
}

const PARTS: u8 = 9;

/// That many files of `size` bytes each for `/.extra`, compressed: otherwise the
/// archive itself would take as much memory in the kernel's hands.
fn extensions(boot: &mut Boot<'_>, size: usize) -> Result<(), Failed> {
    let parts: Vec<(String, Vec<u8>)> = (1..=PARTS)
        .map(|index| (format!(".extra/sysext/{index}.raw"), vec![index; size]))
        .collect();
    let mut entries = vec![
        NewEntry::directory(".extra", 0o555),
        NewEntry::directory(".extra/sysext", 0o555),
    ];
    for (name, data) in &parts {
        entries.push(NewEntry::file(name, 0o444, data));
    }
    let plain = boot.path("extensions");
    fs::write(&plain, archive(&entries))?;
    command::output(Command::new("gzip").arg("--fast").arg(&plain))?;
    append(boot, vec![fs::read(plain.with_extension("gz"))?]);
    Ok(())
}

/// Extensions of 112 MiB on a machine with 256: there is no room for them twice,
/// not even while they are copied.
fn appended_once(ground: &Ground) -> Result<(), Failed> {
    const PART: usize = 25 << 19;
    let mut boot = partition_boot(ground);
    extensions(&mut boot, PART)?;
    for index in 1..=PARTS {
        boot.words(&format!("testinit.stat=/.extra/sysext/{index}.raw"));
    }
    boot.words("testinit.sum=/.extra/sysext/5.raw testinit.memory initoverlayfs.prefetch=off");
    let seen = boot.succeeds();
    let stat = format!("RegularFile mode 444 owner 0:0 size {PART}");
    for index in 1..=PARTS {
        starts(&seen, &format!("/.extra/sysext/{index}.raw"), &stat);
    }
    let fifth = seen.facts("/.extra/sysext/5.raw");
    assert_eq!(fifth[1], sum(&vec![5; PART]));
    let (held, visible) = memory(&seen);
    assert_eq!(held, visible, "KiB are held, can be seen");
    let expected = u64::from(PARTS) * (PART as u64 / 1024);
    assert!(
        (expected..expected + 64).contains(&visible),
        "{visible} KiB"
    );
    Ok(())
}

/// More than the new root can take, which the old one still could.
fn too_much(ground: &Ground) -> Result<(), Failed> {
    let mut boot = partition_boot(ground);
    // 126 MiB, and the tmpfs has 119.
    extensions(&mut boot, 14 << 20)?;
    boot.fails(
        "/.extra/sysext/",
        &["no space left (ENOSPC)", "half of the machine's memory"],
    );
    Ok(())
}
