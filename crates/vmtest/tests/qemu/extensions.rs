//! Extensions under a real systemd: what it says of those that storage-init has merged,
//! in an initrd and in an image that is the system; and the two examples.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::{
    Auth, Candidate, Expect, Extensions, ImageCompression, ImageRequest, Kernel, MiniRequest,
    Modules, OnFailure, Selector, Silent, Source, Stage, TrustedCertificate,
};
use iofs_gpt::types;
use libtest_mimic::Failed;
use qemu_driver::{Bus, Disk, Machine, Outcome};
use serde_json::Value;
use vmtest::command;
use vmtest::disk::Entry;
use vmtest::guest;
use vmtest::set::Recipe;

use crate::Test;
use crate::support::{CONSOLE, Ground, Key, expect, facts, fail, run};

pub(crate) const TESTS: &[Test] = &[
    Test::new("systemd_knows_the_extensions_of_an_initrd", initrd),
    Test::new("systemd_knows_the_extensions_of_a_system", system),
];

/// The unused firmware, in MiB.
const FIRMWARE_MIB: usize = 300;

/// Says what systemd-sysext and systemd-confext know, as facts.
const CHECK: &str = r#"#!/bin/sh
say() { while IFS= read -r line; do echo "INITOVERLAYFS-FACT $1: $line" >/dev/console; done; }
kill -55 1; dmesg -n 3
systemd-sysext --no-pager --no-legend status 2>&1 | say "$1-status"
systemd-sysext --no-pager --no-legend list 2>&1 | say "$1-list"
systemd-confext --no-pager --no-legend status 2>&1 | say "$1-confext"
cat /etc/iofs-site 2>&1 | say "$1-site"
[ -x /usr/sbin/debugfs ] && echo yes | say "$1-debugfs"
(word=$1; set -- /usr/lib/firmware/*.bin; echo "$# files" | say "$word-firmware")
systemctl is-active systemd-sysext.service 2>&1 | say "$1-service"
"#;

/// A unit that calls it, with `word`.
fn unit(word: &str, ordering: &str) -> String {
    format!(
        "[Unit]\n{ordering}\n[Service]\nType=oneshot\nExecStart=/usr/libexec/iofs-check {word}\n"
    )
}

/// Extensions, and the key that signs them.
struct Maker<'g> {
    ground: &'g Ground,
    dir: PathBuf,
    key: Key,
    /// Whom the extensions are for.
    release: &'static [&'static str],
}

/// dracut calls its images ID=dracut, whatever the distribution is.
const ANY: &[&str] = &["--id", "_any"];
const DEBIAN: &[&str] = &["--id", "debian", "--version-id", "13"];

impl<'g> Maker<'g> {
    fn new(
        ground: &'g Ground,
        name: &str,
        release: &'static [&'static str],
    ) -> Result<Self, Failed> {
        let dir = ground.dir().join(name);
        fs::create_dir_all(&dir)?;
        Ok(Self {
            ground,
            key: ground.key(&format!("{name}-key"), "p256")?,
            dir,
            release,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.raw"))
    }

    /// `build-extension` of a tree.
    fn build(&self, name: &str, kind: &str, tree: &Path) -> Result<PathBuf, Failed> {
        let file = self.file(name);
        command::output(
            Command::new(self.ground.dist.join("initoverlayfs"))
                .args(["build-extension", "--name", name, "--kind", kind])
                .args(self.release)
                .args(["--scope", "initrd,system", "--root"])
                .arg(tree)
                .args(self.signing())
                .arg("--output")
                .arg(&file),
        )?;
        Ok(file)
    }

    fn signing(&self) -> [&std::ffi::OsStr; 4] {
        [
            "--key".as_ref(),
            self.key.key.as_os_str(),
            "--certificate".as_ref(),
            self.key.certificate.as_os_str(),
        ]
    }

    /// One of the examples.
    fn example(&self, name: &str, from: &Path) -> Result<PathBuf, Failed> {
        let file = self.file(name);
        command::output(
            Command::new(guest::workspace().join("examples/extensions").join(name))
                .env("INITOVERLAYFS", self.ground.dist.join("initoverlayfs"))
                .arg(from)
                .arg(&file)
                .args(self.signing()),
        )?;
        Ok(file)
    }

    /// Firmware that nobody asks for and that does not compress.
    fn firmware(&self) -> Result<PathBuf, Failed> {
        let folder = self.dir.join("firmware");
        fs::create_dir_all(&folder)?;
        for number in 0..FIRMWARE_MIB {
            let mut random = Read::take(File::open("/dev/urandom")?, 1 << 20);
            let mut file = File::create(folder.join(format!("{number}.bin")))?;
            io::copy(&mut random, &mut file)?;
        }
        let file = self.example("firmware", &folder)?;
        fs::remove_dir_all(folder)?;
        Ok(file)
    }

    /// A sysext with the check, and what starts it.
    fn check(&self) -> Result<PathBuf, Failed> {
        let tree = self.dir.join("check");
        let units = tree.join("usr/lib/systemd/system");
        let program = tree.join("usr/libexec/iofs-check");
        for folder in [
            "usr/libexec",
            "usr/bin",
            "usr/lib/systemd/system/initrd.target.wants",
            "usr/lib/systemd/system/sysinit.target.wants",
            "usr/lib/systemd/system/multi-user.target.wants",
        ] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::write(&program, CHECK)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        symlink("systemd-sysext", tree.join("usr/bin/systemd-confext"))?;
        let initrd = "ConditionPathExists=/etc/initrd-release";
        let not_initrd = "ConditionPathExists=!/etc/initrd-release";
        let early = format!(
            "{not_initrd}\nDefaultDependencies=no\nAfter=local-fs.target\n\
             Before=systemd-sysext.service"
        );
        for (name, word, target, ordering) in [
            ("iofs-initrd", "initrd", "initrd.target", initrd),
            ("iofs-early", "early", "sysinit.target", &*early),
            ("iofs-late", "late", "multi-user.target", not_initrd),
        ] {
            let service = format!("{name}.service");
            fs::write(units.join(&service), unit(word, ordering))?;
            let wants = units.join(format!("{target}.wants"));
            symlink(format!("../{service}"), wants.join(&service))?;
        }
        // Debian leaves it to the administrator whether it runs.
        symlink(
            "../systemd-sysext.service",
            units.join("sysinit.target.wants/systemd-sysext.service"),
        )?;
        self.build("check", "sysext", &tree)
    }

    /// A sysext of one file below /opt, which the image may not have.
    fn other(&self) -> Result<PathBuf, Failed> {
        let tree = self.dir.join("other");
        fs::create_dir_all(tree.join("opt"))?;
        fs::create_dir_all(tree.join("usr/share"))?;
        fs::write(tree.join("opt/iofs-other"), "other\n")?;
        fs::write(tree.join("usr/share/iofs-other"), "other\n")?;
        self.build("other", "sysext", &tree)
    }

    fn site(&self) -> Result<PathBuf, Failed> {
        let tree = self.dir.join("site");
        fs::create_dir_all(tree.join("etc"))?;
        fs::write(tree.join("etc/iofs-site"), "site\n")?;
        self.build("site", "confext", &tree)
    }

    /// A copy of an extension with a byte that is not what was signed.
    fn tampered(&self, of: &Path) -> Result<PathBuf, Failed> {
        let file = self.file("tampered");
        let mut bytes = fs::read(of)?;
        let ddi = ddi::Ddi::read(&bytes[..], ddi::Arch::NATIVE)?;
        let at = usize::try_from(ddi.root.start)? + 1024;
        bytes[at] ^= 1;
        fs::write(&file, bytes)?;
        Ok(file)
    }
}

/// Files for the folder beside the image's.
fn beside(image: &str, files: &[PathBuf]) -> Vec<Entry> {
    let folder = image.rsplit_once('/').map_or("", |(folder, _)| folder);
    let folder = folder.trim_start_matches('/');
    files
        .iter()
        .map(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            Entry::new(&format!("{folder}/extensions/{name}"), file)
        })
        .collect()
}

/// A fact of one line or several.
fn says(outcome: &Outcome, name: &str, wanted: &[&str]) -> Result<(), Failed> {
    let found = facts(outcome, name);
    let has = |part: &&str| found.iter().any(|line| line.contains(*part));
    if found.is_empty() || !wanted.iter().all(has) {
        return Err(fail(
            outcome,
            &format!("{name} is {found:?}, not {wanted:?}"),
        ));
    }
    Ok(())
}

/// What the record says of each: name and state.
fn record(outcome: &Outcome) -> Result<Vec<(String, String)>, Failed> {
    let text = facts(outcome, "boot-json").join("\n");
    let record: Value =
        serde_json::from_str(&text).map_err(|e| fail(outcome, &format!("boot.json: {e}")))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let extensions = record["extensions"].as_array().cloned();
    Ok(extensions
        .unwrap_or_default()
        .iter()
        .map(|one| (text(&one["name"]), text(&one["state"])))
        .collect())
}

fn states(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
        .collect()
}

/// dracut's image with the recovery tools, 300 MiB of firmware and a confext, and one
/// that was tampered with. systemd-sysext, which comes with the recovery tools, lists and
/// shows them; the system that is booted then has none of it.
fn initrd(ground: &Ground) -> Result<(), Failed> {
    let maker = Maker::new(ground, "extended-initrd", ANY)?;
    let tools = maker.example("recovery-tools", &ground.guest.tree())?;
    let tampered = maker.tampered(&tools)?;
    let files = [
        tools,
        maker.firmware()?,
        maker.check()?,
        maker.site()?,
        tampered,
    ];
    let certificate = maker.key.certificate.display().to_string();
    let set = Recipe {
        dist: &ground.dist,
        guest: &ground.guest,
        initrd: &ground.guest.dracut_initrd(),
        modules: "virtio-blk",
        options: &["--extension-certificate", &certificate],
    }
    .build(&maker.dir.join("set"))?;
    let image = set.image_path.clone().unwrap_or_default();
    let path = maker.dir.join("disk.img");
    set.disk_with(&path, &ground.guest, 512, beside(&image, &files))?;
    let disk = Disk::scratch(&path, Bus::VirtioBlk);
    let append = "iofs-test.facts=mounts,boot-json,failed,devices";
    let outcome = ground.boot(&set.mini_initramfs(), disk, append)?;
    fs::remove_file(&path)?;
    expect(&outcome, guest::REACHED)?;
    expect(
        &outcome,
        "[stage extensions] 4 of 5 merged into /usr /etc; sysext check, signed by ",
    )?;
    expect(
        &outcome,
        "extension tampered is not merged: it is not a trusted image: bytes ",
    )?;
    let all = ["check", "firmware", "recovery-tools"];
    says(&outcome, "initrd-status", &all)?;
    says(&outcome, "initrd-list", &all)?;
    says(&outcome, "initrd-confext", &["/etc", "site"])?;
    says(&outcome, "initrd-site", &["site"])?;
    says(&outcome, "initrd-debugfs", &["yes"])?;
    says(
        &outcome,
        "initrd-firmware",
        &[&format!("{FIRMWARE_MIB} files")],
    )?;
    let expected = [
        ("tampered", "refused"),
        ("check", "merged"),
        ("firmware", "merged"),
        ("recovery-tools", "merged"),
        ("site", "merged"),
    ];
    if record(&outcome)? != states(&expected) {
        return Err(fail(
            &outcome,
            "the record says something else of the extensions",
        ));
    }
    for name in ["mount", "loop", "dm"] {
        let found = facts(&outcome, name);
        let left = |line: &&&str| line.contains("ext-") || line.contains("sysext");
        if let Some(line) = found.iter().find(left) {
            return Err(fail(&outcome, &format!("left in the system: {line}")));
        }
    }
    match facts(&outcome, "failed").first() {
        Some(unit) => Err(fail(&outcome, &format!("a unit failed: {unit}"))),
        None => Ok(()),
    }
}

/// Debian itself as the image, which stays, with three sysexts, of which one was tampered
/// with, and a confext. What is merged before systemd begins is what
/// `systemd-sysext.service` merges again when it refreshes them at boot: nothing changes.
fn system(ground: &Ground) -> Result<(), Failed> {
    let maker = Maker::new(ground, "extended-system", DEBIAN)?;
    let check = maker.check()?;
    let files = [
        check.clone(),
        maker.other()?,
        maker.site()?,
        maker.tampered(&check)?,
    ];
    let path = |name: &str| maker.dir.join(name);
    let mut request = ImageRequest::new(Source::Root(ground.guest.tree()), path("image.raw"));
    request.compression = ImageCompression::None;
    request.run_init = Some(ground.dist.join("run-init"));
    request.work_dir = Some(maker.dir.clone());
    let image = builder::build_image(&request, &Silent)?;
    let kernel = Kernel {
        release: ground.guest.kernel_release().to_owned(),
        sysroot: ground.guest.tree(),
        modules_dir: None,
    };
    let file = "/debian/13/image.raw";
    let certificate = TrustedCertificate::read(&maker.key.certificate)?;
    let mut mini = MiniRequest::new(path("mini"), ground.dist.join("storage-init"), kernel);
    mini.modules = Modules::Drivers(vec!["virtio-blk".to_owned(), "virtio-pci".to_owned()]);
    mini.product = image.summary.product.clone();
    mini.auth = Auth::Sealed(image.root_hash.ok_or("the image has no root hash")?);
    mini.stage = Stage::System;
    mini.inits = vec!["/sbin/init".to_owned()];
    mini.on_failure = OnFailure::PowerOff;
    mini.candidates = vec![Candidate {
        name: "esp".to_owned(),
        partition: Selector::TypeGuid(types::ESP),
        file: Some(file.to_owned()),
        expect: Expect::default(),
    }];
    mini.extensions = Some(Extensions {
        certificates: vec![certificate.der().to_vec()],
        sealed: Vec::new(),
    });
    builder::build_mini(&mini, &Silent)?;
    let mut entries = beside(file, &files);
    entries.push(Entry::new(file.trim_start_matches('/'), path("image.raw")));
    let disk = ground.esp_disk(&path("disk.img"), &entries)?;
    fs::remove_file(path("image.raw"))?;
    let mut machine = Machine::new(
        qemu_driver::Arch::X86_64,
        ground.accel(),
        qemu_driver::Boot::Direct {
            kernel: ground.guest.kernel(),
            initrd: Some(path("mini")),
            append: format!("{CONSOLE} iofs-test.facts=mounts,boot-json,failed"),
        },
    );
    machine.disks.push(disk);
    let outcome = run(&machine)?;
    fs::remove_file(path("disk.img"))?;
    expect(&outcome, guest::REACHED)?;
    for when in ["early", "late"] {
        let status = ["/opt", "/usr", "check", "other"];
        says(&outcome, &format!("{when}-status"), &status)?;
        let list = ["/run/extensions/check", "/run/extensions/other"];
        says(&outcome, &format!("{when}-list"), &list)?;
        says(&outcome, &format!("{when}-confext"), &["/etc", "site"])?;
        says(&outcome, &format!("{when}-site"), &["site"])?;
    }
    says(&outcome, "early-service", &["inactive"])?;
    says(&outcome, "late-service", &["active"])?;
    let expected = [
        ("tampered", "refused"),
        ("check", "merged"),
        ("other", "merged"),
        ("site", "merged"),
    ];
    if record(&outcome)? != states(&expected) {
        return Err(fail(
            &outcome,
            "the record says something else of the extensions",
        ));
    }
    match facts(&outcome, "failed").first() {
        Some(unit) => Err(fail(&outcome, &format!("a unit failed: {unit}"))),
        None => Ok(()),
    }
}
