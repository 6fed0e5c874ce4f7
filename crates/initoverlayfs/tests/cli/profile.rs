//! `profile`.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::{Ran, json, run, shell};
use iofs_erofs::tree::Tree;

/// An image, what a boot of it left, and an ESP.
fn machine(dir: &Path, method: &str) -> Vec<u8> {
    shell(
        dir,
        "mkdir -p tree/usr/bin sys/kernel/tracing/instances/initoverlayfs run esp
         seq 1 20000 > tree/usr/bin/numbers; seq 1 9000 > tree/usr/bin/more; echo x > tree/x
         mkfs.erofs --quiet -zlz4hc image tree",
    );
    let bytes = fs::read(dir.join("image")).unwrap();
    let tree = Tree::open(&bytes[..]).unwrap();
    let record = serde_json::json!({
        "version": 1,
        "root_hash": "ab".repeat(32),
        "uuid": tree.superblock().uuid.to_string(),
        "size": bytes.len(),
        "block_dev": "4095:1048575",
        "fs_dev": "254:1",
        "method": method,
    });
    fs::write(dir.join("run/record.json"), record.to_string()).unwrap();
    let nid = |path: &str| tree.lookup(path).unwrap().nid;
    let event = |path: &str, ofs: u64, order: u32| {
        format!(
            " systemd-1 [000] ..... 3.1: mm_filemap_add_to_page_cache: dev 254:1 ino {:x} pfn=0x5 ofs={ofs} order={order}\n",
            nid(path)
        )
    };
    let trace = [
        "# tracer: nop\n".to_owned(),
        event("usr/bin/more", 8192, 1),
        event("usr/bin/numbers", 0, 0),
    ]
    .concat();
    let instance = dir.join("sys/kernel/tracing/instances/initoverlayfs");
    fs::write(instance.join("trace"), trace).unwrap();
    fs::write(
        dir.join("run/record.paths"),
        "0+20,22+1 usr/bin/numbers\n0+1 x\nend\n",
    )
    .unwrap();
    bytes
}

fn args(dir: &Path, action: &str) -> Vec<String> {
    let mut args = vec!["profile".into(), action.into()];
    for (option, path) in [
        ("--esp", "esp"),
        ("--record", "run/record.json"),
        ("--sysfs", "sys"),
        ("--output", "lib/profile.json"),
    ] {
        args.push(option.into());
        args.push(dir.join(path).to_str().unwrap().into());
    }
    args
}

fn with(mut args: Vec<String>, more: &[&str]) -> Vec<String> {
    args.extend(more.iter().map(|&word| word.into()));
    args
}

#[test]
fn a_boot_is_armed_for_an_hour_and_disarmed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("esp")).unwrap();
    let now = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs()
    };
    let before = now();
    let Ran { code, stdout, .. } = run(args(dir, "record"));
    assert_eq!(code, 0);
    assert!(stdout.contains("profile collect"), "{stdout}");
    let file = dir.join("esp/loader/credentials/initoverlayfs.profile.cred");
    let text = fs::read_to_string(&file).unwrap();
    let until = text.strip_prefix("until=").unwrap().strip_suffix('\n');
    let until: u64 = until.unwrap().parse().unwrap();
    assert!((before + 3600..=now() + 3600).contains(&until), "{text}");
    assert_eq!(
        json(with(args(dir, "clear"), &["--json"]))["action"],
        "clear"
    );
    assert!(!file.exists());
    assert_eq!(run(args(dir, "clear")).code, 0);
}

#[test]
fn a_trace_is_collected_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let bytes = machine(dir, "trace");
    assert_eq!(run(args(dir, "record")).code, 0);
    let image = dir.join("image");
    let image = ["--image", image.to_str().unwrap()];
    let ran = run(with(args(dir, "collect"), &image));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("2 files"), "{}", ran.stdout);
    // A folder of the kernel's goes with what is in it; this one does not.
    assert!(ran.stderr.contains("the trace"), "{}", ran.stderr);
    let credential = dir.join("esp/loader/credentials/initoverlayfs.profile.cred");
    assert!(!credential.exists());

    let shown = json(with(args(dir, "show"), &["--json"]));
    let uuid = Tree::open(&bytes[..]).unwrap().superblock().uuid;
    assert_eq!(shown["uuid"], uuid.to_string());
    assert_eq!(shown["root_hash"], "ab".repeat(32));
    let files = shown["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    assert_eq!(files[0]["path"], "usr/bin/more");
    assert_eq!(files[0]["pages"], serde_json::json!([[2, 2]]));
    assert_eq!(files[1]["pages"], serde_json::json!([[0, 1]]));
    let text = run(args(dir, "show")).stdout;
    assert!(
        text.contains("usr/bin/numbers") && text.contains(" %)"),
        "{text}"
    );
}

#[test]
fn the_image_is_found_where_the_boot_found_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    machine(dir, "fanotify");
    // No such device and no such mount: what was looked at is said.
    let boot = r#"{"image":{"partition":"/dev/no-such","file":null}}"#;
    fs::write(dir.join("run/boot.json"), boot).unwrap();
    let ran = run(args(dir, "collect"));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("/dev/no-such"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--image"), "{}", ran.stderr);
    // Another image is refused.
    shell(dir, "mkfs.erofs --quiet other tree");
    let other = dir.join("other");
    let other = ["--image", other.to_str().unwrap()];
    let ran = run(with(args(dir, "collect"), &other));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("another image"), "{}", ran.stderr);
    assert!(!dir.join("lib").exists());
    // What was opened, where the kernel could not trace.
    let image = dir.join("image");
    let image = ["--json", "--image", image.to_str().unwrap()];
    let made = json(with(args(dir, "collect"), &image));
    assert_eq!(made["summary"]["files"], 2);
    let shown = json(with(args(dir, "show"), &["--json"]));
    assert_eq!(shown["files"][0]["path"], "usr/bin/numbers");
    assert_eq!(
        shown["files"][0]["pages"],
        serde_json::json!([[0, 20], [22, 1]])
    );
    assert!(!dir.join("run/record.stop").exists());
}

#[test]
fn what_notes_opened_files_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    machine(dir, "fanotify");
    let (paths, stop) = (dir.join("run/record.paths"), dir.join("run/record.stop"));
    let begun = "0+1 x\n";
    fs::write(&paths, begun).unwrap();
    // storage-init's process.
    let noting = std::thread::spawn({
        let paths = paths.clone();
        move || {
            let begun = std::time::Instant::now();
            while !stop.exists() {
                assert!(
                    begun.elapsed().as_secs() < 60,
                    "nobody says that it is enough"
                );
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            fs::write(paths, "0+1 x\nlost 2\nend\n").unwrap();
        }
    });
    let image = dir.join("image");
    let image = ["--image", image.to_str().unwrap()];
    let ran = run(with(args(dir, "collect"), &image));
    noting.join().unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("1 files"), "{}", ran.stdout);
    assert!(ran.stderr.contains("2 events"), "{}", ran.stderr);
    // It has died.
    fs::write(&paths, begun).unwrap();
    let ran = run(with(args(dir, "collect"), &image));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("not finished"), "{}", ran.stderr);
}

#[test]
fn without_a_record_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ran = run(args(dir, "collect"));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("profile record"), "{}", ran.stderr);
    machine(dir, "magic");
    let image = dir.join("image");
    let image = ["--image", image.to_str().unwrap()];
    let ran = run(with(args(dir, "collect"), &image));
    assert!(ran.stderr.contains("unknown method"), "{}", ran.stderr);
    fs::write(dir.join("run/record.json"), "{").unwrap();
    let ran = run(with(args(dir, "collect"), &image));
    assert!(ran.stderr.contains("no record"), "{}", ran.stderr);
}
