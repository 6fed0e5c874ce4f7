//! The boot.

use core::convert::Infallible;

use alloc::format;
use freestanding::Start;
use iofs_plan::{Selector, Stage};
use kernel_abi::uevent::Uevents;

use crate::direct::Ended;
use crate::image::Found;
use crate::log::Log;
use crate::modules::Loader;
use crate::paths::Paths;
use crate::report::Failure;
use crate::root::Mounted;
use crate::search::Search;
use crate::settings::Settings;
use crate::stack::ImageDevice;
use crate::trust::Trust;
use crate::{
    boot_json, direct, extensions, handover, hunt, measure, record, root, setup, stack, system,
};

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
    //    subscribed to before, so that no device can come unseen. Nothing is
    //    waited for here: disks are looked at while the rest still loads.
    let uevents = Uevents::subscribe()?;
    let mut modules = Loader::new(&settings.plan, &paths);
    if let Some(workers) = settings.workers {
        modules.limit(workers);
    }

    //    Where the root is so simple that nothing of the image is needed to reach
    //    it, that is the way. Whatever is wrong with it, the image comes up, and
    //    has the tools to mend it.
    if let Some(wanted) = direct::wanted(settings, &paths, log) {
        match direct::boot(
            start,
            &wanted,
            settings,
            &paths,
            &uevents,
            &mut modules,
            log,
        ) {
            Ok(never) => match never {},
            Err(Ended::Before(failure)) => direct::explain(&failure, log),
            Err(Ended::After(failure)) => return Err(failure),
        }
    }
    modules.want_first(&settings.hint);
    if settings
        .candidates()
        .all(|candidate| candidate.file.is_some() || candidate.partition == Selector::Embedded)
    {
        modules.want_for_image("loop");
    }

    // 4. The image: the first candidate that is there, is what the plan expects
    //    and can be read. Whatever drivers the devices ask for are loaded on the
    //    way.
    let trust = Trust::new(&settings.plan.auth)?;
    let mut search = Search::new(settings, &trust, &paths);
    let mut found = hunt::find(&mut search, &uevents, &paths, &mut modules, log)?;
    log.stage("device", &found.describe());
    modules.finish_image(log);
    log.stage("modules", &modules.summary());
    // 5. and 6. Its proof, the block device that is exactly the image, EROFS on
    //    it and an overlay that makes it writable. If one of these fails, another
    //    image that is there will do.
    let (device, mounted) = loop {
        match assemble(&found, settings, &paths, &mut modules, log) {
            Ok(done) => break done,
            Err(failure) => found = search.instead_of(found, failure, &mut modules, log)?,
        }
        log.stage("device", &found.describe());
    };

    // 7. All that must outlive the mini-initramfs goes into the new root; the
    //    rest is freed.
    let init = mounted.init.clone();
    let taken = extensions::take(settings, &paths, log);
    if settings.plan.stage == Stage::System {
        system::prepare(&found, &paths, log);
    }
    handover::carry_over(&mounted, &settings.plan, log)?;
    //    Extensions come last: what they extend can be written to no more.
    let merged = extensions::merge(
        &taken,
        &found,
        &mounted,
        settings,
        &paths,
        &mut modules,
        log,
    );
    log.stage("handover", &format!("next is {init} in the image"));
    handover::enter(&mounted, log)?;

    // 8. One process becomes the next.
    log.stage("exec", &init);
    boot_json::write(log, settings, &found, &device, &merged, &modules, &init);
    if let Some(opens) = &mounted.opens {
        opens.start(log);
    }
    if settings.record.is_some() {
        record::keep(log);
    }
    Err(handover::exec(&init, start))
}

/// From an image that was found to one that is mounted.
fn assemble(
    found: &Found,
    settings: &Settings,
    paths: &Paths,
    modules: &mut Loader<'_>,
    log: &mut Log,
) -> Result<(ImageDevice, Mounted), Failure> {
    if let Some(proof) = &found.proof {
        let (root, reason) = (&proof.trees.root, &proof.reason);
        log.stage("proof", &format!("root hash {root}, {reason}"));
    }
    measure::measure(found.proof.as_ref(), settings, paths, log)?;
    let device = stack::build(found, settings, modules, log)?;
    log.stage("image", &device.describe());
    let mounted = match root::mount(&device, found, settings, log) {
        Ok(mounted) => mounted,
        Err(failure) => {
            // What failed first is what has to be said.
            let _ = device.release();
            return Err(failure);
        }
    };
    log.stage("mount", &mounted.describe());
    Ok((device, mounted))
}
