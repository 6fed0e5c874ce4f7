//! Images in partitions. The disks are files with a real GPT, which sfdisk made
//! and changes; veritysetup and the reader of this project say what is on them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use ddi::write::{Image, Options as ImageOptions};
use ddi::{Arch, Ddi, Role, RootHash, Signature, signature_part_uuid};
use installer::manifest::{Artefact, Partition as Selected, Place};
use installer::vfs::{HostVfs, Vfs};
use installer::{
    Action, EntryToken, ErrorKind, FileSource, InstallError, Options, PartitionName, Report,
    Silent, install_with,
};
use iofs_gpt::{Partition, Table, types};
use iofs_source::Window;

use crate::common::{Fault, Faulty, Fixture, Loss};

/// In MiB: an ESP, then two places for an image (file system, hash tree,
/// signature), the first in use.
const SIZES: [(u64, &str); 7] = [
    (1, "esp"),
    (6, "init-a"),
    (1, "hash-a"),
    (1, "sig-a"),
    (6, "init-b"),
    (1, "hash-b"),
    (1, "sig-b"),
];

const READ_ONLY: u64 = 1 << 60;

/// `O_EXCL` (fcntl(2)), the same on every architecture of Linux that we build for.
const EXCL: i32 = 0o200;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("this test needs the program {program}: {e}"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}

/// A file system of more than 128 blocks, so that its tree has two levels.
fn erofs(dir: &Path, words: u32) -> Vec<u8> {
    let tree = dir.join("erofs-tree");
    fs::create_dir(&tree).unwrap();
    let noise: Vec<u8> = (0..words)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9).rotate_left(7).to_le_bytes())
        .collect();
    fs::write(tree.join("noise"), noise).unwrap();
    let image = dir.join("erofs");
    let (image, tree) = (image.to_str().unwrap(), tree.to_str().unwrap());
    run("mkfs.erofs", &["-T0", image, tree]);
    fs::read(image).unwrap()
}

struct Disk {
    fixture: Fixture,
    root: RootHash,
}

impl Disk {
    /// A signed or sealed set for partitions that are found by PARTUUID.
    fn new(signed: bool) -> Self {
        Self::with_words(signed, 300_000)
    }

    /// The same with so much noise in the image.
    fn with_words(signed: bool, words: u32) -> Self {
        let mut fixture = Fixture::new();
        let out = fixture.set.dir.clone();
        let erofs = erofs(fixture.dir.path(), words);
        let mut image = Image::new(&erofs, ImageOptions::new(Arch::NATIVE), |_| {}).unwrap();
        let root = *image.root_hash();
        if signed {
            image
                .sign(&Signature {
                    root,
                    fingerprint: Some([7; 32]),
                    pkcs7: vec![0x30; 900],
                })
                .unwrap();
        }
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        fs::write(out.join("image.raw"), bytes).unwrap();
        let manifest = &mut fixture.set.manifest;
        manifest.image = Artefact::of(&out, "image.raw").unwrap();
        manifest.auth = if signed { "signed" } else { "sealed" }.into();
        manifest.root_hash = Some(root.to_hex());
        let disk = Self { fixture, root };
        disk.partition();
        let mut disk = disk;
        disk.look_for(Selected::Partuuid(root.data_part_uuid().to_string()));
        disk
    }

    fn look_for(&mut self, partition: Selected) {
        self.fixture.set.manifest.candidates = vec![Place {
            name: "partition".into(),
            partition,
            file: None,
        }];
    }

    /// Makes the disk, and shows it as the kernel would.
    fn partition(&self) {
        let system = &self.fixture.system;
        fs::create_dir(&system.dev).unwrap();
        let disk = self.file();
        fs::File::create(&disk).unwrap().set_len(24 << 20).unwrap();
        let mut script = String::from("label: gpt\n");
        for (mib, name) in SIZES {
            let type_guid = match name {
                "esp" => types::ESP,
                _ => types::LINUX_GENERIC,
            };
            script += &format!("size={mib}MiB, type={type_guid}, name={name}\n");
        }
        let script_file = self.fixture.dir.path().join("script");
        fs::write(&script_file, script).unwrap();
        run(
            "sh",
            &[
                "-c",
                &format!("sfdisk -q {} < {}", disk.display(), script_file.display()),
            ],
        );
        // More than a signature, and little enough to sync often.
        let old = vec![0xa5; 64 << 10];
        let file = fs::File::options().write(true).open(&disk).unwrap();
        for entry in self.entries() {
            file.write_all_at(&old, entry.start).unwrap();
        }

        let device = system.sys.join("devices/vda");
        let class = system.sys.join("class/block");
        fs::create_dir_all(&class).unwrap();
        fs::create_dir_all(device.join("queue")).unwrap();
        fs::write(device.join("queue/logical_block_size"), "512\n").unwrap();
        fs::write(device.join("size"), "49152\n").unwrap();
        symlink(&device, class.join("vda")).unwrap();
        for entry in self.entries() {
            let name = format!("vda{}", entry.number);
            let dir = device.join(&name);
            fs::create_dir(&dir).unwrap();
            for (file, value) in [
                ("partition", u64::from(entry.number)),
                ("start", entry.start / 512),
                ("size", entry.len / 512),
            ] {
                fs::write(dir.join(file), format!("{value}\n")).unwrap();
            }
            fs::write(dir.join("dev"), format!("254:{}\n", entry.number)).unwrap();
            symlink(&dir, class.join(&name)).unwrap();
            fs::write(system.dev.join(&name), "").unwrap();
        }
    }

    fn file(&self) -> PathBuf {
        self.fixture.system.dev.join("vda")
    }

    fn entries(&self) -> Vec<Partition> {
        let source = FileSource::open(&self.file()).unwrap();
        Table::read(&source, 512).unwrap().partitions
    }

    fn entry(&self, number: u32) -> Partition {
        let entries = self.entries();
        let found = entries.iter().find(|entry| entry.number == number);
        found.unwrap().clone()
    }

    fn bytes(&self, number: u32) -> Vec<u8> {
        let entry = self.entry(number);
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap()];
        let file = fs::File::open(self.file()).unwrap();
        file.read_exact_at(&mut bytes, entry.start).unwrap();
        bytes
    }

    fn node(&self, number: u32) -> PartitionName {
        PartitionName::Node(self.fixture.system.dev.join(format!("vda{number}")))
    }

    fn nodes(&self, numbers: &[u32]) -> Vec<PartitionName> {
        numbers.iter().map(|number| self.node(*number)).collect()
    }

    fn attempt(&self, vfs: &dyn Vfs, options: Options) -> Result<Report, InstallError> {
        let fixture = &self.fixture;
        let options = Options {
            esp: Some(fixture.esp()),
            entry_token: EntryToken::Product,
            ..options
        };
        install_with(
            &fixture.system,
            vfs,
            &fixture.root(),
            &fixture.set,
            &options,
            &Silent,
        )
    }

    fn install(&self, names: Vec<PartitionName>) -> Result<Report, InstallError> {
        let options = Options {
            image_partitions: names,
            ..Options::default()
        };
        self.attempt(&no_fault(), options)
    }

    fn refusal(&self, names: Vec<PartitionName>) -> InstallError {
        let before = fs::read(self.file()).unwrap();
        let error = self.install(names).unwrap_err();
        assert!(
            fs::read(self.file()).unwrap() == before,
            "{error}: the disk was changed"
        );
        assert!(!self.fixture.entry().exists(), "{error}");
        assert!(error.hint().is_some(), "{error}");
        error
    }

    /// The whole image is on these partitions, as a boot would find it.
    fn check_image(&self, data: u32, hashes: u32, when: &str) {
        let image = FileSource::open(&self.file()).unwrap();
        let as_part = |entry: Partition| ddi::Part {
            number: entry.number,
            start: entry.start,
            len: entry.len,
            part_guid: entry.part_guid,
        };
        let found = Ddi {
            arch: Arch::NATIVE,
            disk_guid: ddi::Uuid::nil(),
            root: as_part(self.entry(data)),
            verity: as_part(self.entry(hashes)),
            signature: None,
        };
        found
            .verify(&image, &self.root, |_| {})
            .unwrap_or_else(|e| panic!("{e} {when}"));
    }
}

fn no_fault() -> Faulty {
    Faulty::new(usize::MAX, Fault::PowerCut)
}

#[test]
fn an_image_is_written_named_and_found_by_other_tools() {
    let disk = Disk::new(true);
    let before: Vec<_> = (1..=4)
        .map(|number| (disk.entry(number), disk.bytes(number)))
        .collect();
    let names = vec![
        disk.node(5),
        PartitionName::PartLabel("hash-b".into()),
        PartitionName::PartUuid(disk.entry(7).part_guid),
    ];
    let report = disk.install(names).unwrap();
    let holds: Vec<_> = report.partitions.iter().map(|p| p.holds.as_str()).collect();
    assert_eq!(holds, ["root", "root-verity", "root-verity-sig"]);
    assert!(report.partitions.iter().all(|p| p.read_only));
    let files: Vec<_> = report
        .files
        .iter()
        .filter_map(|f| f.path.file_name())
        .collect();
    assert_eq!(files, ["initrd", "linux", "debian-13-1.0.conf"]);
    assert!(disk.fixture.entry().exists());

    for (number, role, guid) in [
        (5, Role::Root, disk.root.data_part_uuid()),
        (6, Role::Verity, disk.root.verity_part_uuid()),
        (7, Role::Signature, signature_part_uuid(&disk.root)),
    ] {
        let entry = disk.entry(number);
        assert_eq!(entry.type_guid, Arch::NATIVE.type_guid(role), "{role}");
        assert_eq!(entry.part_guid, guid, "{role}");
        assert_eq!(entry.attributes, READ_ONLY, "{role}");
    }
    disk.check_image(5, 6, "");
    // The disk as an image of its own: by types and PARTUUIDs, signature too,
    // though the partition is larger than it and had something else behind it.
    let source = FileSource::open(&disk.file()).unwrap();
    let found = Ddi::read(&source, Arch::NATIVE).unwrap();
    found.verify(&source, &disk.root, |_| {}).unwrap();
    let signature = found.signature(&source).unwrap().unwrap();
    assert_eq!(signature.root, disk.root);

    for (number, name) in [(5, "data"), (6, "hashes")] {
        fs::write(disk.fixture.dir.path().join(name), disk.bytes(number)).unwrap();
    }
    let path = |name| disk.fixture.dir.path().join(name).display().to_string();
    let said = run(
        "veritysetup",
        &[
            "verify",
            &path("data"),
            &path("hashes"),
            &disk.root.to_hex(),
        ],
    );
    // It can print an error and succeed.
    assert!(!said.contains("failed"), "{said}");
    let said = run("sfdisk", &["--verify", disk.file().to_str().unwrap()]);
    assert!(said.contains("No errors detected"), "{said}");

    for (number, before) in (1..=4).zip(before) {
        assert!(
            before == (disk.entry(number), disk.bytes(number)),
            "{number}"
        );
    }
    let again = disk.install(disk.nodes(&[5, 6, 7])).unwrap();
    assert!(again.already_installed());
    // The same image elsewhere would have a PARTUUID twice.
    let error = disk.install(disk.nodes(&[2, 3, 4])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("is installed there"), "{error}");
}

#[test]
fn a_dry_run_says_all_and_writes_nothing() {
    let disk = Disk::new(false);
    let before = fs::read(disk.file()).unwrap();
    let vfs = no_fault();
    let options = Options {
        image_partitions: disk.nodes(&[5, 6]),
        dry_run: true,
        ..Options::default()
    };
    let report = disk.attempt(&vfs, options).unwrap();
    assert_eq!(vfs.operations(), 0);
    assert!(fs::read(disk.file()).unwrap() == before);
    let actions = report.partitions.iter().map(|part| part.action);
    let files = report.files.iter().map(|file| file.action);
    assert!(
        actions
            .chain(files)
            .all(|action| action == Action::WouldWrite)
    );
    let names: Vec<_> = report
        .partitions
        .iter()
        .map(|p| p.partuuid.clone())
        .collect();
    assert_eq!(
        names,
        [
            disk.root.data_part_uuid().to_string(),
            disk.root.verity_part_uuid().to_string()
        ]
    );
}

#[test]
fn partitions_that_may_not_be_overwritten_are_refused() {
    let disk = Disk::new(true);
    let said = |names: &[u32], kind: ErrorKind, words: &str| {
        let error = disk.refusal(disk.nodes(names));
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    said(&[1, 6, 7], ErrorKind::NoSpace, "more)");
    said(&[5, 1, 7], ErrorKind::Conflict, "partition type");
    said(&[5, 6], ErrorKind::Invalid, "signature");
    said(&[5, 5, 7], ErrorKind::Invalid, "twice");
    said(&[6, 5, 7], ErrorKind::NoSpace, "more)");

    let error = disk.refusal(vec![PartitionName::Node(disk.file())]);
    assert!(error.to_string().contains("is not a partition"), "{error}");
    let error = disk.refusal(vec![PartitionName::PartLabel("none".into())]);
    assert_eq!(error.kind(), ErrorKind::NoTarget);

    disk.fixture
        .mountinfo(&[("254:6", Path::new("/srv"), "ext4")]);
    said(&[5, 6, 7], ErrorKind::Conflict, "is mounted on /srv");
    disk.fixture.mountinfo(&[]);

    let mut vfs = no_fault();
    vfs.busy.push(disk.fixture.system.dev.join("vda7"));
    let holders = disk.fixture.system.sys.join("dev/block/254:7/holders");
    fs::create_dir_all(holders.join("dm-3")).unwrap();
    let options = Options {
        image_partitions: disk.nodes(&[5, 6, 7]),
        ..Options::default()
    };
    let error = disk.attempt(&vfs, options).unwrap_err();
    assert!(error.to_string().contains("in use by dm-3"), "{error}");
    assert_eq!(vfs.operations(), 0);

    // The kernel's table is older than the disk's.
    let start = disk.fixture.system.sys.join("devices/vda/vda5/start");
    let right = fs::read(&start).unwrap();
    fs::write(&start, "9\n").unwrap();
    said(&[5, 6, 7], ErrorKind::Invalid, "the kernel has another");
    fs::write(&start, right).unwrap();
    disk.install(disk.nodes(&[5, 6, 7])).unwrap();
}

#[test]
fn what_this_system_booted_from_is_not_overwritten() {
    let disk = Disk::new(false);
    let record = disk.fixture.system.run.join("initoverlayfs/boot.json");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    let write = |root: &str, guid: ddi::Uuid| {
        let text = format!(
            "{{\"version\":1,\"root_hash\":{root},\"image\":{{\"partuuid\":\"{guid}\",\"size\":1}}}}"
        );
        fs::write(&record, text).unwrap();
    };
    write("null", disk.entry(5).part_guid);
    let error = disk.refusal(disk.nodes(&[5, 6]));
    assert!(error.to_string().contains("booted from"), "{error}");

    // Hash tree and signature are known by the root hash of the record.
    let booted = RootHash::from_hex(&"ab".repeat(32)).unwrap();
    write(&format!("\"{booted}\""), ddi::Uuid::nil());
    let file = disk.file();
    for guid in [booted.verity_part_uuid(), signature_part_uuid(&booted)] {
        let guid = guid.to_string();
        run(
            "sfdisk",
            &["-q", "--part-uuid", file.to_str().unwrap(), "6", &guid],
        );
        let error = disk.refusal(disk.nodes(&[5, 6]));
        assert!(error.to_string().contains("booted from"), "{error}");
    }
    fs::write(&record, "{}").unwrap();
    let error = disk.refusal(disk.nodes(&[5, 6]));
    assert!(error.to_string().contains("boot.json"), "{error}");
}

#[test]
fn a_whole_image_goes_into_one_partition_that_keeps_its_name() {
    let mut disk = Disk::new(false);
    disk.look_for(Selected::Partlabel("init-b".into()));
    let before = disk.entry(5);
    let error = disk.refusal(disk.nodes(&[2]));
    assert_eq!(error.kind(), ErrorKind::PathMismatch);
    disk.install(disk.nodes(&[5])).unwrap();
    assert_eq!(disk.entry(5), before);
    let source = FileSource::open(&disk.file()).unwrap();
    let part = Window::new(source, before.start, before.len).unwrap();
    let found = Ddi::read(&part, Arch::NATIVE).unwrap();
    found.verify(&part, &disk.root, |_| {}).unwrap();
    assert!(disk.install(disk.nodes(&[5])).unwrap().already_installed());
}

#[test]
fn a_uki_stands_alone_beside_an_image_in_partitions() {
    let mut disk = Disk::new(false);
    let out = disk.fixture.set.dir.clone();
    fs::write(out.join("initoverlayfs.efi"), vec![6u8; 9000]).unwrap();
    disk.fixture.set.manifest.uki = Some(Artefact::of(&out, "initoverlayfs.efi").unwrap());
    let report = disk.install(disk.nodes(&[5, 6])).unwrap();
    assert_eq!(report.entry_file, "debian-13-1.0.efi");
    assert_eq!(report.files.len(), 1);
    let esp = disk.fixture.esp();
    assert!(esp.join("EFI/Linux/debian-13-1.0.efi").exists());
    assert!(!esp.join("debian-13").exists());
}

#[test]
fn a_power_cut_at_any_write_leaves_a_whole_image_or_none() {
    let options = |disk: &Disk| Options {
        image_partitions: disk.nodes(&[5, 6, 7]),
        ..Options::default()
    };
    let disk = Disk::with_words(true, 20_000);
    let vfs = no_fault();
    disk.attempt(&vfs, options(&disk)).unwrap();
    let operations = vfs.operations();
    assert!(operations > 25, "only {operations} operations were seen");
    let [mut found, mut entries] = [0, 0];
    for at in 0..operations {
        for loss in [Loss::Nothing, Loss::Unsynced] {
            let disk = Disk::with_words(true, 20_000);
            let in_use: Vec<_> = (1..=4).map(|n| (disk.entry(n), disk.bytes(n))).collect();
            let vfs = Faulty::new(at, Fault::PowerCut);
            disk.attempt(&vfs, options(&disk)).unwrap_err();
            vfs.lose(loss);
            let when = format!("after a cut at operation {at} with the loss {loss:?}");
            for (number, before) in (1..=4).zip(in_use) {
                let now = (disk.entry(number), disk.bytes(number));
                assert!(now == before, "partition {number} was changed {when}");
            }
            // As a boot looks for it: by the PARTUUID that follows from the
            // root hash.
            let data = disk.entry(5);
            let named = data.part_guid == disk.root.data_part_uuid();
            if named {
                disk.check_image(5, 6, &when);
                assert_eq!(data.attributes, READ_ONLY, "{when}");
                found += 1;
            }
            if disk.fixture.entry().exists() {
                assert!(named, "an entry without an image {when}");
                entries += 1;
            }
            if loss == Loss::Nothing {
                continue;
            }
            // The next run finishes the work.
            let report = disk.attempt(&no_fault(), options(&disk));
            let report = report.unwrap_or_else(|e| panic!("{e} {when}"));
            assert_eq!(report.partitions.len(), 3);
            disk.check_image(5, 6, &when);
            assert!(disk.fixture.entry().exists(), "{when}");
        }
    }
    assert!(
        found > 0 && entries > 0,
        "{found} {entries}: the model sees nothing"
    );
}

#[test]
fn an_old_image_is_not_found_while_it_is_overwritten() {
    let disk = Disk::new(false);
    let old = disk.entry(5).part_guid;
    // The cut is at the second operation, the first write of content.
    let options = Options {
        image_partitions: disk.nodes(&[5, 6]),
        ..Options::default()
    };
    disk.attempt(&Faulty::new(1, Fault::PowerCut), options)
        .unwrap_err();
    assert_ne!(disk.entry(5).part_guid, old);
    assert_ne!(disk.entry(5).part_guid, disk.root.data_part_uuid());
}

#[test]
fn a_disk_that_returns_other_bytes_is_found_out_and_nothing_is_named() {
    let disk = Disk::new(false);
    let options = Options {
        image_partitions: disk.nodes(&[5, 6]),
        ..Options::default()
    };
    let vfs = Faulty::new(0, Fault::WrongReadBack);
    let error = disk.attempt(&vfs, options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadBack);
    assert!(error.to_string().contains("vda5"), "{error}");
    assert_ne!(disk.entry(5).part_guid, disk.root.data_part_uuid());
    assert!(!disk.fixture.entry().exists());
}

/// A loop device over some bytes of a file, until it is dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path, start: u64, len: u64) -> Self {
        let (start, len) = (start.to_string(), len.to_string());
        let args = ["--find", "--show", "--offset", &start, "--sizelimit", &len];
        let said = run("losetup", &[&args[..], &[file.to_str().unwrap()]].concat());
        Self(said.trim().into())
    }

    fn name(&self) -> &str {
        self.0.trim_start_matches("/dev/")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/losetup")
            .args(["-d", &self.0])
            .status();
    }
}

/// The only test of the host's own block devices: loop devices stand for the disk
/// and its partitions, for not every kernel finds partitions on such.
#[test]
#[ignore = "needs root and three free loop devices"]
fn block_devices_are_claimed_written_and_named() {
    let mut disk = Disk::new(false);
    let file = disk.file();
    let whole = Loop::new(&file, 0, 24 << 20);
    let parts = [5, 6].map(|number| {
        let entry = disk.entry(number);
        (number, Loop::new(&file, entry.start, entry.len))
    });
    let sys = disk.fixture.dir.path().join("loops");
    let class = sys.join("class/block");
    fs::create_dir_all(&class).unwrap();
    let old = disk.fixture.system.sys.join("devices/vda");
    let device = sys.join("devices").join(whole.name());
    fs::create_dir_all(device.join("queue")).unwrap();
    fs::write(device.join("size"), "49152\n").unwrap();
    for (number, part) in &parts {
        let dir = device.join(part.name());
        fs::create_dir(&dir).unwrap();
        for name in ["partition", "start", "size"] {
            fs::copy(old.join(format!("vda{number}")).join(name), dir.join(name)).unwrap();
        }
        let real = Path::new("/sys/class/block").join(part.name());
        fs::write(dir.join("dev"), fs::read(real.join("dev")).unwrap()).unwrap();
        symlink(&dir, class.join(part.name())).unwrap();
    }
    disk.fixture.system.sys = sys;
    disk.fixture.system.dev = "/dev".into();
    let install = || {
        let names = parts
            .iter()
            .map(|(_, part)| PartitionName::Node((&part.0).into()));
        let options = Options {
            image_partitions: names.collect(),
            ..Options::default()
        };
        disk.attempt(&HostVfs, options)
    };

    // As a mount, swap or device-mapper would have it.
    let used = OpenOptions::new()
        .read(true)
        .custom_flags(EXCL)
        .open(&parts[1].1.0);
    let error = install().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("is in use"), "{error}");
    drop(used.unwrap());

    install().unwrap();
    let source = FileSource::open(Path::new(&whole.0)).unwrap();
    let found = Ddi::read(&source, Arch::NATIVE).unwrap();
    found.verify(&source, &disk.root, |_| {}).unwrap();
    let (data, hashes) = (&parts[0].1.0, &parts[1].1.0);
    let said = run(
        "veritysetup",
        &["verify", data, hashes, &disk.root.to_hex()],
    );
    assert!(!said.contains("failed"), "{said}");
    assert!(install().unwrap().already_installed());
}
