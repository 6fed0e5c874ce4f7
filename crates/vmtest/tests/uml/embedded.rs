//! An image that is packed into the mini-initramfs: alone, and as the fallback of one
//! on a disk.

use std::fs;

use builder::{Auth, Candidate, Compression, Modules, Selector, Silent};
use iofs_gpt::types;
use libtest_mimic::Failed;

use crate::Test;
use crate::support::{Boot, Ground, Image, on_esp, partition_at};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("embedded_without_any_disk", alone),
    Test::new("embedded_unproven", unproven),
    Test::new("embedded_tampered_in_its_superblock", tampered_at_the_start),
    Test::new("embedded_tampered_in_a_file", tampered_in_a_file),
    Test::new("embedded_is_missing", missing),
    Test::new("embedded_yields_to_a_disk", yields),
    Test::new("embedded_when_the_disk_is_broken", fallback),
    Test::new("embedded_when_the_disk_is_absent", absent),
    Test::new("embedded_is_let_go", let_go),
    Test::new("payload_without_modules_is_small", payload),
];

fn embedded() -> Candidate {
    partition_at("embedded", Selector::Embedded)
}

/// A boot that trusts the image alone, which is packed too.
fn boot<'g>(ground: &'g Ground, image: &Image, candidates: &[Candidate]) -> Boot<'g> {
    let mut boot = Boot::trusting(ground, image, image.sealed(), candidates);
    boot.mini.embed = Some(image.path.clone());
    boot
}

/// The layout: the loop device stands on the file, dm-verity on that, and nothing of a
/// disk is in it.
fn alone(ground: &Ground) -> Result<(), Failed> {
    let mut boot = boot(ground, ground.proven(), &[embedded()]);
    boot.words("testinit.sum=/data testinit.stacked testinit.cat=/sys/block/loop0/ro");
    boot.words("testinit.cat=/run/initoverlayfs/boot.json");
    let seen = boot.succeeds();
    seen.data_is_intact();
    seen.expects("[stage device] the mini-initramfs, ");
    seen.expects("sealed in the boot plan");
    seen.expects("[stage image] /dev/dm-0 (dm-verity over /dev/loop0)");
    assert_eq!(seen.fact("stacked"), "dm-0 loop0");
    assert_eq!(seen.fact("/sys/block/loop0/ro"), "1");
    let record = seen.facts("/run/initoverlayfs/boot.json").concat();
    assert!(
        record.contains(r#""candidate":"embedded","partition":null"#),
        "{record}"
    );
    Ok(())
}

fn unproven(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[embedded()]);
    boot.mini.embed = Some(ground.image().path.clone());
    let seen = boot.words("testinit.sum=/data testinit.stacked").succeeds();
    seen.data_is_intact();
    seen.expects("[stage image] /dev/loop0 (loop)");
    assert_eq!(seen.fact("stacked"), "loop0");
    Ok(())
}

/// Changes the byte at `offset` of the packed image.
fn tamper<'g>(boot: &mut Boot<'g>, image: &Image, offset: usize) {
    let image = fs::read(&image.path).unwrap();
    boot.edit(move |archive| {
        let start = archive
            .windows(4096)
            .position(|part| part == &image[..4096])
            .unwrap();
        archive[start + offset] ^= 1;
    });
}

/// The first partition of a disk image.
fn file_system(image: &Image) -> (usize, usize) {
    let bytes = fs::read(&image.path).unwrap();
    let table = iofs_gpt::Table::read(bytes.as_slice(), 512).unwrap();
    let part = table
        .partitions
        .iter()
        .find(|part| part.type_guid == types::ROOT_X86_64)
        .unwrap();
    (
        usize::try_from(part.start).unwrap(),
        usize::try_from(part.len).unwrap(),
    )
}

/// Refused before anything is mounted, with the bytes that were changed, and at once:
/// there is nothing to wait for.
fn tampered_at_the_start(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut boot = boot(ground, image, &[embedded()]);
    let (start, _) = file_system(image);
    // The UUID in the superblock.
    tamper(&mut boot, image, start + 1024 + 0x30);
    let bytes = format!("bytes {start} to {}", start + 4096);
    boot.fails(
        "the init image was not found",
        &[
            "seen: the mini-initramfs: the file is not a trusted image: ",
            &bytes,
        ],
    );
    Ok(())
}

/// Further behind it is the kernel that refuses the block.
fn tampered_in_a_file(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let bytes = fs::read(&image.path)?;
    let data = crate::support::noise(2 << 20, 1);
    let (start, _) = file_system(image);
    let at = bytes[start..]
        .windows(4096)
        .position(|part| part == &data[1 << 20..(1 << 20) + 4096])
        .ok_or("the file is not stored as it is")?;
    let mut boot = boot(ground, image, &[embedded()]);
    tamper(&mut boot, image, start + at);
    let seen = boot.words("testinit.sum=/data").run();
    seen.expects_in_order(&[
        "[stage exec] /init",
        &format!("data block {} is corrupted", at / 4096),
        "TESTINIT failed: testinit.sum=/data: reading /data: input/output error (EIO)",
    ]);
    Ok(())
}

fn missing(ground: &Ground) -> Result<(), Failed> {
    let mut boot = boot(ground, ground.proven(), &[embedded()]);
    boot.edit(|archive| {
        // Another name, as long as the old one.
        let name = b"initoverlayfs/image.raw";
        // PID 1 has the name too.
        let at = archive.windows(name.len()).rposition(|part| part == name);
        archive[at.unwrap() + name.len() - 1] = b'~';
    });
    boot.fails(
        "the init image was not found",
        &["seen: the mini-initramfs: ", "no such file or directory"],
    );
    Ok(())
}

/// Both are the image: the one on the disk is taken.
fn yields(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut boot = boot(ground, image, &[on_esp(), embedded()]);
    boot.esp_with(&image.path, volumes::fat32);
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.data_is_intact();
    seen.expects("on /dev/ubda1, ");
    seen.rejects("[stage device] the mini-initramfs");
    Ok(())
}

/// The one on the disk was changed: nothing more is waited for.
fn fallback(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut broken = fs::read(&image.path)?;
    let (start, _) = file_system(image);
    broken[start + 1024 + 0x30] ^= 1;
    let mut boot = boot(ground, image, &[on_esp(), embedded()]);
    let file = boot.path("broken");
    fs::write(&file, broken)?;
    boot.esp_with(&file, volumes::fat32);
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.data_is_intact();
    seen.expects_in_order(&[
        "no image on /dev/ubda1: ",
        "[stage device] the mini-initramfs, ",
    ]);
    Ok(())
}

/// A disk may still come for as long as any other candidate is given.
fn absent(ground: &Ground) -> Result<(), Failed> {
    let mut boot = boot(ground, ground.proven(), &[on_esp(), embedded()]);
    let seen = boot.words("testinit.sum=/data").succeeds();
    seen.data_is_intact();
    let found = seen.expects("[stage device] the mini-initramfs, ");
    assert!(found >= 3.0, "{found}");
    Ok(())
}

/// The file goes with the mini-initramfs, the loop device with the image.
fn let_go(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::trusting(ground, ground.image(), Auth::None, &[embedded()]);
    boot.mini.candidates[0].expect = ground.image().expect;
    boot.mini.embed = Some(ground.image().path.clone());
    let root = crate::handover::next_root(&boot, ground);
    boot.disk(&[root]);
    boot.words("testinit.stacked testinit.cat=/sys/block/loop0/loop/backing_file");
    boot.words("testinit.switch=/dev/ubda1 testinit2.freed");
    let seen = boot.succeeds();
    assert_eq!(seen.facts("stage"), ["first", "second"]);
    let backing = seen.fact("/sys/block/loop0/loop/backing_file");
    assert!(backing.ends_with("(deleted)"), "{backing}");
    let freed = seen.fact("freed");
    assert!(freed.starts_with("all after"), "{freed}");
    Ok(())
}

/// What of a payload does not depend on the kernel, in bytes: the bound of the project.
const PAYLOAD: u64 = 250 << 10;

/// All of a mini-initramfs for a kernel that has everything built in: PID 1 and the
/// plan. The image behind it has the size that it has.
fn payload(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let candidates = [
        on_esp(),
        partition_at("partition", Selector::PartUuid(crate::support::FIRST)),
        partition_at("pmem", Selector::Pmem { dax: true }),
        embedded(),
    ];
    let mut boot = boot(ground, image, &candidates);
    boot.mini.modules = Modules::None;
    boot.mini.compression = Compression::Zstd;
    let built = builder::build_mini(&boot.mini, &Silent)?.summary;
    assert_eq!(built.bytes, fs::metadata(&boot.mini.output)?.len());
    // The image begins at a page, and its archive has a header and an end.
    let size = built.bytes - built.embedded_bytes;
    assert!(size < PAYLOAD, "{size} bytes");
    assert!(size > built.storage_init_bytes / 4, "{size} bytes");
    Ok(())
}
