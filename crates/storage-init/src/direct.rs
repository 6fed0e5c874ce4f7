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

mod search;
mod usr;

use core::convert::Infallible;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use freestanding::Start;
use iofs_cmdline::{Mode, Root};
use iofs_plan::Direct;
use kernel_abi::file;
use kernel_abi::mount::{self, Flags};
use kernel_abi::tree::{Copier, Source};
use kernel_abi::uevent::Uevents;

pub use search::{Found, Search, Sought};
pub use usr::Usr;

use crate::hunt;
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
const KEPT: &str = boot_json::FOLDER;

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
    /// Its name, and the file systems that it may have.
    root: Sought,
    /// /usr, where that is a file system of its own.
    usr: Option<Usr>,
    /// How it is mounted.
    flags: Flags,
    /// Options of the file system's own.
    options: String,
    /// The init to execute in it; the first that exists.
    inits: Vec<String>,
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
    if settings.record.is_some() {
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
    let limit_us = match words.wait_ms {
        Some(wait) => u64::from(wait) * 1000,
        None => limit.min(LIMIT_US),
    };
    Ok(Wanted {
        root: Sought {
            what: "root",
            word: "root=",
            name: root,
            kinds: Some(kinds),
            limit_us,
        },
        usr: usr::choose(&words.usr, &direct.kinds, limit_us)?,
        flags,
        options,
        inits,
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
    if let Some(kind) = wanted.root.kinds.iter().flatten().next() {
        modules.want_for_image(kind);
    }
    if let Some(usr) = &wanted.usr {
        usr.want_modules(modules);
    }
    let mut search = Search::new(&wanted.root, paths);
    let found = hunt::find(&mut search, uevents, paths, modules, log)?;
    let mut for_usr = Vec::new();
    for sought in wanted.usr.iter().flat_map(Usr::devices) {
        search = search.then(sought);
        for_usr.push(hunt::find(&mut search, uevents, paths, modules, log)?);
    }
    let name = &wanted.root.name;
    log.stage("device", &format!("/dev/{}, {name}", found.name));
    modules.load_for_root(&found.kind, log);
    log.stage("modules", &modules.summary());
    let mut usr = None;
    let init = mount_root(&found, wanted).and_then(|()| {
        if let (Some(wanted), [data, tree @ ..]) = (&wanted.usr, for_usr.as_slice()) {
            let target = format!("{ROOT}/usr");
            let mounted = wanted.mount(data, tree.first(), &target, modules, log)?;
            log.info(format_args!("/usr: {}", mounted.describe()));
            usr = Some(mounted);
        }
        look_inside(wanted)
    });
    let init = init.inspect_err(|_| {
        // What failed first is what has to be said. /usr goes with the root.
        let _ = mount::detach(ROOT);
        if let Some(usr) = &usr {
            usr.release();
        }
    })?;
    let access = if wanted.flags.contains(Flags::RDONLY) {
        "read-only"
    } else {
        "writable"
    };
    log.stage("mount", &format!("{}, {access}", found.kind));
    let mounted = Mounted {
        root: ROOT.into(),
        init: init.clone(),
        opens: None,
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
    let usr = usr.as_ref().map(usr::Mounted::describe);
    boot_json::write_direct(log, settings, &found, usr.as_deref(), modules, &init);
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

fn mount_root(found: &Found, wanted: &Wanted) -> Result<(), Failure> {
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
    Ok(())
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
        .advise("is /usr a file system of its own? Then name it with mount.usr= or usrhash=, or let the \
             image mount it: remove --mode direct"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::tests::fake_system;
    use iofs_cmdline::{Cmdline, RootWords};
    use iofs_plan::BootPlan;
    use std::vec;

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
            workers: None,
            prefetch: true,
            record: None,
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
        assert_eq!(plain.root.name, Root::PartLabel("root".into()));
        assert_eq!(plain.flags, Flags::NOATIME | Flags::RDONLY);
        assert_eq!(
            (&*plain.options, plain.root.limit_us),
            ("subvol=@", LIMIT_US)
        );
        let other = choice(
            "root=/dev/vda2 rw rootflags=x-foo,data=journal rootfstype=btrfs,xfs init=/x rootdelay=45",
        )
        .unwrap();
        assert_eq!(other.root.name, Root::Device("vda2".into()));
        assert_eq!(
            (other.flags, &*other.options),
            (Flags::empty(), "data=journal")
        );
        assert_eq!(
            (other.root.kinds, other.inits),
            (Some(vec!["btrfs".into()]), vec!["/x".into()])
        );
        assert_eq!(other.root.limit_us, 45_000_000);
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
