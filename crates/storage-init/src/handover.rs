//! Steps 8 and 9 of the design: everything moves over, the old root is emptied,
//! one process becomes the next.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;

use freestanding::Start;
use iofs_plan::{Appended, BootPlan, Stage};
use kernel_abi::file::{self, Kind};
use kernel_abi::tree::{Copied, Copier, Source};
use kernel_abi::{Errno, mount, process};

use crate::log::Log;
use crate::report::Failure;
use crate::root::Mounted;

/// The kernel's file systems, which the next init takes over as they are.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// What in the mini-initramfs is its own. All else was appended by the boot
/// loader (`/.extra`, further cpio archives) and belongs to the next init.
const OWN: [&str; 6] = ["init", "initoverlayfs", "dev", "proc", "sys", "run"];

/// An empty folder in every kernel's built-in initramfs.
const BUILT_IN: &str = "root";

/// Where systemd-stub puts credentials, extensions and signed PCR policies. Their
/// users know that nobody has proven them.
const EXTRA: &str = ".extra";

/// Microcode and ACPI tables, which the kernel has read by itself.
const CONSUMED: &str = "kernel";

/// How many of the names that are left out are told.
const MAX_TOLD: usize = 16;

/// Copies what the boot loader appended into the new root, as far as the plan
/// allows it: `/.extra`, or all. An image that is the system has no `/.extra`
/// ([`crate::system`]).
///
/// The archives are in memory, and each file is freed when it has been copied. A
/// file of the image's that has to make way is counted in the log.
///
/// # Errors
/// If it cannot be copied: credentials and extensions must not be lost silently.
pub fn carry_over(mounted: &Mounted, plan: &BootPlan, log: &mut Log) -> Result<(), Failure> {
    let source = match file::is_in_memory("/")? {
        true => Source::Freed,
        false => Source::Kept,
    };
    let mut copier = Copier::new("/", &mounted.root, source)?;
    let mut left_out = String::new();
    let mut count = 0;
    for (name, kind) in file::list("/")? {
        if OWN.contains(&name.as_str()) && kind != Kind::Link {
            continue;
        }
        if name == BUILT_IN && kind == Kind::Folder && file::list("/root")?.is_empty() {
            continue;
        }
        // A link would be somebody else's.
        let extra = name == EXTRA && kind == Kind::Folder;
        // Of that, a system has what proves itself, and nothing there: its users
        // check only inside an initrd.
        if extra && plan.stage == Stage::System {
            continue;
        }
        if !extra && plan.appended == Appended::Extra {
            if name == CONSUMED {
                continue;
            }
            if count < MAX_TOLD {
                left_out.push_str(" /");
                left_out.push_str(&name);
            }
            count += 1;
            continue;
        }
        let Copied { entries, replaced } = copier.copy(&name).map_err(not_carried)?;
        log.info(format_args!(
            "carried over /{name} ({entries} entries, {replaced} in place of the image's)"
        ));
    }
    if count > MAX_TOLD {
        left_out.push_str(" and more");
    }
    if count > 0 {
        log.warn(format_args!(
            "left out what the boot loader appended, as nobody has proven it:{left_out} (if the \
             image needs it, put it into the image, or build with --appended all)"
        ));
    }
    Ok(())
}

#[cold]
fn not_carried(error: kernel_abi::Error) -> Failure {
    let advice = match error.errno() {
        Errno::NOSPC | Errno::NOMEM => {
            "half of the machine's memory is there for it: append less, or put it into the image"
        }
        _ => "what the boot loader appended does not go together with the image: append less",
    };
    Failure::from(error).advise(advice)
}

/// Moves the kernel's file systems, frees what the mini-initramfs holds, and
/// makes the new root the root.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn enter(mounted: &Mounted, log: &mut Log) -> Result<(), Failure> {
    for folder in MOVED {
        let target = format!("{}{folder}", mounted.root);
        file::mkdir(&target)?;
        mount::move_mount(folder, &target)?;
    }
    mount::chdir(&mounted.root)?;
    // Its RAM cannot be had back once the root has changed. A file that cannot
    // be removed costs memory and nothing else. A root that is no initramfs is
    // somebody's data: it is left alone.
    if !file::is_in_memory("/")? {
        log.warn(format_args!(
            "the root is no initramfs; nothing in it is removed"
        ));
    } else if let Err(error) = file::remove_tree("/") {
        log.warn(format_args!(
            "not all of the mini-initramfs is freed: {error}"
        ));
    }
    // From Linux 7 on the initramfs is an ordinary mount and goes; before, it is
    // the rootfs, which stays below, empty.
    mount::pivot_to_root().or_else(|_| mount::move_to_root())?;
    Ok(())
}

/// Becomes `init`, with this process's arguments and environment. Returns only
/// on failure.
#[must_use]
pub fn exec(init: &str, start: &Start) -> Failure {
    let Ok(path) = CString::new(init) else {
        return Failure::new(format_args!("the init's path has a NUL byte"));
    };
    let mut args = start.args.clone();
    match args.first_mut() {
        Some(name) => name.clone_from(&path),
        None => args.push(path.clone()),
    }
    let error = process::exec(&path, &args, &start.env);
    let advice = match error.errno() {
        Errno::IO => {
            "the image or the disk is damaged: the kernel's log above has more; install again"
        }
        _ => {
            "the init or its dynamic loader is missing, not executable or for another \
             architecture; build the image again"
        }
    };
    Failure::from(error).advise(advice)
}
