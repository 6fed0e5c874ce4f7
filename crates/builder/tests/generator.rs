//! Runs of generators inside a root: stand-ins that say how they were called,
//! and with `IOFS_TEST_GENERATOR_ROOT` (a root tree that may be written to, with
//! dracut and initramfs-tools) the real ones.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use builder::{
    ErrorKind, Generator, GeneratorRun, ImageRequest, Progress, Silent, Source, build_image,
};
use common::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A root with a shell, and the three generators as scripts that write down how
/// they were called and make an initramfs.
fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    fs::create_dir(&root).unwrap();
    sh(
        &root,
        r#"mkdir -p usr/bin etc dev proc sys tmp var/tmp; ln -s usr/bin bin
           printf 'ID=made-up\nVERSION_ID=7\n' > etc/os-release
           for program in sh cat; do
             path=$(command -v $program); cp "$path" usr/bin/$program
             ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
               mkdir -p ".$(dirname "$library")"; cp -L "$library" ".$library"
             done
           done"#,
    );
    let initramfs = dir.join("initramfs");
    fs::create_dir(&initramfs).unwrap();
    sh(
        &initramfs,
        "mkdir etc; touch etc/initrd-release; echo x > init",
    );
    fs::write(root.join("prepared"), cpio(&initramfs)).unwrap();
    for (name, output) in [
        ("dracut", r#"for last; do :; done; cat /prepared > "$last""#),
        ("mkinitramfs", r#"cat /prepared > "$2""#),
        ("mkosi-initrd", r#"cat /prepared > "$6/$4""#),
    ] {
        let script = format!(
            "#!/bin/sh\necho \"called: $0 $*\"\n[ -e /proc/self/exe ] && [ -e /dev/null ] && [ -e /sys/class ] || exit 9\n{output}\n"
        );
        let path = root.join("usr/bin").join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    root
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Progress for Lines {
    fn tool_output(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

fn order(dir: &Path, root: &Path, generator: Generator) -> ImageRequest {
    let run = GeneratorRun {
        generator,
        kernel_release: "6.0-test".into(),
        sysroot: Some(root.to_owned()),
        extra_args: vec!["--extra".into()],
    };
    common::plain(Source::Generator(run), dir.join("image"))
}

#[test]
fn generators_are_called_as_they_want_to_be() {
    need(&["cpio", "unshare", "chroot", "ldd", "mkfs.erofs", "mount"]);
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    let before = listing(&root);
    for (generator, called) in [
        (
            Generator::Dracut,
            "dracut --no-hostonly --no-compress --force --kver 6.0-test --extra /tmp/initramfs",
        ),
        (
            Generator::InitramfsTools,
            "mkinitramfs -o /tmp/initramfs --extra 6.0-test",
        ),
        (
            Generator::Mkosi,
            "mkosi-initrd --kernel-version 6.0-test --output initramfs --output-dir /tmp --extra",
        ),
    ] {
        let lines = Lines::default();
        let built = build_image(&order(dir.path(), &root, generator), &lines).unwrap();
        let said = lines.0.lock().unwrap().join("\n");
        assert!(
            said.contains(&format!("called: /usr/bin/{called}\n")),
            "{said}"
        );
        let mounted = Mounted::new(&built.summary.path);
        assert!(mounted.path.join("etc/initrd-release").is_file());
        assert_eq!(built.summary.product, "made-up-7");
    }
    assert_eq!(listing(&root), before, "the root is as it was");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(root.to_str().unwrap()),
        "nothing stays mounted"
    );
}

#[test]
fn a_generator_that_fails_is_quoted() {
    need(&["cpio", "unshare", "chroot", "ldd", "mkfs.erofs"]);
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    let script = |text: &str| {
        fs::write(root.join("usr/bin/dracut"), format!("#!/bin/sh\n{text}\n")).unwrap()
    };
    let fails = || build_image(&order(dir.path(), &root, Generator::Dracut), &Silent).unwrap_err();

    script("echo no such module: frobnicate >&2; exit 3");
    let error = fails();
    assert_eq!(error.kind(), ErrorKind::Tool);
    assert!(error.to_string().contains("frobnicate"), "{error}");
    script("exit 0");
    assert!(fails().to_string().contains("made no initramfs"));
    script("echo text > /tmp/initramfs");
    assert_eq!(fails().kind(), ErrorKind::Input);
    fs::remove_file(root.join("usr/bin/dracut")).unwrap();
    assert_eq!(fails().kind(), ErrorKind::Tool);

    let mut request = order(dir.path(), &root, Generator::Dracut);
    if let Source::Generator(run) = &mut request.source {
        run.kernel_release = "--help".into();
    }
    assert_eq!(
        build_image(&request, &Silent).unwrap_err().kind(),
        ErrorKind::Usage
    );
}

#[test]
fn the_real_generators() {
    need(&["unshare", "chroot", "mkfs.erofs", "mount"]);
    let Some(root) = std::env::var_os("IOFS_TEST_GENERATOR_ROOT").map(PathBuf::from) else {
        println!("IOFS_TEST_GENERATOR_ROOT is not set: nothing to test");
        return;
    };
    let release = builder::kernel_release(&root).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for generator in [Generator::Dracut, Generator::InitramfsTools] {
        let run = GeneratorRun {
            generator,
            kernel_release: release.clone(),
            sysroot: Some(root.clone()),
            extra_args: Vec::new(),
        };
        let mut request = common::plain(Source::Generator(run), dir.path().join("image"));
        request.run_init = Some("/bin/true".into());
        let built = build_image(&request, &Silent).unwrap();
        println!("{}", serde_json::to_string_pretty(&built.summary).unwrap());
        let mounted = Mounted::new(&request.output);
        assert!(mounted.path.join("init").symlink_metadata().is_ok());
        assert_eq!(
            Some(&built.summary.product),
            builder::product_of(&root).as_ref()
        );
    }
}
