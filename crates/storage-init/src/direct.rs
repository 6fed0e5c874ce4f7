//! The boot without the image: to a root file system that no user space is needed
//! to reach.
//!
//! The plan must allow it and the command line names the root, in the words that
//! every initramfs obeys. All that is in the way of it is found out before anything
//! is moved: then the image comes up, as if this had not been tried, and its tools
//! can mend what was wrong.
//!
//! The root is mounted by the kernel, and nobody has authenticated it: as little as
//! where an initrd mounts it.

use core::convert::Infallible;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use freestanding::Start;
use iofs_cmdline::{Mode, Root};
use iofs_plan::Direct;
use iofs_superblock::{Kind, Superblock};
use kernel_abi::block::Device;
use kernel_abi::mount::{self, Flags};
use kernel_abi::tree::{Copier, Source};
use kernel_abi::uevent::{Uevent, Uevents};
use kernel_abi::{clock, file};

use crate::disks::{self, Inventory};
use crate::hunt::{self, Hunt};
use crate::log::Log;
use crate::modules::Loader;
use crate::paths::Paths;
use crate::report::{Failure, join};
use crate::root::Mounted;
use crate::settings::Settings;
use crate::{boot_json, handover};

/// Where the root is mounted meanwhile.
const ROOT: &str = "/initoverlayfs/direct";

/// Where what the loader appended is kept: its users are initrds, and the root is
/// not written to.
const KEPT: &str = "/run/initoverlayfs";

/// Where the reasons stand if it failed.
const REASONS: &str = "/run/initoverlayfs/direct-failed";

/// How long the root is waited for where the command line does not say, in
/// microseconds: the image's init waits for it, too.
const LIMIT_US: u64 = 30_000_000;

/// What is executed where the command line has no `init=` (init/main.c).
const INITS: [&str; 3] = ["/sbin/init", "/etc/init", "/bin/init"];

/// What the root must have: the kernel's file systems move there.
const FOLDERS: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// Mount options that are flags of mount(2), with what they set and clear.
const FLAGS: [(&str, Flags, Flags); 14] = [
    ("noatime", Flags::NOATIME, Flags::RELATIME),
    ("nodiratime", Flags::NODIRATIME, Flags::empty()),
    ("relatime", Flags::RELATIME, Flags::NOATIME),
    ("strictatime", Flags::STRICTATIME, Flags::NOATIME),
    ("lazytime", Flags::LAZYTIME, Flags::empty()),
    ("nosuid", Flags::NOSUID, Flags::empty()),
    ("nodev", Flags::NODEV, Flags::empty()),
    ("noexec", Flags::NOEXEC, Flags::empty()),
    ("sync", Flags::SYNCHRONOUS, Flags::empty()),
    ("dirsync", Flags::DIRSYNC, Flags::empty()),
    ("ro", Flags::RDONLY, Flags::empty()),
    ("rw", Flags::empty(), Flags::RDONLY),
    ("async", Flags::empty(), Flags::SYNCHRONOUS),
    ("defaults", Flags::empty(), Flags::empty()),
];

/// What is wanted of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    root: Root,
    /// The file systems that it may have.
    kinds: Vec<String>,
    /// How it is mounted.
    flags: Flags,
    /// Options of the file system's own.
    options: String,
    /// The init to execute in it; the first that exists.
    inits: Vec<String>,
    /// How long it is waited for, in microseconds.
    limit_us: u64,
}

/// What to boot directly, if plan and command line want that.
#[must_use]
pub fn wanted(settings: &Settings, paths: &Paths, log: &mut Log) -> Option<Wanted> {
    let Some(direct) = &settings.plan.direct else {
        if settings.mode == Some(Mode::Direct) {
            log.warn(format_args!(
                "initoverlayfs.mode=direct is ignored: the boot plan does not allow it; build with \
                 --mode direct"
            ));
        }
        return None;
    };
    if settings.mode == Some(Mode::Initrd) {
        log.info(format_args!(
            "initoverlayfs.mode=initrd: the image comes up"
        ));
        return None;
    }
    match choose(settings, direct).and_then(|wanted| not_hibernated(paths).map(|()| wanted)) {
        Ok(wanted) => Some(wanted),
        Err(why) => {
            log.warn(format_args!(
                "not booted directly: {why}; the image comes up"
            ));
            None
        }
    }
}

fn choose(settings: &Settings, direct: &Direct) -> Result<Wanted, String> {
    let words = &settings.root;
    if let Some(word) = &words.for_initrd {
        return Err(format!(
            "{word} on the kernel command line asks for an initrd"
        ));
    }
    if settings.record {
        return Err("a boot of the image is to be recorded".into());
    }
    let name = words.root.as_deref().unwrap_or(&direct.root);
    let root = Root::parse(name).ok_or_else(|| match name {
        "" => "neither plan nor command line name the root".to_string(),
        _ => format!("root={name} takes user space to be found"),
    })?;
    let allowed = |kind: &&String| direct.kinds.contains(kind);
    let kinds: Vec<String> = match words.kinds.as_slice() {
        [] => direct.kinds.clone(),
        kinds => kinds.iter().filter(allowed).cloned().collect(),
    };
    if kinds.is_empty() {
        return Err(format!(
            "rootfstype={} is none of {}, for which this was built",
            join(&mut words.kinds.iter().cloned(), ","),
            join(&mut direct.kinds.iter().cloned(), ", ")
        ));
    }
    let flags = words.flags.as_deref().unwrap_or(&direct.flags);
    let (mut flags, options) = split(flags);
    if !words.writable {
        flags |= Flags::RDONLY;
    }
    let inits = match &words.init {
        Some(init) => Vec::from([init.clone()]),
        None => INITS.map(String::from).to_vec(),
    };
    let limit = u64::from(settings.plan.device_timeout_ms) * 1000;
    Ok(Wanted {
        root,
        kinds,
        flags,
        options,
        inits,
        limit_us: match words.wait_ms {
            Some(wait) => u64::from(wait) * 1000,
            None => limit.min(LIMIT_US),
        },
    })
}

/// systemd notes in a variable of the firmware's where the machine's memory was
/// saved; only an initrd can bring that back. The variable is looked for where the
/// kernel shows it without further ado: else `resume=` has to say it.
fn not_hibernated(paths: &Paths) -> Result<(), String> {
    const VARIABLE: &str = "HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67";
    let path = format!("{}/firmware/efi/efivars/{VARIABLE}", paths.sys);
    match file::exists(&path) {
        true => Err("the machine was hibernated".into()),
        false => Ok(()),
    }
}

/// Mount options as flags and what is left for the file system.
fn split(options: &str) -> (Flags, String) {
    let mut flags = Flags::empty();
    let mut rest = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match FLAGS.iter().find(|(name, ..)| *name == option) {
            Some((_, set, clear)) => flags = (flags - *clear) | *set,
            // For mount(8) and systemd.
            None if option.starts_with("x-") || option == "auto" || option == "nofail" => {}
            None => rest.push(option.to_string()),
        }
    }
    (flags, join(&mut rest.into_iter(), ","))
}

/// Why a direct boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is mounted and nothing was moved: the image can come up.
    Before(Failure),
    /// There is no way back to the image.
    After(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Before(failure)
    }
}

/// Boots. Returns only if that failed.
///
/// # Errors
/// What was missing, and whether the image can come up.
pub fn boot(
    start: &Start,
    wanted: &Wanted,
    settings: &Settings,
    paths: &Paths,
    uevents: &Uevents,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<Infallible, Ended> {
    modules.want_disks(&settings.hint);
    // The first is the usual one; others are loaded when they turn out to be it.
    if let Some(kind) = wanted.kinds.first() {
        modules.want_for_image(kind);
    }
    let mut search = RootSearch {
        wanted,
        paths,
        inventory: Inventory::default(),
        probed: Vec::new(),
        conflict: None,
        started: clock::micros(),
    };
    let found = hunt::find(&mut search, uevents, paths, modules, log)?;
    log.stage("device", &format!("/dev/{}, {}", found.name, wanted.root));
    modules.load_for_root(&found.kind, log);
    log.stage("modules", &modules.summary());
    let init = mount_root(&found, wanted)?;
    let access = if wanted.flags.contains(Flags::RDONLY) {
        "read-only"
    } else {
        "writable"
    };
    log.stage("mount", &format!("{}, {access}", found.kind));
    let mounted = Mounted {
        root: ROOT.into(),
        init: init.clone(),
    };
    keep_appended(Source::Kept, log);
    log.stage("handover", &format!("next is {init} in the root"));
    let after = |failure: Failure| {
        Ended::After(failure.advise(
            "boot with initoverlayfs.mode=initrd on the kernel command line: the image's tools \
             can mend the root",
        ))
    };
    handover::enter(&mounted, log).map_err(after)?;
    log.stage("exec", &init);
    boot_json::write_direct(log, settings, &found, modules, &init);
    Err(after(handover::exec(&init, start)))
}

/// Says why the image comes up, where those who mend the root will look.
pub fn explain(failure: &Failure, log: &mut Log) {
    let lines = failure.lines(log, "the image comes up instead");
    let mut text = String::new();
    for line in lines {
        // The report's own beginning is for boots that end there.
        let line = line.replacen("BOOT FAILED", "the root could not be booted directly", 1);
        text.push_str(&line);
        text.push('\n');
        log.error(format_args!("{line}"));
    }
    if let Err(error) = boot_json::put(REASONS, text.as_bytes()) {
        log.warn(format_args!("{error}"));
    }
}

fn mount_root(found: &Found, wanted: &Wanted) -> Result<String, Failure> {
    file::mkdir("/initoverlayfs")?;
    file::mkdir(ROOT)?;
    let device = &found.device;
    mount::mount(device, ROOT, &found.kind, wanted.flags, &wanted.options).map_err(|error| {
        Failure::new(format_args!(
            "the root on {device} cannot be mounted: {error}"
        ))
        .advise(
            "the kernel's log above says what it did not like: check the file system (fsck), and \
             rootflags= on the kernel command line",
        )
    })?;
    let result = look_inside(wanted);
    if result.is_err() {
        // What failed first is what has to be said.
        let _ = mount::detach(ROOT);
    }
    result
}

/// The init to execute; an error while there is a way back.
fn look_inside(wanted: &Wanted) -> Result<String, Failure> {
    for folder in FOLDERS {
        if !file::exists_inside(ROOT, folder)? {
            return Err(
                Failure::new(format_args!("the root has no folder {folder}"))
                    .advise("is this the root? Make the folder, or correct root="),
            );
        }
    }
    for init in &wanted.inits {
        if file::exists_inside(ROOT, init)? {
            return Ok(init.clone());
        }
    }
    Err(Failure::new(format_args!("the root has no init"))
        .awaited(wanted.inits.iter().cloned())
        .advise("is /usr a file system of its own? Then the image has to mount it: remove --mode direct"))
}

/// Keeps `/.extra` for who looks for it. A boot does not fail for want of it.
pub(crate) fn keep_appended(source: Source, log: &mut Log) {
    if !file::exists("/.extra") {
        return;
    }
    let kept = file::mkdir(KEPT)
        .and_then(|()| Copier::new("/", KEPT, source))
        .and_then(|mut copier| copier.copy(".extra"));
    match kept {
        Ok(copied) => log.info(format_args!(
            "kept /.extra as {KEPT}/.extra ({} entries): credentials and extensions on the ESP are for initrds",
            copied.entries
        )),
        Err(error) => log.warn(format_args!("/.extra is lost: {error}")),
    }
}

/// A root that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The kernel's name of its device: `vda2`.
    pub name: String,
    /// The path of its device.
    pub device: String,
    /// Its file system, by the kernel's name.
    pub kind: String,
}

/// A device, and what was found on it.
#[derive(Debug)]
struct Probed {
    name: String,
    superblock: Option<Superblock>,
}

struct RootSearch<'a> {
    wanted: &'a Wanted,
    paths: &'a Paths,
    inventory: Inventory,
    probed: Vec<Probed>,
    /// Why what is there is not to be taken.
    conflict: Option<String>,
    started: u64,
}

impl RootSearch<'_> {
    /// Reads the superblocks of devices that are new.
    fn probe(&mut self) {
        let present = disks::present(self.paths);
        self.probed.retain(|probed| present.contains(&probed.name));
        for name in present {
            if self.probed.iter().any(|probed| probed.name == name) {
                continue;
            }
            let path = format!("{}/{name}", self.paths.dev);
            let superblock = Device::open(&path)
                .ok()
                .and_then(|device| Superblock::read(&device));
            self.probed.push(Probed { name, superblock });
        }
    }

    /// The names of the devices that the root's name means.
    fn meant(&self) -> Vec<String> {
        let by_superblock = |is: &dyn Fn(&Superblock) -> bool| {
            self.probed
                .iter()
                .filter(|probed| probed.superblock.as_ref().is_some_and(is))
                .map(|probed| probed.name.clone())
                .collect()
        };
        let by_table = |selector| {
            let parts = self.inventory.matching(&selector, self.paths);
            parts.into_iter().map(|part| part.name).collect()
        };
        match &self.wanted.root {
            Root::Uuid(uuid) => by_superblock(&|found| found.uuid == *uuid),
            Root::Label(label) => by_superblock(&|found| found.label == *label),
            Root::PartUuid(uuid) => by_table(iofs_plan::Selector::PartUuid(*uuid)),
            Root::PartLabel(label) => by_table(iofs_plan::Selector::PartLabel(label.clone())),
            Root::Device(name) => self
                .probed
                .iter()
                .filter(|probed| probed.name == *name)
                .map(|probed| probed.name.clone())
                .collect(),
        }
    }

    /// What is on the device of that name, if that can be the root.
    fn check(&self, name: &str) -> Result<Found, String> {
        let probed = self.probed.iter().find(|probed| probed.name == name);
        let kind = probed
            .and_then(|probed| probed.superblock.as_ref())
            .map(|found| found.kind)
            .ok_or_else(|| format!("/dev/{name} has no file system that can be a root here"))?;
        if !kind.is_file_system() {
            return Err(format!(
                "/dev/{name} is {}, which user space has to open or assemble",
                kind.name()
            ));
        }
        // ext4's driver has the names of its forebears, too.
        let names: &[&str] = match kind {
            Kind::Ext4 => &["ext4", "ext3", "ext2"],
            _ => &[kind.name()],
        };
        if !self
            .wanted
            .kinds
            .iter()
            .any(|kind| names.contains(&&**kind))
        {
            return Err(format!(
                "/dev/{name} has {}, and this was built for {}: build with --mode direct \
                 --root-fs {}",
                kind.name(),
                join(&mut self.wanted.kinds.iter().cloned(), ", "),
                kind.name()
            ));
        }
        Ok(Found {
            name: name.into(),
            device: format!("{}/{name}", self.paths.dev),
            kind: kind.name().into(),
        })
    }
}

impl Hunt for RootSearch<'_> {
    type Found = Found;

    const WHAT: &'static str = "root";

    fn span(&self) -> (u64, u64) {
        (self.started, self.wanted.limit_us)
    }

    fn look(&mut self, _: &mut Loader<'_>, _: &mut Log) -> Option<Found> {
        self.inventory.refresh(self.paths);
        self.probe();
        self.conflict = None;
        let result = match self.meant().as_slice() {
            [] => return None,
            [name] => self.check(name),
            several => Err(format!(
                "{} devices are {}: {}",
                several.len(),
                self.wanted.root,
                join(&mut several.iter().cloned(), ", ")
            )),
        };
        result.map_err(|why| self.conflict = Some(why)).ok()
    }

    fn deadline(&self) -> u64 {
        match &self.conflict {
            // More of the same would not make it better.
            Some(_) => self.started,
            None => self.started.saturating_add(self.wanted.limit_us),
        }
    }

    fn next_look(&self, _: u64) -> Option<u64> {
        None
    }

    fn forget(&mut self, event: &Uevent) {
        self.inventory.forget(&event.devpath);
        let name = file::base_name(&event.devpath);
        self.probed.retain(|probed| probed.name != name);
    }

    fn forget_all(&mut self) {
        self.inventory = Inventory::default();
        self.probed.clear();
    }

    fn failure(&self, modules: &Loader<'_>, now: u64) -> Failure {
        let root = &self.wanted.root;
        let failure = match &self.conflict {
            Some(why) => Failure::new(format_args!("{why}")),
            None => Failure::new(format_args!(
                "the root {root} did not come within {} s",
                now.saturating_sub(self.started) / 1_000_000
            )),
        };
        let mut seen: Vec<String> = self
            .probed
            .iter()
            .map(|Probed { name, superblock }| match superblock {
                None => format!("/dev/{name}"),
                Some(Superblock { kind, uuid, label }) => {
                    format!(
                        "/dev/{name}: {}, UUID={uuid} LABEL=\"{label}\"",
                        kind.name()
                    )
                }
            })
            .collect();
        if seen.is_empty() {
            seen.push("no disk at all".into());
        }
        seen.push(modules.summary());
        failure
            .awaited([format!("the root {root}")].into_iter())
            .seen(seen)
            .advise("compare root= on the kernel command line with what was seen (blkid)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::tests::{TYPE, UNIQUE, fake_system};
    use iofs_cmdline::{Cmdline, RootWords};
    use iofs_plan::{BootPlan, Uuid};
    use std::vec;

    const ID: Uuid = Uuid::from_u128(0x0f8e_9f3c_7b1d_4c5a_9e2f_1a2b_3c4d_5e6f);

    fn settings(cmdline: &str) -> Settings {
        Settings {
            plan: BootPlan {
                direct: Some(Direct {
                    root: "PARTLABEL=root".into(),
                    kinds: vec!["ext4".into(), "btrfs".into()],
                    flags: "noatime,subvol=@".into(),
                }),
                device_timeout_ms: 90_000,
                ..BootPlan::default()
            },
            candidates: vec![],
            hint: vec![],
            prefetch: true,
            record: false,
            mode: None,
            root: RootWords::from_cmdline(&Cmdline::parse(cmdline)),
            debug: false,
        }
    }

    fn choice(cmdline: &str) -> Result<Wanted, String> {
        let settings = settings(cmdline);
        choose(&settings, settings.plan.direct.as_ref().unwrap())
    }

    #[test]
    fn the_command_line_goes_before_the_plan() {
        let plain = choice("").unwrap();
        assert_eq!(plain.root, Root::PartLabel("root".into()));
        assert_eq!(plain.flags, Flags::NOATIME | Flags::RDONLY);
        assert_eq!((&*plain.options, plain.limit_us), ("subvol=@", LIMIT_US));
        let other = choice(
            "root=/dev/vda2 rw rootflags=x-foo,data=journal rootfstype=btrfs,xfs init=/x rootdelay=45",
        )
        .unwrap();
        assert_eq!(other.root, Root::Device("vda2".into()));
        assert_eq!(
            (other.flags, &*other.options),
            (Flags::empty(), "data=journal")
        );
        assert_eq!(
            (other.kinds, other.inits),
            (vec!["btrfs".into()], vec!["/x".into()])
        );
        assert_eq!(other.limit_us, 45_000_000);
    }

    #[test]
    fn what_takes_user_space_is_left_to_the_image() {
        for (cmdline, why) in [
            ("root=/dev/mapper/root", "takes user space"),
            ("root=UUID=x", "takes user space"),
            ("rootfstype=zfs", "zfs is none of ext4, btrfs"),
            ("resume=UUID=1", "resume on the kernel command line"),
        ] {
            let said = choice(cmdline).unwrap_err();
            assert!(said.contains(why), "{cmdline}: {said}");
        }
    }

    #[test]
    fn options_that_contradict_themselves_end_with_the_last() {
        assert_eq!(
            split("ro,rw,noatime,relatime"),
            (Flags::RELATIME, String::new())
        );
        assert_eq!(
            split(",,sync,subvol=a,async"),
            (Flags::empty(), "subvol=a".into())
        );
    }

    fn search<'a>(wanted: &'a Wanted, paths: &'a Paths) -> RootSearch<'a> {
        RootSearch {
            wanted,
            paths,
            inventory: Inventory::default(),
            probed: vec![],
            conflict: None,
            started: 5,
        }
    }

    fn ext4() -> Vec<u8> {
        let mut content = vec![0; 1 << 20];
        content[1080..1082].copy_from_slice(&[0x53, 0xef]);
        content[1128..1144].copy_from_slice(ID.as_bytes());
        content[1144..1148].copy_from_slice(b"root");
        content
    }

    #[test]
    fn a_root_is_found_by_each_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "nvme0n1", &ext4());
        let plan = settings("").plan;
        let (mut loader, mut log) = (Loader::new(&plan, &paths), Log::new());
        for name in [
            format!("UUID={ID}"),
            "LABEL=root".into(),
            format!("PARTUUID={UNIQUE}"),
            "PARTLABEL=image".into(),
            "/dev/nvme0n1p1".into(),
        ] {
            let wanted = choice(&format!("root={name}")).unwrap();
            let found = search(&wanted, &paths).look(&mut loader, &mut log).unwrap();
            assert_eq!(
                (&*found.name, &*found.kind),
                ("nvme0n1p1", "ext4"),
                "{name}"
            );
        }
        for name in [
            format!("UUID={TYPE}"),
            "LABEL=Root".into(),
            "/dev/nvme0n1p2".into(),
        ] {
            let wanted = choice(&format!("root={name}")).unwrap();
            let mut search = search(&wanted, &paths);
            assert_eq!(search.look(&mut loader, &mut log), None, "{name}");
            assert_eq!(search.deadline(), 5 + LIMIT_US);
            let failure = search.failure(&loader, LIMIT_US + 5);
            assert!(
                failure.what().contains("did not come within 30 s"),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_the_root_ends_the_search() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "sda", &ext4());
        let plan = settings("").plan;
        let (mut loader, mut log) = (Loader::new(&plan, &paths), Log::new());
        let mut look = |cmdline: &str| {
            let wanted = choice(cmdline).unwrap();
            let mut search = search(&wanted, &paths);
            assert_eq!(search.look(&mut loader, &mut log), None);
            assert_eq!(search.deadline(), 5, "{cmdline}");
            search.conflict.unwrap()
        };
        assert!(
            look("root=LABEL=root rootfstype=btrfs")
                .contains("has ext4, and this was built for btrfs")
        );
        assert!(look("root=/dev/sda").contains("no file system"));
        // A second device with the same names.
        let copy = dir.path().join("dev/sdb");
        std::fs::write(copy, ext4()).unwrap();
        let class = dir.path().join("sys/class/block/sdb");
        std::fs::create_dir(&class).unwrap();
        std::fs::write(class.join("size"), "2048\n").unwrap();
        assert!(look("root=LABEL=root").contains("2 devices are LABEL=root"));
        std::fs::write(dir.path().join("dev/sdb"), b"LUKS\xba\xbe").unwrap();
        assert!(look("root=/dev/sdb").contains("crypto_LUKS"));
    }

    #[test]
    fn a_hibernated_machine_is_left_to_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let paths = fake_system(dir.path(), "sda", b"");
        assert_eq!(not_hibernated(&paths), Ok(()));
        let folder = dir.path().join("sys/firmware/efi/efivars");
        std::fs::create_dir_all(&folder).unwrap();
        let name = "HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67";
        std::fs::write(folder.join(name), b"x").unwrap();
        assert!(not_hibernated(&paths).is_err());
    }
}
