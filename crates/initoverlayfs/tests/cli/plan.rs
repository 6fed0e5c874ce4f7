//! `plan`: over a kernel's modules, and over what was built of them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{json, run};

const DEP: &str = "\
kernel/fs/erofs/erofs.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/block/loop.ko:
kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-mod.ko
kernel/drivers/scsi/scsi_mod.ko:
kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko
kernel/drivers/ata/libata.ko: kernel/drivers/scsi/scsi_mod.ko
kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libata.ko kernel/drivers/scsi/scsi_mod.ko
kernel/drivers/ata/pata_via.ko: kernel/drivers/ata/libata.ko kernel/drivers/scsi/scsi_mod.ko
";

const ALIAS: &str = "\
alias scsi:t-0x00* sd_mod
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v00001106d00000571sv*sd*bc*sc*i* pata_via
";

/// A root with the modules of one kernel, of 4000 bytes each, and an initramfs.
fn system(dir: &Path) {
    let modules = dir.join("usr/lib/modules/6.1-test");
    for line in DEP.lines() {
        let path = modules.join(line.split(':').next().unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut elf = b"\x7fELF".to_vec();
        elf.extend(line.bytes().cycle().take(3996));
        fs::write(path, elf).unwrap();
    }
    fs::write(modules.join("modules.dep"), DEP).unwrap();
    fs::write(modules.join("modules.alias"), ALIAS).unwrap();
    let builtin = "kernel/crypto/sha256_generic.ko\n";
    fs::write(modules.join("modules.builtin"), builtin).unwrap();
}

fn plan(root: &Path, more: &[&str]) -> Value {
    let mut args = vec!["plan", "--json", "--root", root.to_str().unwrap()];
    args.extend(more);
    json(args)
}

fn module<'p>(plan: &'p Value, name: &str) -> &'p Value {
    let modules = plan["modules"].as_array().unwrap();
    modules.iter().find(|m| m["name"] == name).unwrap()
}

#[test]
fn each_module_says_why_it_is_in_and_what_it_costs() {
    let dir = tempfile::tempdir().unwrap();
    system(dir.path());
    let plan = plan(dir.path(), &[]);
    assert_eq!(plan["kernel_release"], "6.1-test");
    assert_eq!(plan["aliases"], 3);

    let ahci = module(&plan, "ahci");
    assert_eq!(
        (&ahci["role"], &ahci["pack"]),
        (&json!("bus"), &json!("ahci.zst"))
    );
    assert_eq!(ahci["unpacked_bytes"], 4000);
    // Three modules: itself, libata, scsi_mod.
    assert_eq!((&ahci["loads"], &ahci["load_ms"]), (&json!(3), &json!(135)));
    let libata = module(&plan, "libata");
    assert_eq!(libata["needed_by"], json!(["ahci", "pata_via"]));
    assert_eq!(libata["why"], "needed by ahci");
    let erofs = module(&plan, "erofs");
    assert_eq!(
        (&erofs["pack"], &erofs["why"]),
        (&Value::Null, &json!("mounts the image"))
    );
    assert!(erofs["archive_bytes"].as_u64().unwrap() > 0);
    let verity = module(&plan, "dm_verity");
    // What every boot has loaded costs a driver nothing more.
    assert_eq!(
        (&verity["loads"], &verity["needs"]),
        (&json!(1), &json!(["dm_mod"]))
    );

    let packs = plan["packs"].as_array().unwrap();
    let files: Vec<&str> = packs.iter().map(|p| p["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["ahci.zst", "scsi.zst", "ata-rare.zst"]);
    assert_eq!(packs[0]["unpacked_bytes"], 8000);
    assert!(packs[0]["archive_bytes"].as_u64().unwrap() < 8000);
    let every = &plan["every_boot"];
    assert_eq!(
        (&every["modules"], &every["load_ms"]),
        (&json!(5), &json!(225))
    );
    assert_eq!(plan["total"]["modules"], 10);
    assert_eq!(plan["total"]["unpacked_bytes"], 40_000);
}

#[test]
fn one_driver_and_none() {
    let dir = tempfile::tempdir().unwrap();
    system(dir.path());
    let one = plan(dir.path(), &["--modules", "ahci", "--kernel", "6.1-test"]);
    assert_eq!(one["packs"], json!([]));
    assert_eq!(module(&one, "ahci")["why"], "named by the user");
    assert_eq!(module(&one, "sd_mod")["role"], "disk");
    let root = dir.path().to_str().unwrap();
    let ran = run(["plan", "--root", root, "--modules", "builtin"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr
            .contains("not built into this kernel: erofs, overlay"),
        "{}",
        ran.stderr
    );
    let ran = run(["plan", "--root", root, "--kernel", "6.2"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("6.2"), "{}", ran.stderr);
    let ran = run(["plan", "--root", root, "some-file"]);
    assert_eq!(ran.code, 2);
}

#[test]
fn people_get_a_table() {
    let dir = tempfile::tempdir().unwrap();
    system(dir.path());
    let ran = run(["plan", "--root", dir.path().to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let line = |begin: &str| {
        let found = ran.stdout.lines().find(|line| line.starts_with(begin));
        let words = found.unwrap_or_else(|| panic!("{begin}: {}", ran.stdout));
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        line("module "),
        "module unpacked in archive to load role pack why"
    );
    let scsi = line("scsi_mod ");
    assert!(scsi.starts_with("scsi_mod 3.91 KiB "), "{scsi}");
    assert!(
        scsi.contains(" 45 ms dependency scsi.zst needed by "),
        "{scsi}"
    );
    assert!(line("every boot").starts_with("every boot 5 19.5 KiB"));
    assert!(line("in all").starts_with("in all 10 39.1 KiB"));
    assert!(line("Kernel").contains("6.1-test, 3 aliases"));
}

#[test]
fn a_built_set_tells_the_same() {
    let inputs = crate::build::Inputs::new();
    let sys = inputs.path("sys");
    fs::remove_dir_all(sys.join("usr/lib/modules")).unwrap();
    system(&sys);
    fs::rename(
        sys.join("usr/lib/modules/6.1-test"),
        sys.join("usr/lib/modules/6.12.1-test"),
    )
    .unwrap();
    let mut args = inputs.args("out");
    args.extend(["--json", "--modules", "generic"].map(Into::into));
    let at = args.iter().position(|arg| arg == "none").unwrap();
    args.drain(at - 1..=at);
    json(args);
    let planned = plan(&sys, &[]);
    let set = inputs.path("out");
    let built = json(["plan".as_ref(), "--json".as_ref(), set.as_os_str()]);
    assert_eq!(built["packs"], planned["packs"]);
    assert_eq!(
        built["every_boot"]["modules"],
        planned["every_boot"]["modules"]
    );
    assert_eq!(module(&built, "ahci"), module(&planned, "ahci"));
    // A plan does not keep the builder's words.
    assert_eq!(module(&built, "erofs")["why"], "mounts or proves the image");
    let mini = set.join("mini-initramfs.img");
    let node = json(["inspect".as_ref(), "--json".as_ref(), mini.as_os_str()]);
    assert_eq!(node["packs"], 3);
    assert_eq!(node["modules"], 5);
    let ran = run(["plan".as_ref(), inputs.path("initrd").as_os_str()]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("holds no boot plan"), "{}", ran.stderr);
}
