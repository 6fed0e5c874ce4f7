//! `inspect` over what real tools make.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{json, run, shell};

fn inspect(path: &Path) -> Value {
    json(["inspect".as_ref(), "--json".as_ref(), path.as_os_str()])
}

fn inspect_list(path: &Path) -> Value {
    let args = ["inspect".as_ref(), "--json".as_ref(), "--list".as_ref()];
    json(args.into_iter().chain([path.as_os_str()]))
}

/// The listed paths, sorted.
fn paths(node: &Value) -> Vec<&str> {
    let files = node["files"].as_array().expect("it lists files");
    let mut paths: Vec<&str> = files.iter().map(|f| f["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    paths
}

/// A tree with a file, a folder, a link and a device.
const TREE: &str = "
    mkdir -p tree/etc tree/dev
    echo ID=test > tree/etc/os-release
    head -c 300000 /dev/zero > tree/zeros
    ln -s etc/os-release tree/link
    chmod 4755 tree/zeros
";

#[test]
fn every_compression_of_an_initramfs() {
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), TREE);
    for (name, command) in [
        ("gzip", "gzip"),
        ("zstd", "zstd -q"),
        ("xz", "xz --check=crc32"),
        ("lzma", "xz --format=lzma"),
        ("bzip2", "bzip2"),
        ("lz4 (legacy format)", "lz4 -l -q"),
    ] {
        shell(
            dir.path(),
            &format!(
                "(cd tree && find . | LC_ALL=C sort | cpio -o -H newc --quiet) \
                 | {command} > initrd"
            ),
        );
        let node = inspect_list(&dir.path().join("initrd"));
        assert_eq!(node["kind"], "initramfs", "{name}");
        let segment = &node["parts"][0];
        assert_eq!(segment["compression"], name);
        assert_eq!(segment["files"], 2, "{name}");
        assert_eq!(segment["symlinks"], 1, "{name}");
        assert_eq!(segment["content"], 300_000 + 8 + 14, "{name}");
        assert_eq!(
            paths(&node),
            ["/", "/dev", "/etc", "/etc/os-release", "/link", "/zeros"],
            "{name}"
        );
        let zeros = node["files"].as_array().unwrap();
        let zeros = zeros.iter().find(|f| f["path"] == "/zeros").unwrap();
        assert_eq!(zeros["mode"], 0o4755, "{name}");
    }
}

#[test]
fn an_early_segment_is_told_from_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        &format!(
            "{TREE}
            mkdir -p early/kernel/x86/microcode
            head -c 5000 /dev/urandom > early/kernel/x86/microcode/GenuineIntel.bin
            (cd early && find . | cpio -o -H newc --quiet) > initrd
            (cd tree && find . | cpio -o -H newc --quiet) | zstd -q > main
            cat main >> initrd"
        ),
    );
    let node = inspect(&dir.path().join("initrd"));
    assert_eq!(node["parts"][0]["kind"], "early-segment");
    assert_eq!(node["parts"][1]["kind"], "segment");
    let main = fs::metadata(dir.path().join("main")).unwrap().len();
    assert_eq!(node["parts"][1]["length"], main);
}

#[test]
fn a_disk_and_its_file_systems() {
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        &format!(
            "{TREE}
            truncate -s 64M disk
            sgdisk -n1:0:+16M -t1:ef00 -c1:boot -n2:0:+16M -t2:8304 -n3:0:+8M -t3:8300 \
                -n4:0:+8M disk >/dev/null
            truncate -s 16M fat ext4
            mkfs.vfat -n LABEL fat >/dev/null && mcopy -s -i fat tree/etc ::/
            mkfs.ext4 -q -L rootfs -U 6f1f2e7c-0000-4000-8000-000000000001 -d tree ext4
            mkfs.erofs -zlz4hc -U 6f1f2e7c-0000-4000-8000-000000000002 erofs tree >/dev/null
            dd if=fat of=disk bs=1M seek=1 conv=notrunc status=none
            dd if=ext4 of=disk bs=1M seek=17 conv=notrunc status=none
            dd if=erofs of=disk bs=1M seek=33 conv=notrunc status=none"
        ),
    );
    let node = inspect_list(&dir.path().join("disk"));
    assert_eq!(node["kind"], "gpt-disk");
    assert_eq!(node["table"], "primary");
    let parts = node["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[0]["label"], "boot");
    assert_eq!(
        parts[0]["type"],
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b (esp)"
    );
    assert_eq!(parts[0]["start"], 1 << 20);
    let fat = &parts[0]["parts"][0];
    assert_eq!(
        (&fat["kind"], &fat["label"]),
        (&json!("fat"), &json!("LABEL"))
    );
    assert_eq!(paths(fat), ["/etc", "/etc/os-release"]);
    let ext4 = &parts[1]["parts"][0];
    assert_eq!(ext4["uuid"], "6f1f2e7c-0000-4000-8000-000000000001");
    assert_eq!(ext4["label"], "rootfs");
    assert!(paths(ext4).contains(&"/etc/os-release"));
    let erofs = &parts[2]["parts"][0];
    assert_eq!(erofs["uuid"], "6f1f2e7c-0000-4000-8000-000000000002");
    assert_eq!(erofs["inodes"], 6);
    assert_eq!(erofs["compression"], json!(["lz4"]));
    assert_eq!(parts[3].get("parts"), None);

    // Each by itself is the same as on its partition.
    for (file, expected) in [("fat", fat), ("ext4", ext4), ("erofs", erofs)] {
        let mut alone = inspect_list(&dir.path().join(file));
        alone.as_object_mut().unwrap().remove("name");
        assert_eq!(&alone, expected);
    }
}

#[test]
fn a_backup_table_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        "truncate -s 8M disk && sgdisk -n1 disk >/dev/null
         printf X | dd of=disk bs=1 seek=600 conv=notrunc status=none
         dd if=/dev/zero of=disk bs=1 seek=528 count=4 conv=notrunc status=none",
    );
    let node = inspect(&dir.path().join("disk"));
    assert_eq!(node["table"], "backup");
    assert!(node["primary_error"].as_str().unwrap().contains("checksum"));
}

#[test]
fn entries_kernels_and_compressed_files() {
    let dir = tempfile::tempdir().unwrap();
    let entry = dir.path().join("entry.conf");
    fs::write(
        &entry,
        "title A\nlinux /a/linux\ninitrd /a/i\noptions x\noptions y\n",
    )
    .unwrap();
    let node = inspect(&entry);
    assert_eq!(node["kind"], "boot-entry");
    assert_eq!(node["options"], "x y");

    let text = shell(
        dir.path(),
        "echo hello | gzip > plain.gz; echo hello > text",
    );
    assert_eq!(text, "");
    assert_eq!(
        inspect(&dir.path().join("plain.gz"))["kind"],
        "compressed-data"
    );
    let ran = run(["inspect".as_ref(), dir.path().join("text").as_os_str()]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("nothing that this program knows"));

    // The header of Documentation/arch/x86/boot.rst, by hand.
    let mut kernel = vec![0u8; 0x1000];
    kernel[0..2].copy_from_slice(b"MZ");
    kernel[0x1f1] = 1;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    kernel[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    kernel[0x300..0x31a].copy_from_slice(b"6.12.1-test (me@here) #1 x");
    kernel[0x400..0x403].copy_from_slice(&[0x1f, 0x8b, 8]);
    let path = dir.path().join("vmlinuz");
    fs::write(&path, &kernel).unwrap();
    let node = inspect(&path);
    assert_eq!(node["kind"], "linux-kernel");
    assert_eq!(node["release"], "6.12.1-test");
    assert_eq!(node["boot_protocol"], "2.15");
    assert_eq!(node["compression"], "gzip");
    // A pointer out of the file is no version, not a crash.
    kernel[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
    kernel[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&path, &kernel).unwrap();
    assert_eq!(inspect(&path).get("release"), None);
}

#[test]
fn damage_is_an_error_that_says_where() {
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        &format!(
            "{TREE}
            (cd tree && find . | cpio -o -H newc --quiet) > whole
            head -c 200000 whole > cut
            gzip < whole | head -c 200 > cut.gz
            printf 'IOFSPLAN\\1\\0junkjunkjunk' > plan"
        ),
    );
    for (file, word) in [("cut", "offset"), ("cut.gz", "gzip"), ("plan", "plan")] {
        let ran = run(["inspect".as_ref(), dir.path().join(file).as_os_str()]);
        assert_eq!(ran.code, 1, "{file}");
        assert!(ran.stderr.contains(word), "{file}: {}", ran.stderr);
        assert!(ran.stderr.contains(file), "{file}: {}", ran.stderr);
    }
}

/// Every prefix and many one-byte changes of real artefacts: errors are fine,
/// panics (status 101 or a signal) are bugs.
#[test]
fn hostile_bytes_never_crash_it() {
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        &format!(
            "{TREE}
            rm tree/zeros
            (cd tree && find . | cpio -o -H newc --quiet) > cpio
            gzip < cpio > cpio.gz; xz < cpio > cpio.xz; lz4 -lq < cpio > cpio.lz4
            mkfs.erofs erofs tree >/dev/null
            truncate -s 1M fat && mkfs.vfat fat >/dev/null"
        ),
    );
    let victim = dir.path().join("victim");
    for file in ["cpio", "cpio.gz", "cpio.xz", "cpio.lz4", "erofs", "fat"] {
        let whole = fs::read(dir.path().join(file)).unwrap();
        let interesting = whole.len().min(1400);
        for step in 0..12 {
            let at = interesting * step / 12;
            fs::write(&victim, &whole[..at]).unwrap();
            let args = ["inspect".as_ref(), "--list".as_ref(), victim.as_os_str()];
            assert!(run(args).code <= 1, "{file} cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            fs::write(&victim, &changed).unwrap();
            assert!(run(args).code <= 1, "{file} changed at {at}");
        }
    }
}
