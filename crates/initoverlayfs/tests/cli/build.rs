//! `build` from a small initramfs, then everything that takes a built set.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{json, run, shell};

const RELEASE: &str = "6.12.1-test";

/// Where the build's inputs are made: an initramfs with an early segment, a
/// kernel that says its release, and something in the place of storage-init.
pub(crate) struct Inputs {
    pub(crate) dir: tempfile::TempDir,
}

impl Inputs {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        shell(
            dir.path(),
            "mkdir -p tree/etc tree/bin tree/dev early/kernel/x86/microcode
             printf 'ID=test\\nVERSION_ID=7\\n' > tree/etc/os-release
             ln tree/etc/os-release tree/etc/second-name
             ln -s bin/tool tree/init
             printf 'tool' > tree/bin/tool
             chown 12:34 tree/bin/tool && chmod 4711 tree/bin/tool
             mknod -m 600 tree/dev/console c 5 1
             touch tree/etc/initrd-release
             head -c 3000 /dev/urandom > early/kernel/x86/microcode/GenuineIntel.bin
             (cd early && find . | LC_ALL=C sort | cpio -o -H newc --quiet) > initrd
             (cd tree && find . | LC_ALL=C sort | cpio -o -H newc --quiet) | zstd -q > main
             cat main >> initrd
             cp /bin/true storage-init
             mkdir -p sys/usr/lib/modules/6.12.1-test",
        );
        let mut kernel = vec![0u8; 0x1000];
        kernel[0x1f1] = 1;
        kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        kernel[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        let version = format!("{RELEASE} (me@here) #1");
        kernel[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        fs::write(dir.path().join("kernel"), kernel).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Arguments of a build into `out`, without `--auth none`.
    pub(crate) fn args(&self, out: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["build".into()];
        for (flag, value) in [
            ("--initrd", self.path("initrd")),
            ("--kernel", self.path("kernel")),
            ("--sysroot", self.path("sys")),
            ("--storage-init", self.path("storage-init")),
            ("--output", self.path(out)),
        ] {
            args.extend([flag.into(), value.into_os_string()]);
        }
        args.extend(["--modules".into(), "none".into()]);
        args
    }

    fn build(&self, out: &str, more: &[&str]) -> Value {
        let mut args = self.args(out);
        args.extend(["--auth", "none", "--json"].map(Into::into));
        args.extend(more.iter().map(Into::into));
        json(args)
    }
}

pub(crate) fn inspect(path: &Path) -> Value {
    let args = ["inspect", "--json", "--list"].map(OsString::from);
    json(args.into_iter().chain([path.into()]))
}

pub(crate) fn part<'a>(node: &'a Value, kind: &str) -> &'a Value {
    let parts = node["parts"].as_array().unwrap();
    let found = parts.iter().find(|part| part["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {node}"))
}

#[test]
fn a_build_says_what_a_boot_will_read() {
    let inputs = Inputs::new();
    let built = inputs.build("out", &[]);
    let prefetch = &built["image"]["prefetch"];
    assert_eq!(prefetch["recorded"], false);
    let image = inspect(&inputs.path("out/image.erofs"));
    assert_eq!(image["prefetch"], prefetch["bytes"]);
    assert_eq!(image["prefetch_files"], prefetch["files"]);
    // A profile that is found and cannot be used is passed over, one that was
    // named is not.
    let folder = inputs.path("sys/var/lib/initoverlayfs");
    fs::create_dir_all(&folder).unwrap();
    let found = folder.join("profile.json");
    fs::write(&found, "{}").unwrap();
    let again = inputs.build("again", &[]);
    assert_eq!(&again["image"]["prefetch"], prefetch);
    let mut args = inputs.args("out");
    args.extend(["--auth".into(), "none".into(), "--profile".into()]);
    args.push(found.clone().into_os_string());
    let ran = run(args);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no boot profile"), "{}", ran.stderr);
    // One that can be is used.
    let profile = r#"{"version":1,"root_hash":null,"uuid":"c1b9d5a2-f162-11cf-9ece-0020afc76f16",
        "kernel_release":"6.12","image_bytes":9,"files":[{"path":"bin/tool","size":SIZE,"pages":[]}]}"#;
    let files = image["files"].as_array().unwrap();
    let tool = files.iter().find(|f| f["path"] == "/bin/tool").unwrap();
    let profile = profile.replace("SIZE", &tool["size"].to_string());
    fs::write(&found, profile).unwrap();
    let third = inputs.build("third", &[]);
    assert_eq!(third["image"]["prefetch"]["recorded"], true);
}

#[test]
fn image_and_plan_fit_each_other_and_the_manifest() {
    let inputs = Inputs::new();
    let built = inputs.build(
        "out",
        &[
            "--cmdline",
            "root=LABEL=x",
            "--timeout",
            "7",
            "--profile",
            "none",
        ],
    );
    let manifest: Value =
        serde_json::from_slice(&fs::read(inputs.path("out/build.json")).unwrap()).unwrap();
    assert_eq!(built["manifest"], manifest);
    assert_eq!(manifest["product"], "test-7");
    assert_eq!(manifest["product-version"], RELEASE);
    assert_eq!(manifest["cmdline"], "root=LABEL=x");
    let sums = shell(
        &inputs.path("out"),
        "sha256sum image.erofs mini-initramfs.img vmlinuz",
    );
    for key in ["image", "initrd", "kernel"] {
        let digest = manifest[key]["sha256"].as_str().unwrap();
        assert!(sums.contains(digest), "{key}");
    }
    assert_eq!(
        fs::read(inputs.path("out/vmlinuz")).unwrap(),
        fs::read(inputs.path("kernel")).unwrap()
    );

    let image = inspect(&inputs.path("out/image.erofs"));
    assert_eq!(image["kind"], "erofs");
    assert_eq!(image["uuid"], manifest["image-uuid"]);
    assert_eq!(image["hard_links"], 1);
    assert!(image["prefetch"].is_null());
    let files = image["files"].as_array().unwrap();
    let file = |path: &str| files.iter().find(|f| f["path"] == path).unwrap();
    assert_eq!(file("/bin/tool")["mode"], 0o4711);
    assert_eq!(file("/init")["target"], "bin/tool");
    assert_eq!(file("/dev/console")["target"], "5:1");

    let mini = inspect(&inputs.path("out/mini-initramfs.img"));
    assert_eq!(mini["kind"], "mini-initramfs");
    let plan = part(&mini, "boot-plan");
    assert_eq!(plan["product"], "test-7");
    assert_eq!(plan["kernel_release"], RELEASE);
    assert_eq!(plan["device_timeout_ms"], 7000);
    let candidate = plan["candidates"][0].as_str().unwrap();
    for word in [
        "/test-7/6.12.1-test/image.erofs",
        manifest["image-uuid"].as_str().unwrap(),
        &format!("{} bytes", manifest["image"]["size"]),
    ] {
        assert!(candidate.contains(word), "{word} in {candidate}");
    }
    // The microcode stays in front of it.
    assert_eq!(mini["parts"][1]["kind"], "early-segment");
}

#[test]
fn the_same_build_gives_the_same_bytes() {
    let inputs = Inputs::new();
    let first = inputs.build("one", &[]);
    let second = inputs.build("two", &[]);
    assert_eq!(first["manifest"], second["manifest"]);
}

#[test]
fn a_built_set_installs_where_its_plan_looks() {
    let inputs = Inputs::new();
    inputs.build(
        "out",
        &[
            "--image-on",
            "xbootldr",
            "--image-on",
            "esp",
            "--version",
            "9",
        ],
    );
    shell(inputs.dir.path(), "mkdir esp boot root");
    let mut args: Vec<OsString> = vec!["install".into(), "--json".into()];
    for (flag, name) in [("--root", "root"), ("--from", "out"), ("--boot", "boot")] {
        args.extend([flag.into(), inputs.path(name).into_os_string()]);
    }
    let report = json(args);
    assert_eq!(report["target"], "xbootldr");
    assert!(inputs.path("boot/test-7/9/image.erofs").is_file());
    let entry = inspect(&inputs.path("boot/loader/entries/test-7-9.conf"));
    assert_eq!(entry["initrd"], json!(["/test-7/9/initrd"]));
}

#[test]
fn a_summary_for_people_has_the_sizes() {
    let inputs = Inputs::new();
    let mut args = inputs.args("out");
    args.extend(["--auth", "none"].map(Into::into));
    let ran = run(args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for word in [
        "image.erofs",
        "mini-initramfs.img",
        "vmlinuz",
        "KiB",
        "--auth none",
    ] {
        assert!(ran.stdout.contains(word), "{word} in {}", ran.stdout);
    }
    assert!(
        !ran.stderr.contains('\r'),
        "no bar into a pipe: {:?}",
        ran.stderr
    );
}

#[test]
fn a_failed_build_leaves_no_manifest() {
    let inputs = Inputs::new();
    inputs.build("out", &[]);
    assert!(inputs.path("out/build.json").exists());
    fs::write(inputs.path("initrd"), b"this is no initramfs").unwrap();
    let mut args = inputs.args("out");
    args.extend(["--auth", "none"].map(Into::into));
    let ran = run(args);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let path = inputs.path("initrd");
    assert!(
        ran.stderr.contains(path.to_str().unwrap()),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("because:"), "{}", ran.stderr);
    assert!(!inputs.path("out/build.json").exists());
}

#[test]
fn what_does_not_fit_together_is_refused_before_anything_is_written() {
    let inputs = Inputs::new();
    for (more, word) in [
        (["--kernel-release", "6.1.0-other"], "the kernel says"),
        (["--image-path", "relative/path"], "slash"),
        (["--image-path", "/a/../b"], "cannot be used"),
        (["--version", "a/b"], "--version"),
        (["--product", ".."], "--product"),
    ] {
        let mut args = inputs.args("out");
        args.extend(["--auth", "none"].map(Into::into));
        args.extend(more.map(Into::into));
        let ran = run(args);
        assert_eq!(ran.code, 2, "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{more:?}: {}", ran.stderr);
        assert!(!inputs.path("out").exists(), "{more:?}");
    }
}

#[test]
fn a_system_says_that_it_stays() {
    let inputs = Inputs::new();
    shell(
        inputs.dir.path(),
        "mkdir -p system/etc system/usr/lib system/usr/sbin
         printf 'ID=test\\nVERSION_ID=7\\n' > system/usr/lib/os-release
         cp /bin/true system/usr/sbin/init
         ln -s usr/sbin system/sbin",
    );
    let mut args = inputs.args("out");
    let at = args.iter().position(|arg| arg == "--initrd").unwrap();
    args.splice(
        at..at + 2,
        ["--root".into(), inputs.path("system").into_os_string()],
    );
    args.extend(["--mode", "stay", "--json"].map(Into::into));
    let report = json(&args);
    assert_eq!(report["manifest"]["stage"], "system");
    let changed = report["image"]["adjustments"].as_array().unwrap();
    assert!(
        changed
            .iter()
            .any(|line| line.as_str().unwrap().contains("machine-id"))
    );
    let mini = inspect(&inputs.path("out").join("mini-initramfs.img"));
    let plan = part(&mini, "boot-plan");
    assert_eq!(plan["stage"], "system");
    assert_eq!(plan["mode"], "stay: the image is the system");

    // The tree of an initrd is none of a system's.
    args[at + 1] = inputs.path("tree").into_os_string();
    let ran = run(&args);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("it is an initrd"), "{}", ran.stderr);
}
