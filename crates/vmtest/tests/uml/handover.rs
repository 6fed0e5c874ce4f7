//! What the next init is handed, and what it can do with it.

use std::fs;

use builder::{Candidate, Selector};
use libtest_mimic::Failed;
use serde_json::Value;
use vmtest::disk::{Entry, Partition, ext4};

use crate::Test;
use crate::support::{
    Boot, DATA, FAT_MODULES, FILE, FIRST, Ground, SECOND, Seen, file_on, on_esp, sum,
};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("stages_come_in_order", stages),
    Test::new("boot_json_of_a_file_in_pieces", boot_json_pieces),
    Test::new("boot_json_of_a_partition", boot_json_partition),
    Test::new("arguments_and_environment_reach_the_init", arguments),
    Test::new("init_is_the_first_that_the_image_has", init_order),
    Test::new("the_root_is_a_writable_overlay", overlay),
    Test::new("quiet_hides_the_stages", quiet),
    Test::new("the_esp_can_be_mounted_and_written", esp_in_use),
    Test::new(
        "an_ext4_boot_partition_can_be_mounted_and_written",
        boot_in_use,
    ),
    Test::new("run_init_frees_everything", run_init_pieces),
    Test::new("run_init_frees_a_loop_device", run_init_whole),
    Test::new("no_console_at_all", no_console),
    Test::new("unknown_keys_are_named", unknown_keys),
    Test::new("authentication_cannot_be_chosen", auth_key),
    Test::new("debug_shows_each_module", debug),
];

const STAGES: [&str; 8] = [
    "start", "plan", "device", "modules", "image", "mount", "handover", "exec",
];

fn on_esp_of(ground: &Ground, make: fn(&std::path::Path, &std::path::Path)) -> Boot<'_> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.esp(make);
    boot
}

fn stages(ground: &Ground) -> Result<(), Failed> {
    let seen = on_esp_of(ground, volumes::fat32).succeeds();
    let lines = STAGES.map(|stage| format!("storage-init: [stage {stage}] "));
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("TESTINIT stage: first");
    seen.expects_in_order(&lines);
    seen.expects("auth=none in the boot plan: the image is NOT authenticated");
    Ok(())
}

const JSON: &str = "/run/initoverlayfs/boot.json";

fn boot_json(boot: &mut Boot<'_>) -> (Value, Seen) {
    let seen = boot
        .words("testinit.stat=/run/initoverlayfs")
        .words(&format!("testinit.cat={JSON}"))
        .succeeds();
    // One line, which the kernel log cuts.
    let text = seen.facts(JSON).concat();
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (json, seen)
}

/// What every record has.
fn check_record(json: &Value, seen: &Seen, ground: &Ground) {
    assert_eq!(json["version"], 1);
    assert_eq!(json["product"], "test-1");
    assert_eq!(json["auth"], "none");
    assert_eq!(json["init"], "/init");
    assert!(json["kernel"].as_str().unwrap().starts_with("6."));
    let image = &json["image"];
    let expect = ground.image().expect;
    assert_eq!(image["uuid"], expect.uuid.to_string());
    assert_eq!(image["size"], expect.size);
    let stages = json["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, STAGES);
    let times: Vec<u64> = stages.iter().map(|s| s["us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let log = seen.expects("[stage start]");
    #[allow(clippy::cast_precision_loss, reason = "a few seconds")]
    let first = times[0] as f64 / 1e6;
    assert!((first - log).abs() < 0.5, "{first} s and {log} s");
    for module in json["modules"].as_array().unwrap() {
        assert_eq!(module["errno"], 0, "{module}");
        assert!(module["us"].is_u64(), "{module}");
        // Begun after the plan was read, ended before init was executed.
        let at = module["at"].as_u64().unwrap();
        let end = at + module["us"].as_u64().unwrap();
        let in_time = end <= times[times.len() - 1] || module["running"] == true;
        assert!(times[1] <= at && in_time, "{module}");
    }
}

fn module_names(json: &Value) -> Vec<&str> {
    let modules = json["modules"].as_array().unwrap();
    modules
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect()
}

fn boot_json_pieces(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_esp_of(ground, volumes::fat32_fragmented);
    let (json, seen) = boot_json(&mut boot);
    check_record(&json, &seen, ground);
    let image = &json["image"];
    assert_eq!(image["candidate"], "esp");
    assert_eq!(image["partition"], "/dev/ubda1");
    assert_eq!(image["partuuid"], FIRST.to_string());
    assert_eq!(image["file"], FILE);
    assert!(image["extents"].as_u64().unwrap() > 10, "{image}");
    assert_eq!(image["device"], "/dev/dm-0");
    let names = module_names(&json);
    for name in ["erofs", "overlay", "loop", "dm_mod"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    Ok(())
}

fn boot_json_partition(ground: &Ground) -> Result<(), Failed> {
    let mut boot = partition_boot(ground);
    let (json, seen) = boot_json(&mut boot);
    check_record(&json, &seen, ground);
    let image = &json["image"];
    assert_eq!(image["file"], Value::Null);
    assert_eq!(image["extents"], 0);
    assert_eq!(image["device"], "/dev/ubda1");
    assert!(!module_names(&json).contains(&"loop"));
    Ok(())
}

pub(crate) fn partition_boot(ground: &Ground) -> Boot<'_> {
    let candidate = crate::support::partition_at("partition", Selector::PartUuid(FIRST));
    let mut boot = Boot::new(ground, &[candidate]);
    boot.disk(&[Partition::root(FIRST, &ground.image().path).unwrap()]);
    boot
}

fn arguments(ground: &Ground) -> Result<(), Failed> {
    let seen = partition_boot(ground)
        .words("name=value word initoverlayfs.timeout=9 -- single last")
        .succeeds();
    let mut args = seen.facts("arg");
    // The user-mode kernel appends words of its own.
    args.truncate(4);
    assert_eq!(args, ["/init", "word", "single", "last"]);
    let env = seen.facts("env");
    for variable in ["HOME=/", "name=value"] {
        assert!(env.iter().any(|v| v == variable), "{variable} in {env:?}");
    }
    // storage-init's own keys are nobody else's.
    assert!(
        !env.iter().any(|v| v.starts_with("initoverlayfs")),
        "{env:?}"
    );
    Ok(())
}

fn init_order(ground: &Ground) -> Result<(), Failed> {
    let mut boot = partition_boot(ground);
    boot.mini.inits = vec!["/no/such".to_owned(), "/init".to_owned()];
    let seen = boot.succeeds();
    seen.expects("[stage exec] /init");
    assert_eq!(seen.facts("arg"), ["/init"]);
    Ok(())
}

fn overlay(ground: &Ground) -> Result<(), Failed> {
    let mut boot = partition_boot(ground);
    boot.words("testinit.stat=/ testinit.write=/new testinit.cat=/new testinit.write=/data");
    boot.words("testinit.cat=/data testinit.cat=/proc/self/mountinfo testinit.list=/");
    let seen = boot.succeeds();
    assert_eq!(seen.fact("/new"), "written by testinit");
    assert_eq!(seen.fact(DATA), "written by testinit");
    let root = seen.facts("/");
    assert!(
        root[0].starts_with("Directory mode 755 owner 0:0"),
        "{root:?}"
    );
    // Nothing of the mini-initramfs is left to be seen.
    assert!(!root.iter().any(|name| name == "initoverlayfs"), "{root:?}");
    let mounts = seen.facts("/proc/self/mountinfo");
    let points: Vec<&str> = mounts
        .iter()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    let mut sorted = points.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["/", "/dev", "/proc", "/run", "/sys"], "{mounts:?}");
    let root = mounts.iter().find(|line| line.contains(" / / ")).unwrap();
    assert!(root.contains(" - overlay overlay rw"), "{root}");
    Ok(())
}

fn quiet(ground: &Ground) -> Result<(), Failed> {
    let seen = on_esp_of(ground, volumes::fat32).words("quiet").succeeds();
    seen.rejects("storage-init:");
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.words("quiet initoverlayfs.timeout=1").fails(
        "the init image was not found",
        &["seen: no disk at all", "awaited: the image /EFI"],
    );
    Ok(())
}

/// The image's loop device claims nothing: its partition can be mounted,
/// written, and the image is as it was.
fn boot_in_use(ground: &Ground) -> Result<(), Failed> {
    let candidate = file_on("boot", Selector::PartUuid(FIRST));
    let mut boot = Boot::new(ground, &[candidate]);
    boot.esp(volumes::ext4_fragmented);
    boot.words("testinit.mount=ext4,/dev/ubda1,/mnt,rw");
    write_beside_image(&mut boot);
    Ok(())
}

fn esp_in_use(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_esp_of(ground, volumes::fat32);
    for module in FAT_MODULES {
        boot.words(&format!("testinit.load=/modules/{module}.ko"));
    }
    // The kernel's default table of names is not among the modules.
    boot.words("testinit.mount=vfat,/dev/ubda1,/mnt,rw");
    write_beside_image(&mut boot);
    Ok(())
}

pub(crate) fn write_beside_image(boot: &mut Boot<'_>) -> Seen {
    let file = format!("/mnt{FILE}");
    boot.words("testinit.write=/mnt/loader.conf testinit.umount=/mnt");
    boot.words("testinit.sum=/data");
    let mount = boot
        .words
        .split_whitespace()
        .find(|w| w.contains(".mount="));
    let again = mount.unwrap().to_owned();
    boot.words(&again);
    boot.words("testinit.cat=/mnt/loader.conf");
    boot.words(&format!("testinit.sum={file}"));
    let seen = boot.succeeds();
    seen.data_is_intact();
    assert_eq!(seen.fact("/mnt/loader.conf"), "written by testinit");
    assert_eq!(seen.fact(&file), sum(&fs::read(boot.image()).unwrap()));
    seen
}

/// A root that initramfs-tools' init would switch to.
pub(crate) fn next_root(boot: &Boot<'_>, ground: &Ground) -> Partition {
    let empty = boot.path("empty");
    fs::write(&empty, "").unwrap();
    let mut entries = vec![Entry::new("sbin/init", ground.testinit())];
    for folder in ["dev", "proc", "run", "sys"] {
        entries.push(Entry::new(&format!("{folder}/.keep"), &empty));
    }
    let volume = boot.path("root");
    let uuid = "1f0f5a7e-0d13-4d14-9a3c-6f2d1c0e0a04";
    ext4::make(&volume, 16 << 20, uuid, &entries).unwrap();
    Partition::root(SECOND, volume).unwrap()
}

fn run_init(ground: &Ground, make: fn(&std::path::Path, &std::path::Path), stacked: &str) {
    let candidate: Candidate = on_esp();
    let mut boot = Boot::new(ground, &[candidate]);
    let volume = boot.path("volume");
    make(&volume, &ground.image().path);
    let root = next_root(&boot, ground);
    boot.disk(&[Partition::esp(FIRST, &volume).unwrap(), root]);
    boot.words("testinit.stacked testinit.switch=/dev/ubda2");
    boot.words("testinit2.freed testinit2.cat=/proc/self/mountinfo testinit2.stacked");
    boot.words("testinit2.cat=/proc/modules");
    let seen = boot.succeeds();
    assert_eq!(seen.facts("stage"), ["first", "second"]);
    assert_eq!(seen.fact("stacked"), stacked);
    let freed = seen.fact("freed");
    assert!(
        freed.starts_with("all after"),
        "{freed}\n{}",
        seen.outcome.text()
    );
    let mounts = seen.facts("/proc/self/mountinfo").join("\n");
    assert!(mounts.contains("/dev/ubda2"), "{mounts}");
    for gone in ["overlay", "erofs"] {
        assert!(!mounts.contains(gone), "{gone} in {mounts}");
        let unused = format!("{gone} ");
        let modules = seen.facts("/proc/modules");
        let module = modules.iter().find(|m| m.starts_with(&unused)).unwrap();
        // Size, then users: none.
        assert_eq!(module.split(' ').nth(2), Some("0"), "{module}");
    }
    assert_eq!(seen.facts("arg"), ["/init", "/sbin/init", "second-stage"]);
}

fn run_init_pieces(ground: &Ground) -> Result<(), Failed> {
    run_init(ground, volumes::fat32_fragmented, "dm-0 loop0");
    Ok(())
}

fn run_init_whole(ground: &Ground) -> Result<(), Failed> {
    run_init(ground, volumes::fat32, "loop0");
    Ok(())
}

/// Nothing is printed anywhere; the evidence is on a disk.
fn no_console(ground: &Ground) -> Result<(), Failed> {
    let mut boot = on_esp_of(ground, volumes::fat32);
    let log = boot.raw_disk(1 << 20);
    boot.words("con0=null console=nosuch testinit.log=/dev/ubdb testinit.sum=/data");
    for stream in 0..3 {
        boot.words(&format!("testinit.link=/proc/self/fd/{stream}"));
    }
    let seen = boot.run();
    seen.rejects("TESTINIT");
    let bytes = fs::read(log).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end_matches('\0');
    assert!(text.contains("TESTINIT end"), "{text}");
    assert!(!text.contains("TESTINIT failed"), "{text}");
    assert!(text.contains(&crate::support::data_sum()), "{text}");
    for stream in 0..3 {
        assert!(
            text.contains(&format!("/proc/self/fd/{stream}: /dev/null")),
            "{text}"
        );
    }
    Ok(())
}

fn unknown_keys(ground: &Ground) -> Result<(), Failed> {
    let seen = partition_boot(ground)
        .words("initoverlayfs.tiemout=3 initoverlayfs.timeout=never")
        .succeeds();
    seen.expects("\"initoverlayfs.tiemout\" on the kernel command line is not known");
    seen.expects("initoverlayfs.timeout=\"never\" on the kernel command line is ignored");
    Ok(())
}

fn auth_key(ground: &Ground) -> Result<(), Failed> {
    let seen = partition_boot(ground)
        .words("initoverlayfs.auth=none")
        .succeeds();
    seen.expects("never on the command line");
    Ok(())
}

fn debug(ground: &Ground) -> Result<(), Failed> {
    let seen = partition_boot(ground)
        .words("initoverlayfs.debug initoverlayfs.workers=1")
        .succeeds();
    seen.expects("module erofs: ");
    seen.expects("module overlay: ");
    // One by one: each is done before the next is begun.
    let mut loading = None;
    for line in &seen.outcome.lines {
        let said = |begin: &str| Some(line.text.split_once(begin)?.1.to_owned());
        if let Some(name) = said("storage-init: loading ") {
            assert_eq!(loading, None, "beside {name}");
            loading = Some(name);
        } else if let Some(rest) = said("storage-init: module ") {
            let name = rest.split_once(':').unwrap().0;
            assert_eq!(loading.take().as_deref(), Some(name));
        }
    }
    Ok(())
}
