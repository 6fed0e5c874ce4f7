//! Boots to the root file system itself, and back to the image where that fails.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use builder::Direct;
use iofs_cpio::NewEntry;
use libtest_mimic::Failed;
use serde_json::Value;
use vmtest::disk::{Entry, Partition, ext4};

use crate::Test;
use crate::appended::{append, archive};
use crate::support::{Boot, FIRST, Ground, SECOND, Seen, on_esp};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("direct_to_ext4_by_each_name", by_each_name),
    Test::new("direct_to_a_partition_of_an_mbr", of_an_mbr),
    Test::new("direct_to_ext4_read_only_unless_told", read_only),
    Test::new("direct_to_xfs", |ground| {
        other(ground, "xfs", volumes::xfs_root, "")
    }),
    Test::new("direct_to_btrfs", |ground| {
        other(ground, "btrfs", volumes::btrfs_root, "rootflags=subvolid=5")
    }),
    Test::new("direct_to_erofs", |ground| {
        other(ground, "erofs", volumes::erofs_root, "")
    }),
    Test::new("direct_keeps_what_the_loader_appended", appended),
    Test::new("direct_without_the_root_comes_to_the_image", missing),
    Test::new("direct_to_a_damaged_root_comes_to_the_image", damaged),
    Test::new("direct_to_a_root_without_init_comes_to_the_image", no_init),
    Test::new("direct_to_an_encrypted_root_comes_to_the_image", encrypted),
    Test::new("direct_to_one_of_two_roots_comes_to_the_image", two_roots),
    Test::new(
        "direct_to_a_subvolume_that_is_not_there_comes_to_the_image",
        no_subvolume,
    ),
    Test::new("direct_is_left_for_words_that_want_an_initrd", words),
    Test::new(
        "direct_to_an_init_that_does_not_start_is_reported",
        no_way_back,
    ),
    Test::new("direct_needs_the_plan", not_allowed),
];

const UUID: &str = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0a05";

/// What the root's init shows.
pub(crate) const LOOK: &str = "testinit.cat=/proc/self/mountinfo testinit.cat=/run/initoverlayfs/boot.json \
                    testinit.cat=/proc/modules testinit.stacked testinit.list=/";

/// The tree of a root.
fn tree(boot: &Boot<'_>, ground: &Ground) -> Vec<Entry> {
    let empty = boot.path("empty");
    fs::write(&empty, "").unwrap();
    let mut entries = vec![Entry::new("sbin/init", ground.testinit())];
    for folder in ["dev", "proc", "run", "sys"] {
        entries.push(Entry::new(&format!("{folder}/.keep"), &empty));
    }
    entries
}

/// A boot of the usual image, with a plan that allows a root of `kind`.
pub(crate) fn allowing<'g>(ground: &'g Ground, kind: &str) -> Boot<'g> {
    let boot = Boot::new(ground, &[on_esp()]);
    allow(boot, kind)
}

/// With a plan that allows a root of `kind`, and does not wait for long.
pub(crate) fn allow<'g>(mut boot: Boot<'g>, kind: &str) -> Boot<'g> {
    boot.mini.device_timeout_ms = 3000;
    boot.mini.direct = Some(Direct {
        kinds: vec![kind.to_owned()],
        ..Direct::default()
    });
    boot
}

/// Adds the disk, with the image's ESP and the root.
fn with_root(boot: &mut Boot<'_>, root: &Path) {
    let volume = boot.path("esp");
    volumes::fat32(&volume, boot.image());
    boot.disk(&[
        Partition::esp(FIRST, &volume).unwrap(),
        Partition::root(SECOND, root).unwrap(),
    ]);
}

/// With a root on ext4.
fn on_ext4(ground: &Ground) -> Boot<'_> {
    let mut boot = allowing(ground, "ext4");
    let root = boot.path("root");
    ext4::make(&root, 16 << 20, UUID, &tree(&boot, ground)).unwrap();
    with_root(&mut boot, &root);
    boot
}

/// boot.json, which the console has in pieces.
pub(crate) fn record(seen: &Seen) -> Value {
    let text = seen.facts("/run/initoverlayfs/boot.json").concat();
    serde_json::from_str(&text).unwrap()
}

/// The root's own init has run, and nothing of the image was touched.
fn is_direct(seen: &Seen, kind: &str, access: &str) {
    is_direct_on(seen, "/dev/ubda2", kind, access);
}

fn is_direct_on(seen: &Seen, device: &str, kind: &str, access: &str) {
    seen.expects_in_order(&[
        &format!("[stage device] {device}"),
        &format!("[stage mount] {kind}"),
        "[stage exec] /sbin/init",
        "TESTINIT stage: first",
    ]);
    for never in ["[stage image]", "[stage proof]", "direct-failed"] {
        seen.rejects(never);
    }
    let mounts = seen.facts("/proc/self/mountinfo");
    let root = mounts.iter().find(|line| line.contains(" / / ")).unwrap();
    assert!(root.contains(&format!(" - {kind} {device} ")), "{root}");
    assert!(root.contains(&format!(" {access},")), "{root}");
    assert!(
        !mounts.iter().any(|line| line.contains("overlay")),
        "{mounts:?}"
    );
    let modules = seen.facts("/proc/modules");
    let loaded = |name: &str| modules.iter().any(|line| line.starts_with(name));
    assert!(!loaded("dm_verity ") && !loaded("overlay "), "{modules:?}");
    assert!(kind == "erofs" || !loaded("erofs "), "{modules:?}");
    let record = record(seen);
    assert_eq!(record["mode"], "direct");
    assert_eq!(record["image"], Value::Null);
    assert_eq!(record["root"]["file_system"], kind);
    assert_eq!(record["root"]["partition"], device);
}

/// The image's init has run, the root is let go, and the reason is where those who
/// mend it look.
fn is_image(seen: &Seen, reason: &str) {
    seen.expects_in_order(&[reason, "[stage image]", "[stage exec] /init"]);
    let mounts = seen.facts("/proc/self/mountinfo");
    assert!(
        !mounts.iter().any(|line| line.contains("ubda2")),
        "{mounts:?}"
    );
    let record = record(seen);
    assert_eq!(record["mode"], "initrd");
}

pub(crate) const REASONS: &str = "/run/initoverlayfs/direct-failed";

pub(crate) fn falls_back(boot: &mut Boot<'_>, reason: &str) -> Seen {
    boot.words(&format!("{LOOK} testinit.cat={REASONS}"));
    let seen = boot.succeeds();
    is_image(&seen, reason);
    let reasons = seen.facts(REASONS);
    assert!(
        reasons.first().is_some_and(|line| line.contains(reason)),
        "{reasons:?}\n{}",
        seen.outcome.text()
    );
    assert!(
        reasons.iter().any(|line| line.contains("what to do: ")),
        "{reasons:?}"
    );
    seen
}

fn by_each_name(ground: &Ground) -> Result<(), Failed> {
    for name in [
        format!("UUID={UUID}"),
        format!("PARTUUID={SECOND}"),
        "PARTLABEL=root".into(),
        "/dev/ubda2".into(),
    ] {
        let mut boot = on_ext4(ground);
        boot.words(&format!("root={name} rw rootfstype=ext4 rootwait {LOOK}"));
        boot.words("testinit.write=/written testinit.cat=/written");
        let seen = boot.succeeds();
        is_direct(&seen, "ext4", "rw");
        assert_eq!(seen.fact("/written"), "written by testinit");
    }
    Ok(())
}

/// A disk without GPT, as many small boards have, beside a second one of another number.
fn of_an_mbr(ground: &Ground) -> Result<(), Failed> {
    let mut boot = allowing(ground, "ext4");
    boot.esp(volumes::fat32);
    let root = boot.path("root");
    ext4::make(&root, 16 << 20, UUID, &tree(&boot, ground)).unwrap();
    let start = 2_u32 << 20;
    for signature in [0x1f0f_5a7f, 0x1f0f_5a7e] {
        // Two partitions of Linux data (0x83): sectors and their number.
        let mut block = [0; 512];
        block[440..444].copy_from_slice(&u32::to_le_bytes(signature));
        let len = u32::try_from(fs::metadata(&root)?.len())?;
        for (at, start, len) in [(446, 1 << 20, 1 << 20), (462, start, len)] {
            block[at + 4] = 0x83;
            block[at + 8..at + 12].copy_from_slice(&u32::to_le_bytes(start / 512));
            block[at + 12..at + 16].copy_from_slice(&u32::to_le_bytes(len / 512));
        }
        block[510..].copy_from_slice(&[0x55, 0xaa]);
        let path = boot.path(&format!("mbr-{signature:x}"));
        let disk = fs::File::create(&path)?;
        disk.write_all_at(&fs::read(&root)?, start.into())?;
        disk.write_all_at(&block, 0)?;
        boot.disk_of(path);
    }
    boot.words(&format!("root=PARTUUID=1F0F5A7E-02 rw {LOOK}"));
    let seen = boot.succeeds();
    is_direct_on(&seen, "/dev/ubdc2", "ext4", "rw");
    Ok(())
}

fn read_only(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_ext4(ground);
    boot.words(&format!(
        "root=UUID={UUID} init=/sbin/init rootflags=noatime,data=journal {LOOK}"
    ));
    let seen = boot.succeeds();
    is_direct(&seen, "ext4", "ro");
    let mounts = seen.facts("/proc/self/mountinfo").join("\n");
    assert!(
        mounts.contains("ro,noatime") && mounts.contains("data=journal"),
        "{mounts}"
    );
    Ok(())
}

fn other(
    ground: &Ground,
    kind: &str,
    make: fn(&Path, &[Entry]),
    words: &str,
) -> Result<(), Failed> {
    let mut boot = allowing(ground, kind);
    let root = boot.path("root");
    make(&root, &tree(&boot, ground));
    with_root(&mut boot, &root);
    boot.words(&format!("root=PARTUUID={SECOND} {words} {LOOK}"));
    is_direct(&boot.succeeds(), kind, "ro");
    Ok(())
}

fn appended(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_ext4(ground);
    let archive = archive(&[
        NewEntry::directory(".extra", 0o555),
        NewEntry::directory(".extra/credentials", 0o500),
        NewEntry::file(".extra/credentials/a.cred", 0o400, b"a secret"),
    ]);
    append(&mut boot, vec![archive]);
    boot.words(&format!("root=UUID={UUID} {LOOK}"));
    boot.words("testinit.cat=/run/initoverlayfs/.extra/credentials/a.cred");
    let seen = boot.succeeds();
    is_direct(&seen, "ext4", "ro");
    assert_eq!(
        seen.fact("/run/initoverlayfs/.extra/credentials/a.cred"),
        "a secret"
    );
    assert!(!seen.facts("/").join(" ").contains(".extra"));
    Ok(())
}

fn missing(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_ext4(ground);
    boot.words("root=UUID=1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0aff");
    let seen = falls_back(&mut boot, "did not come within 3 s");
    let reasons = seen.facts(REASONS).join("\n");
    assert!(
        reasons.contains(&format!("/dev/ubda2: ext4, UUID={UUID}")),
        "{reasons}"
    );
    Ok(())
}

fn damaged(ground: &Ground) -> Result<(), Failed> {
    let boot = on_ext4(ground);
    let root = boot.path("root");
    let file = fs::File::options().write(true).open(&root).unwrap();
    // Blocks a group, by which nothing can be divided.
    file.write_all_at(&[0; 4], 1024 + 32).unwrap();
    let mut boot = allowing(ground, "ext4");
    let copy = boot.path("root");
    fs::copy(&root, &copy).unwrap();
    with_root(&mut boot, &copy);
    boot.words(&format!("root=UUID={UUID}"));
    falls_back(&mut boot, "cannot be mounted");
    Ok(())
}

fn no_init(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_ext4(ground);
    boot.words(&format!("root=UUID={UUID} init=/usr/lib/other"));
    falls_back(&mut boot, "the root has no init");
    Ok(())
}

fn encrypted(ground: &Ground) -> Result<(), Failed> {
    let mut boot = allowing(ground, "ext4");
    let root = boot.path("root");
    let mut content = vec![0; 1 << 20];
    content[..6].copy_from_slice(b"LUKS\xba\xbe");
    fs::write(&root, content).unwrap();
    with_root(&mut boot, &root);
    boot.words(&format!("root=PARTUUID={SECOND}"));
    let seen = falls_back(&mut boot, "/dev/ubda2 is crypto_LUKS");
    // At once: waiting would not unlock it.
    assert!(seen.expects("[stage exec]") - seen.expects("[stage plan]") < 2.5);
    Ok(())
}

fn two_roots(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_ext4(ground);
    let root = boot.path("root");
    let third = iofs_gpt::Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0099);
    boot.disk(&[Partition::root(third, &root).unwrap()]);
    boot.words(&format!("root=UUID={UUID}"));
    falls_back(&mut boot, "2 devices are UUID=");
    Ok(())
}

fn no_subvolume(ground: &Ground) -> Result<(), Failed> {
    let mut boot = allowing(ground, "btrfs");
    let root = boot.path("root");
    volumes::btrfs_root(&root, &tree(&boot, ground));
    with_root(&mut boot, &root);
    boot.words(&format!("root=PARTUUID={SECOND} rootflags=subvol=@"));
    falls_back(&mut boot, "cannot be mounted");
    Ok(())
}

fn words(ground: &Ground) -> Result<(), Failed> {
    for (words, reason) in [
        (
            "initoverlayfs.mode=initrd",
            "initoverlayfs.mode=initrd: the image comes up",
        ),
        (
            "resume=UUID=1",
            "resume on the kernel command line asks for an initrd",
        ),
        ("root=/dev/mapper/vg-root", "takes user space to be found"),
    ] {
        let mut boot = on_ext4(ground);
        boot.words(&format!("root=UUID={UUID} {words} {LOOK}"));
        is_image(&boot.succeeds(), reason);
    }
    Ok(())
}

fn no_way_back(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_ext4(ground);
    // Something is there, and it is no program.
    boot.words(&format!("root=UUID={UUID} init=/run/.keep"));
    let seen = boot.fails("executing /run/.keep", &["initoverlayfs.mode=initrd"]);
    seen.rejects("[stage image]");
    Ok(())
}

fn not_allowed(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_ext4(ground);
    boot.mini.direct = None;
    boot.words(&format!(
        "root=UUID={UUID} initoverlayfs.mode=direct {LOOK}"
    ));
    is_image(&boot.succeeds(), "the boot plan does not allow it");
    Ok(())
}
