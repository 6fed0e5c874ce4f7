//! Step 7 of the design: EROFS, made writable by a transient overlay.

use alloc::format;
use alloc::string::String;

use iofs_plan::Auth;
use kernel_abi::file;
use kernel_abi::mount::{self, Flags};

use crate::image::Found;
use crate::log::Log;
use crate::memory;
use crate::release::Release;
use crate::report::Failure;
use crate::settings::Settings;
use crate::stack::ImageDevice;
use crate::{prefetch, record};

/// The image, the writable layer and the new root, in the mini-initramfs.
const IMAGE: &str = "/initoverlayfs/image";
const WRITABLE: &str = "/initoverlayfs/writable";
const ROOT: &str = "/initoverlayfs/root";

/// The new root, mounted.
#[derive(Debug)]
pub struct Mounted {
    /// Where it is now.
    pub root: String,
    /// The init to execute in it: the first of the plan's that is there.
    pub init: String,
    /// What is to note the files that are opened, where that has to be.
    pub opens: Option<record::Opens>,
}

impl Mounted {
    /// One line for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        "EROFS below a transient overlay".into()
    }
}

/// Mounts the image, if the plan allows it, and the overlay over it. On failure
/// nothing is left mounted.
///
/// # Errors
/// The kernel's, of the step that failed; that the image is of another product
/// or too old.
pub fn mount(
    device: &ImageDevice,
    found: &Found,
    settings: &Settings,
    log: &mut Log,
) -> Result<Mounted, Failure> {
    for folder in ["/initoverlayfs", IMAGE, WRITABLE, ROOT] {
        file::mkdir(folder)?;
    }
    let by_opens = match settings.record {
        Some(how) => record::start(how, device, found, log),
        None => false,
    };
    let dax = memory::wants_dax(&found.candidate);
    let result = mount_image(&device.path, dax, log).and_then(|()| {
        // The mount holds the devices now: these go when it does.
        device.release()?;
        let unreadable = |error| unreadable(&device.path, &error);
        if let Auth::Signed(_) = settings.plan.auth {
            let release = Release::read(IMAGE).map_err(unreadable)?;
            release.check(&settings.plan)?;
        }
        let init = find_init(&settings.plan.inits, unreadable)?;
        overlay()?;
        // Of the image that it is going to be. There is nothing to read where pages are
        // used where they lie.
        if settings.prefetch && !dax {
            prefetch::start(IMAGE, device, found, log);
        }
        let opens = match by_opens {
            true => record::Opens::of(IMAGE, device, found, log),
            false => None,
        };
        Ok((init, opens))
    });
    // The overlay holds both layers by itself. Without their own mounts they go
    // when it does.
    for folder in [IMAGE, WRITABLE] {
        match mount::detach(folder) {
            Err(error) if result.is_ok() => return Err(error.into()),
            _ => {}
        }
    }
    result.map(|(init, opens)| Mounted {
        root: ROOT.into(),
        init,
        opens,
    })
}

/// The first of these that the image has.
fn find_init(
    inits: &[String],
    unreadable: impl Fn(kernel_abi::Error) -> Failure,
) -> Result<String, Failure> {
    for init in inits {
        if file::exists_inside(IMAGE, init).map_err(&unreadable)? {
            return Ok(init.clone());
        }
    }
    let inits = inits.iter().map(|init| format!("{init} in the image"));
    Err(Failure::new(format_args!("the image has no init"))
        .awaited(inits)
        .advise("the image was not made from an initramfs or a root tree; build it again"))
}

fn overlay() -> Result<(), Failure> {
    mount::mount("tmpfs", WRITABLE, "tmpfs", Flags::empty(), "mode=0755")?;
    let upper = format!("{WRITABLE}/upper");
    let work = format!("{WRITABLE}/work");
    for folder in [&upper, &work] {
        // The overlay's root takes its mode from the upper folder.
        file::mkdir(folder)?;
    }
    // volatile: the upper layer is RAM, syncing it would be for nothing.
    let options = format!("lowerdir={IMAGE},upperdir={upper},workdir={work},volatile");
    mount::mount("overlay", ROOT, "overlay", Flags::empty(), &options)?;
    Ok(())
}

fn mount_image(device: &str, dax: bool, log: &mut Log) -> Result<(), Failure> {
    // The overlay has its devices from the layers, and flags of its own; what is
    // read before it is there are files.
    let flags = Flags::RDONLY | Flags::NOATIME | Flags::NODEV;
    if dax {
        let mounted = mount::mount(device, IMAGE, "erofs", flags, "dax=always");
        match mounted {
            Ok(()) if memory::has_dax(IMAGE) => {
                log.info(format_args!("the image is used where it lies (DAX)"));
                return Ok(());
            }
            Ok(()) => {
                log.warn(format_args!(
                    "the kernel has no DAX for {device}: pages are copied"
                ));
                return Ok(());
            }
            Err(error) => log.warn(format_args!("no DAX, pages are copied: {error}")),
        }
    }
    mount::mount(device, IMAGE, "erofs", flags, "").map_err(|error| {
        Failure::new(format_args!(
            "the image on {device} cannot be mounted: {error}"
        ))
        .advise(
            "the kernel's log above says what EROFS did not like; was the image built for a newer \
             kernel (compression)?",
        )
    })
}

fn unreadable(device: &str, error: &kernel_abi::Error) -> Failure {
    Failure::new(format_args!(
        "the image on {device} cannot be read: {error}"
    ))
    .advise(
        "the image or the disk is damaged: the kernel's log above has more; boot another entry or \
         a rescue medium and install again",
    )
}
