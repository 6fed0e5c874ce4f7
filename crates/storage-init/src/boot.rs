//! The boot.

use core::convert::Infallible;

use alloc::format;
use freestanding::Start;
use kernel_abi::uevent::Uevents;

use crate::log::Log;
use crate::modules::Loader;
use crate::paths::Paths;
use crate::report::Failure;
use crate::settings::Settings;
use crate::{boot_json, handover, root, search, setup, stack};

/// Boots. Returns only if that failed; `settings` is then what was known.
///
/// # Errors
/// Why there is no init to execute, with what was awaited and what was seen.
pub fn run(
    start: &Start,
    log: &mut Log,
    settings: &mut Option<Settings>,
) -> Result<Infallible, Failure> {
    let paths = Paths::kernel();

    // 1. The kernel's file systems: without them there is neither log nor device.
    setup::mount_kernel_file_systems(log)?;
    log.stage("start", concat!("storage-init ", env!("CARGO_PKG_VERSION")));

    // 2. What the builder decided, and what the command line chooses among that.
    let (chosen, usable) = Settings::read(&paths, log);
    let settings = &*settings.insert(chosen);
    usable?;
    log.stage("plan", &settings.describe());

    // 3. The modules that the way to the image is known to need. Uevents are
    //    subscribed to before, so that no device can come unseen.
    let uevents = Uevents::subscribe()?;
    let mut modules = Loader::new(&settings.plan, &paths);
    modules.load_first(log);
    log.stage("modules", &modules.summary());

    // 4. The image: the first candidate that is there, is what the plan expects
    //    and can be read. Whatever drivers the devices ask for are loaded on the
    //    way.
    let found = search::find(settings, &paths, &uevents, &mut modules, log)?;
    log.stage("device", &found.describe());

    // 5. The block device that is exactly the image.
    let device = stack::build(&found, &mut modules, log)?;
    log.stage("image", &device.describe());

    // 6. EROFS on it, and an overlay that makes it writable.
    let mounted = root::mount(&device)?;
    log.stage("mount", &mounted.describe());

    // 7. All that must outlive the mini-initramfs goes into the new root; the
    //    rest is freed.
    let init = handover::find_init(settings, &mounted)?;
    handover::carry_over(&mounted, log)?;
    log.stage("handover", &format!("next is {init} in the image"));
    handover::enter(&mounted, log)?;

    // 8. One process becomes the next.
    log.stage("exec", &init);
    boot_json::write(log, settings, &found, &device, &modules, &init);
    Err(handover::exec(&init, start))
}
