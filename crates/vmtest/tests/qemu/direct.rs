//! Boots of Debian to its own root, without the image's init.

use libtest_mimic::Failed;
use qemu_driver::Outcome;

use crate::support::{Ground, expect, facts, fail};
use crate::{Test, look};

pub(crate) const TESTS: &[Test] = &[Test::new(
    "direct_brings_up_one_init_and_the_image_where_it_cannot",
    direct,
)];

/// Runs at multi-user.
const LOOK: &str = r#"
findmnt -n -o SOURCE,FSTYPE / | fact root
cat /proc/modules | cut -d' ' -f1 | fact module
systemctl show -p InitRDTimestampMonotonic --value | fact initrd
systemctl is-active systemd-remount-fs.service local-fs.target | fact unit
systemctl --failed --no-legend --plain | fact failed
cat /run/initoverlayfs/direct-failed | fact reason
/root/initoverlayfs analyze 2>&1 | head -3 | fact analyze
"#;

/// How often systemd came up as PID 1.
pub(crate) fn inits(outcome: &Outcome) -> usize {
    let lines = outcome.lines.iter().filter_map(|line| line.kernel.as_ref());
    lines
        .filter(|(_, text)| {
            text.starts_with("systemd[1]: ") && text.contains("running in system mode")
        })
        .count()
}

fn direct(ground: &Ground) -> Result<(), Failed> {
    let dir = ground.dir().join("direct");
    let options = ["--mode", "direct"];
    let label = format!("root=LABEL={}", vmtest::guest::ROOT_LABEL);
    let outcome = look::boot(ground, &dir.join("root"), LOOK, &label, &options)?;
    expect(&outcome, "[stage exec] /sbin/init")?;
    if inits(&outcome) != 1 {
        return Err(fail(
            &outcome,
            &format!("{} inits came up instead of one", inits(&outcome)),
        ));
    }
    let fact = |name: &str| facts(&outcome, name);
    let root = fact("root").concat();
    if !root.starts_with("/dev/vda") || !root.ends_with("ext4") {
        return Err(fail(&outcome, &format!("the root is {root}")));
    }
    let modules = fact("module");
    for needless in ["erofs", "overlay", "dm_verity", "loop"] {
        if modules.contains(&needless) {
            return Err(fail(&outcome, &format!("the module {needless} was loaded")));
        }
    }
    if fact("initrd") != ["0"] || fact("unit") != ["active", "active"] || !fact("failed").is_empty()
    {
        return Err(fail(
            &outcome,
            "systemd is not as on a root without an initrd",
        ));
    }
    if !fact("analyze").concat().contains("ext4 on /dev/vda") {
        return Err(fail(
            &outcome,
            "analyze does not say that the boot was direct",
        ));
    }

    // The root is there, but not as a file system that this was built for: the
    // image's dracut mounts it.
    let options = ["--mode", "direct", "--root-fs", "xfs"];
    let outcome = look::boot(ground, &dir.join("image"), LOOK, &label, &options)?;
    expect(&outcome, "has ext4, and this was built for xfs")?;
    if inits(&outcome) != 2 {
        return Err(fail(
            &outcome,
            &format!("{} inits came up instead of two", inits(&outcome)),
        ));
    }
    let reason = facts(&outcome, "reason").concat();
    if !reason.contains("has ext4, and this was built for xfs") {
        return Err(fail(
            &outcome,
            "the reason is not where those who mend the root look",
        ));
    }
    Ok(())
}
