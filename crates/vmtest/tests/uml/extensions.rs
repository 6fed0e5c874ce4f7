//! Extensions: proven, matched, merged over the image; or refused by name, and the
//! boot goes on.

use std::fs;
use std::path::{Path, PathBuf};

use builder::{
    Container, ExtensionKind, ExtensionRequest, Extensions, KeyType, RootHash, Selector, Signer,
    Silent, Stage,
};
use ddi::{Arch, Ddi};
use iofs_cpio::NewEntry;
use libtest_mimic::Failed;
use vmtest::disk::{Entry, Partition, fat};

use crate::Test;
use crate::appended::{append, archive};
use crate::record::{PATHS, STOP};
use crate::support::{
    Boot, FILE_ON_VOLUME, FIRST, Ground, Image, Seen, TYPE, noise, on_esp, partition_at, sum,
};
use crate::trust::Key;
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("extensions_are_merged_before_the_init", merged),
    Test::new("a_record_has_what_is_opened_below_extensions", recorded),
    Test::new("extensions_on_ext4_in_pieces", scattered),
    Test::new("extensions_that_are_not_right_are_refused_by_name", refused),
    Test::new(
        "extensions_that_are_tampered_with_later_fail_to_read",
        tampered_later,
    ),
    Test::new("extensions_of_extra_are_storage_inits", extra),
    Test::new(
        "extensions_of_extra_beside_an_image_in_partitions",
        partition,
    ),
    Test::new("extensions_of_a_system_stay_listed", system),
    Test::new("extensions_without_a_plan_for_them", unplanned),
    Test::new("extensions_beyond_sixteen_are_left_out", many),
];

/// Where the extensions of the usual image lie.
const FOLDER: &str = "EFI/initoverlayfs/extensions";

/// What an extension is made of.
struct Extension<'a> {
    name: &'a str,
    kind: ExtensionKind,
    release: &'a str,
    files: &'a [(&'a str, &'a [u8])],
}

const FITS: &str =
    "ID=test\nVERSION_ID=1\nSYSEXT_SCOPE=\"initrd system\"\nCONFEXT_SCOPE=\"initrd system\"\n";

fn sysext<'a>(name: &'a str, files: &'a [(&'a str, &'a [u8])]) -> Extension<'a> {
    Extension {
        name,
        kind: ExtensionKind::Sysext,
        release: FITS,
        files,
    }
}

fn confext<'a>(name: &'a str, files: &'a [(&'a str, &'a [u8])]) -> Extension<'a> {
    Extension {
        kind: ExtensionKind::Confext,
        ..sysext(name, files)
    }
}

impl Extension<'_> {
    /// Builds it in `dir`; its file and root hash.
    fn build(&self, dir: &Path, signer: Option<&Signer>) -> (PathBuf, RootHash) {
        let tree = dir.join(format!("{}.{}.tree", self.name, self.kind.name()));
        fs::create_dir_all(&tree).unwrap();
        for (path, bytes) in self.files {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let output = dir.join(format!("{}.{}.raw", self.name, self.kind.name()));
        let mut request = ExtensionRequest::new(tree, self.kind, self.name, output.clone());
        request.release = self.release.to_owned();
        request.signer = signer.cloned();
        request.work_dir = Some(dir.to_owned());
        let built = builder::build_extension(&request, &Silent).unwrap();
        (output, built.root_hash)
    }
}

/// A key that the plan trusts for extensions, and a folder to build in.
struct Maker {
    dir: tempfile::TempDir,
    key: Key,
    sealed: Vec<RootHash>,
    /// The files, by the name that they get.
    files: Vec<(String, PathBuf)>,
}

impl Maker {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new(dir.path(), "extender", KeyType::P256);
        Self {
            dir,
            key,
            sealed: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Adds a signed one as `NAME.raw`.
    fn signed(&mut self, extension: &Extension<'_>) -> &Path {
        let (path, _) = extension.build(self.dir.path(), Some(&self.key.signer));
        self.add(&format!("{}.raw", extension.name), path)
    }

    /// Adds one without a signature that the plan seals.
    fn sealed(&mut self, extension: &Extension<'_>) {
        let (path, root) = extension.build(self.dir.path(), None);
        self.sealed.push(root);
        self.add(&format!("{}.raw", extension.name), path);
    }

    fn add(&mut self, name: &str, path: PathBuf) -> &Path {
        self.files.push((name.to_owned(), path));
        &self.files.last().unwrap().1
    }

    /// Changes the bytes of one.
    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>, &Ddi)) {
        let (_, path) = self.files.iter().find(|(file, _)| file == name).unwrap();
        let mut bytes = fs::read(path).unwrap();
        let ddi = Ddi::read(&bytes[..], Arch::NATIVE).unwrap();
        change(&mut bytes, &ddi);
        fs::write(path, bytes).unwrap();
    }

    fn plan(&self) -> Option<Extensions> {
        Some(Extensions {
            certificates: vec![self.key.signer.certificate().der().to_vec()],
            sealed: self.sealed.clone(),
        })
    }

    /// The image and the extensions for a volume.
    fn entries(&self, image: &Image) -> Vec<Entry> {
        let mut entries = vec![Entry::new(FILE_ON_VOLUME, &image.path)];
        for (name, path) in &self.files {
            entries.push(Entry::new(&format!("{FOLDER}/{name}"), path));
        }
        entries
    }

    /// A boot of the usual proven image on FAT32 with these beside it.
    fn boot<'g>(&self, ground: &'g Ground) -> Boot<'g> {
        let image = ground.proven();
        let mut boot = Boot::trusting(ground, image, image.sealed(), &[on_esp()]);
        boot.mini.extensions = self.plan();
        let entries = self.entries(image);
        boot.esp_with(&image.path, |volume, _| {
            fat::make(volume, fat::Format::new(256 << 20), &entries).unwrap();
        });
        boot
    }
}

const JSON: &str = "/run/initoverlayfs/boot.json";

/// What the record says of extensions, without the reasons. It is a longer line than
/// the kernel's log has.
fn record(seen: &Seen) -> Vec<(String, String, String)> {
    let json: serde_json::Value = serde_json::from_str(&seen.facts(JSON).concat()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("null").to_owned();
    json["extensions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(&one["name"]), text(&one["kind"]), text(&one["state"])))
        .collect()
}

fn row(name: &str, kind: &str, state: &str) -> (String, String, String) {
    (name.to_owned(), kind.to_owned(), state.to_owned())
}

/// Three of one kind and one of the other, one of them tampered with: the rest is
/// merged, in the order of versions, the last one on top, read-only, with the record
/// by which systemd-sysext knows the mount.
fn merged(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    let data = noise(300_000, 11);
    maker.signed(&sysext(
        "tools-9",
        &[
            ("usr/bin/who", b"nine\n"),
            ("usr/share/nine", b"nine\n"),
            ("opt/vendor/x", b"x\n"),
        ],
    ));
    maker.signed(&sysext(
        "tools-10",
        &[("usr/bin/who", b"ten\n"), ("usr/share/data", &data)],
    ));
    maker.signed(&sysext("bad", &[("usr/share/bad", b"bad\n")]));
    maker.sealed(&confext("site", &[("etc/site.conf", b"site\n")]));
    maker.change("bad.raw", |bytes, ddi| {
        bytes[usize::try_from(ddi.root.start).unwrap() + 1024] ^= 1;
    });
    let mut boot = maker.boot(ground);
    let seen = boot
        .words("testinit.cat=/usr/bin/who testinit.cat=/usr/share/nine testinit.cat=/opt/vendor/x")
        .words("testinit.sum=/usr/share/data testinit.cat=/etc/site.conf")
        .words("testinit.cat=/etc/os-release testinit.list=/usr/share")
        .words("testinit.cat=/usr/.systemd-sysext/extensions testinit.cat=/usr/.systemd-sysext/dev")
        .words("testinit.cat=/etc/.systemd-confext/confexts testinit.cat=/proc/mounts")
        .words("testinit.list=/var/lib/extensions testinit.list=/var/lib/confexts")
        .words("testinit.list=/run testinit.sum=/data")
        .words(&format!("testinit.cat={JSON}"))
        .succeeds();
    seen.data_is_intact();
    assert_eq!(seen.fact("/usr/bin/who"), "ten");
    assert_eq!(seen.fact("/usr/share/nine"), "nine");
    assert_eq!(seen.fact("/opt/vendor/x"), "x");
    assert_eq!(seen.fact("/usr/share/data"), sum(&data));
    assert_eq!(seen.fact("/etc/site.conf"), "site");
    // What the image has itself is still there.
    assert_eq!(seen.facts("/etc/os-release")[0], "ID=test");
    assert_eq!(seen.facts("/usr/share"), ["data", "nine"]);
    assert_eq!(
        seen.facts("/usr/.systemd-sysext/extensions"),
        ["tools-9", "tools-10"]
    );
    assert_eq!(seen.facts("/etc/.systemd-confext/confexts"), ["site"]);
    let mounts = seen.facts("/proc/mounts");
    let of = |target: &str| {
        let found = mounts
            .iter()
            .find(|line| line.split(' ').nth(1) == Some(target));
        found.unwrap_or_else(|| seen.lacks(target)).clone()
    };
    assert!(
        of("/usr").starts_with("sysext /usr overlay ro,nodev,"),
        "{mounts:?}"
    );
    assert!(
        of("/opt").starts_with("sysext /opt overlay ro,nodev,"),
        "{mounts:?}"
    );
    assert!(
        of("/etc").starts_with("confext /etc overlay ro,nosuid,nodev,noexec,"),
        "{mounts:?}"
    );
    // Listed in the initrd's own root, and nowhere that outlives it.
    assert_eq!(seen.facts("/var/lib/extensions"), ["tools-10", "tools-9"]);
    assert_eq!(seen.facts("/var/lib/confexts"), ["site"]);
    assert!(
        of("/var/lib/extensions/tools-9").contains(" erofs ro,nodev,"),
        "{mounts:?}"
    );
    assert_eq!(seen.facts("/run"), ["initoverlayfs"]);
    assert!(seen.fact("/usr/.systemd-sysext/dev").starts_with("0:"));
    seen.expects("extension bad is not merged: it is not a trusted image: bytes ");
    seen.expects(
        "[stage extensions] 3 of 4 merged into /usr /opt /etc; sysext tools-9, signed by CN=extender; \
         sysext tools-10, signed by CN=extender; confext site, sealed in the boot plan",
    );
    assert_eq!(
        record(&seen),
        [
            row("bad", "null", "refused"),
            row("tools-9", "sysext", "merged"),
            row("tools-10", "sysext", "merged"),
            row("site", "confext", "merged"),
        ]
    );
    Ok(())
}

/// Files of the image are opened through the merged overlays then.
fn recorded(ground: &Ground) -> Result<(), Failed> {
    let own = noise(40_000, 13);
    let image = ground.build_image_in(
        "recorded",
        Container::default(),
        &|tree| {
            fs::create_dir_all(tree.join("usr/share")).unwrap();
            fs::write(tree.join("usr/share/own"), &own).unwrap();
            fs::write(tree.join("usr/share/both"), "the image's\n").unwrap();
            fs::write(tree.join("etc/own.conf"), "own\n").unwrap();
            fs::write(tree.join("etc/unread.conf"), "unread\n").unwrap();
        },
        |request| request,
    );
    let mut maker = Maker::new();
    let files: &[(&str, &[u8])] = &[("usr/share/both", b"the extension's\n")];
    maker.signed(&sysext("tools", files));
    maker.signed(&confext("site", &[("etc/site.conf", b"site\n")]));
    let mut boot = Boot::trusting(ground, &image, image.sealed(), &[on_esp()]);
    boot.mini.extensions = maker.plan();
    let entries = maker.entries(&image);
    boot.esp_with(&image.path, |volume, _| {
        fat::make(volume, fat::Format::new(256 << 20), &entries).unwrap();
    });
    let seen = boot
        .words("initoverlayfs.profile=fanotify testinit.cat=/usr/share/both")
        .words("testinit.sum=/usr/share/own testinit.cat=/etc/own.conf testinit.cat=/etc/site.conf")
        .words(&format!("testinit.write={STOP} testinit.whole={PATHS}"))
        .words(&format!("testinit.cat={PATHS}"))
        .succeeds();
    seen.rejects("cannot trace");
    assert_eq!(seen.fact("/usr/share/both"), "the extension's");
    assert_eq!(seen.fact("/usr/share/own"), sum(&own));
    let lines = seen.facts(PATHS);
    assert!(lines[0].ends_with(" init"), "{lines:?}");
    assert_eq!(
        lines[1..],
        ["0+10 usr/share/own", "0+1 etc/own.conf", "end"]
    );
    Ok(())
}

/// dm-linear puts a file in pieces together, as it does for the image.
fn scattered(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    let data = noise(700_000, 12);
    maker.signed(&sysext("tools", &[("usr/share/data", &data)]));
    let image = ground.proven();
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[on_esp()]);
    boot.mini.extensions = maker.plan();
    let mut entries = maker.entries(image);
    let last = entries.pop().unwrap();
    entries.push(Entry::fragmented(&last.to, last.from));
    boot.esp_with(&image.path, |volume, _| {
        volumes::ext4_of(volume, 64 << 20, &entries);
    });
    let seen = boot
        .words("testinit.sum=/usr/share/data testinit.stacked testinit.sum=/data")
        .succeeds();
    assert_eq!(seen.fact("/usr/share/data"), sum(&data));
    seen.data_is_intact();
    // The image: dm-verity on loop; the extension: dm-verity on dm-linear on loop.
    assert_eq!(seen.fact("stacked"), "dm-0 dm-1 dm-2 loop0 loop1");
    seen.expects("[stage extensions] 1 of 1 merged into /usr; sysext tools, ");
    Ok(())
}

/// Each is refused for its own reason, and all that is right is merged.
fn refused(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    let files: &[(&str, &[u8])] = &[("usr/share/x", b"x\n")];
    let with = |name, release| Extension {
        release,
        ..sysext(name, files)
    };
    let dir = maker.dir.path().to_owned();
    // Not signed, and by somebody else.
    let (unsigned, _) = sysext("unsigned", files).build(&dir, None);
    maker.add("unsigned.raw", unsigned);
    let stranger = Key::new(&dir, "stranger", KeyType::P256);
    let (foreign, _) = sysext("foreign", files).build(&dir, Some(&stranger.signer));
    maker.add("foreign.raw", foreign);
    // Not for this image.
    maker.signed(&with("id", "ID=other\nSYSEXT_SCOPE=initrd\n"));
    maker.signed(&with(
        "version",
        "ID=test\nVERSION_ID=2\nSYSEXT_SCOPE=initrd\n",
    ));
    maker.signed(&with("scope", "ID=test\nVERSION_ID=1\n"));
    maker.signed(&with(
        "arch",
        "ID=_any\nARCHITECTURE=s390x\nSYSEXT_SCOPE=initrd\n",
    ));
    // A right one under another name, one that is called what it is not, rubbish, and
    // a file that ends too soon.
    let right = maker.signed(&sysext("right", &[("usr/share/right", b"right\n")]));
    let right = right.to_owned();
    maker.add("renamed.raw", right.clone());
    maker.add("right.confext.raw", right.clone());
    let rubbish = dir.join("rubbish");
    fs::write(&rubbish, noise(100_000, 3)).unwrap();
    maker.add("rubbish.raw", rubbish);
    let short = dir.join("short");
    let bytes = fs::read(&right).unwrap();
    fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    maker.add("short.raw", short);
    let empty = dir.join("empty");
    fs::write(&empty, b"").unwrap();
    maker.add("empty.raw", empty);
    maker.add("a b.raw", right);
    let mut boot = maker.boot(ground);
    let seen = boot
        .words("testinit.list=/usr/share testinit.sum=/data testinit.stacked")
        .words(&format!("testinit.cat={JSON}"))
        .succeeds();
    seen.data_is_intact();
    assert_eq!(seen.facts("/usr/share"), ["right"]);
    for (name, why) in [
        (
            "extension unsigned",
            "it is not a trusted image: it is not signed, and not sealed in the boot plan",
        ),
        (
            "extension foreign",
            "the signature of its root hash does not hold: ",
        ),
        (
            "extension id",
            "it is for ID=\"other\", and the image has ID=\"test\" (as it says; nothing of it",
        ),
        (
            "extension version",
            "it is for VERSION_ID=\"2\", and the image has VERSION_ID=\"1\"",
        ),
        (
            "extension scope",
            "SYSEXT_SCOPE=\"system portable\" does not have the word initrd",
        ),
        ("extension arch", "it is for s390x, and this machine is "),
        ("extension renamed", "it has no extension-release.renamed"),
        (
            "confext right",
            "it has no etc/extension-release.d/extension-release.right",
        ),
        ("extension rubbish", "it is not a trusted image: "),
        ("extension short", "it is not a trusted image: "),
        ("extension empty", "it is not a trusted image: "),
        ("extension a b.raw", "its name has other than letters"),
    ] {
        let line = format!("{name} is not merged: ");
        match seen.outcome.find(&line) {
            Some(found) if found.text.contains(why) => {}
            _ => seen.lacks(&format!("{line}{why}")),
        }
    }
    let record = record(&seen);
    assert_eq!(record.len(), 13, "{record:?}");
    let merged: Vec<_> = record.iter().filter(|row| row.2 == "merged").collect();
    assert_eq!(merged, [&row("right", "sysext", "merged")]);
    // Of those that were refused nothing is left: the image's two devices, and those
    // of the one that is merged.
    assert_eq!(seen.fact("stacked").split(' ').count(), 4);
    Ok(())
}

/// dm-verity holds for an extension as long as it is in use, and a bad block of one
/// fails to read, whatever the plan has for the image.
fn tampered_later(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    let data = noise(300_000, 13);
    maker.signed(&sysext(
        "tools",
        &[("usr/share/data", &data), ("usr/share/fine", b"fine\n")],
    ));
    maker.change("tools.raw", |bytes, _| {
        let what = &data[200_000..200_064];
        let at = bytes.windows(64).position(|window| window == what).unwrap();
        bytes[at] ^= 1;
    });
    let mut boot = maker.boot(ground);
    boot.mini.on_corruption = builder::OnCorruption::Panic;
    let seen = boot
        .words("testinit.sum=/usr/share/data testinit.cat=/usr/share/fine")
        .run();
    let failed = seen.fact("failed");
    assert!(failed.contains("input/output error (EIO)"), "{failed}");
    assert_eq!(seen.fact("/usr/share/fine"), "fine");
    Ok(())
}

/// An archive as systemd-stub makes one of an extension on the ESP.
fn companion(folder: &str, name: &str, bytes: &[u8]) -> Vec<u8> {
    let folder = format!(".extra/{folder}");
    archive(&[
        NewEntry::directory(".extra", 0o555),
        NewEntry::directory(folder.as_str(), 0o555),
        NewEntry::file(format!("{folder}/{name}").as_str(), 0o444, bytes),
    ])
}

/// What systemd-stub passes is proven and merged as what lies beside the image, and
/// does not go into the new root. What is there twice counts once.
fn extra(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    maker.signed(&sysext("beside", &[("usr/share/beside", b"beside\n")]));
    let dir = maker.dir.path().join("companions");
    fs::create_dir(&dir)?;
    let build = |extension: &Extension<'_>, signer| {
        let (path, _) = extension.build(&dir, signer);
        fs::read(path).unwrap()
    };
    let signer = Some(&maker.key.signer);
    let local = build(&sysext("local", &[("usr/share/local", b"local\n")]), signer);
    let global = build(&confext("global", &[("etc/global", b"global\n")]), signer);
    let twice = build(
        &sysext("beside", &[("usr/share/twice", b"twice\n")]),
        signer,
    );
    let unsigned = build(&sysext("unsigned", &[("usr/share/u", b"u\n")]), None);
    let mut boot = maker.boot(ground);
    append(
        &mut boot,
        vec![
            companion("sysext", "local.sysext.raw", &local),
            companion("sysext", "unsigned.raw", &unsigned),
            companion("sysext", "beside.sysext.raw", &twice),
            companion("global_confext", "global.raw", &global),
            companion("credentials", "c.cred", b"credential\n"),
        ],
    );
    let seen = boot
        .words("testinit.list=/usr/share testinit.cat=/etc/global testinit.cat=/usr/share/local")
        .words("testinit.list=/.extra testinit.sum=/data")
        .succeeds();
    seen.data_is_intact();
    assert_eq!(seen.facts("/usr/share"), ["beside", "local"]);
    assert_eq!(seen.fact("/etc/global"), "global");
    assert_eq!(seen.fact("/usr/share/local"), "local");
    assert_eq!(seen.facts("/.extra"), ["credentials"]);
    seen.expects("sysext unsigned is not merged: it is not a trusted image: it is not signed");
    seen.expects("sysext beside is not merged: another of that name is there already");
    Ok(())
}

/// Beside an image that is no file there is no folder; those of systemd-stub are taken.
fn partition(ground: &Ground) -> Result<(), Failed> {
    let maker = Maker::new();
    let tools = sysext("tools", &[("usr/share/tools", b"tools\n")]);
    let (path, _) = tools.build(maker.dir.path(), Some(&maker.key.signer));
    let image = ground.proven();
    let place = partition_at("partition", Selector::PartUuid(FIRST));
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[place]);
    boot.mini.extensions = maker.plan();
    boot.disk(&[Partition::of(TYPE, FIRST, "image", &image.path).unwrap()]);
    let bytes = fs::read(path).unwrap();
    append(&mut boot, vec![companion("sysext", "tools.raw", &bytes)]);
    let seen = boot
        .words("testinit.cat=/usr/share/tools testinit.sum=/data")
        .succeeds();
    assert_eq!(seen.fact("/usr/share/tools"), "tools");
    seen.data_is_intact();
    Ok(())
}

/// The image is the system: its extensions have the word for that, and their mounts lie
/// where systemd-sysext looks after the root's own /var is mounted, too.
fn system(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    maker.signed(&sysext("tools", &[("usr/share/tools", b"tools\n")]));
    maker.signed(&Extension {
        release: "ID=test\nVERSION_ID=1\nSYSEXT_SCOPE=initrd\n",
        ..sysext("rescue", &[("usr/share/rescue", b"rescue\n")])
    });
    let mut boot = maker.boot(ground);
    boot.mini.stage = Stage::System;
    let seen = boot
        .words("testinit.list=/usr/share testinit.list=/run/extensions")
        .words("testinit.cat=/run/extensions/tools/usr/share/tools")
        .succeeds();
    assert_eq!(seen.facts("/usr/share"), ["tools"]);
    assert_eq!(seen.facts("/run/extensions"), ["tools"]);
    assert_eq!(seen.fact("/run/extensions/tools/usr/share/tools"), "tools");
    seen.expects(
        "extension rescue is not merged: SYSEXT_SCOPE=\"initrd\" does not have the word system",
    );
    Ok(())
}

/// Without the plan's word nobody looks, and what systemd-stub passes goes on as ever.
fn unplanned(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    let tools = sysext("tools", &[("usr/share/tools", b"tools\n")]);
    let bytes = fs::read(maker.signed(&tools)).unwrap();
    let mut boot = maker.boot(ground);
    boot.mini.extensions = None;
    append(&mut boot, vec![companion("sysext", "tools.raw", &bytes)]);
    let seen = boot
        .words("testinit.list=/.extra/sysext testinit.cat=/proc/mounts")
        .words(&format!("testinit.cat={JSON}"))
        .succeeds();
    assert_eq!(seen.facts("/.extra/sysext"), ["tools.raw"]);
    seen.rejects("[stage extensions]");
    seen.rejects("TESTINIT /proc/mounts: sysext ");
    assert!(record(&seen).is_empty());
    Ok(())
}

/// A folder that lists more than a boot takes.
fn many(ground: &Ground) -> Result<(), Failed> {
    let mut maker = Maker::new();
    let tools = sysext("tools-1", &[("usr/share/tools", b"tools\n")]);
    let path = maker.signed(&tools).to_owned();
    for number in 2..=40 {
        maker.add(&format!("tools-{number}.raw"), path.clone());
    }
    let mut boot = maker.boot(ground);
    let seen = boot.words("testinit.cat=/usr/share/tools").succeeds();
    assert_eq!(seen.fact("/usr/share/tools"), "tools");
    seen.expects(
        "/EFI/initoverlayfs/extensions has 24 more extensions than the 16 that a boot takes",
    );
    seen.expects("extension tools-16 is not merged: it has no extension-release.tools-16");
    seen.rejects("tools-17");
    Ok(())
}
