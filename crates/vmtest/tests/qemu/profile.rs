//! A boot is recorded, the image is built again by what it read, and the next boot
//! reads that ahead: in Debian, with systemd-boot, a UKI and dracut's image.

use std::fs;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::support::{Ground, expect, facts, fail};
use crate::{Test, look};

pub(crate) const TESTS: &[Test] = &[Test::new(
    "a_recorded_boot_is_read_ahead_by_the_next",
    recorded,
)];

/// Runs at multi-user. Console lines are short, so the
/// profile comes a file a line.
const LOOK: &str = r#"
if [ -e /run/initoverlayfs/record.json ]; then
    /root/initoverlayfs profile collect --esp /efi --output /root/profile.json 2>&1 | fact collect
    ls /sys/kernel/tracing/instances | fact instances
    /root/initoverlayfs profile show --output /root/profile.json 2>&1 | head -20 | fact shown
    gzip -9 </root/profile.json | base64 -w 100 | fact profile
fi
"#;

fn recorded(ground: &Ground) -> Result<(), Failed> {
    let dir = ground.dir().join("profile");
    fs::create_dir_all(&dir)?;
    let first = look::boot(
        ground,
        &dir.join("first"),
        LOOK,
        "initoverlayfs.profile=record",
        &[],
    )?;
    expect(&first, "this boot is recorded")?;
    if first.find("read ahead:").is_some() {
        return Err(fail(&first, "a recorded boot has read something ahead"));
    }
    if !facts(&first, "instances").is_empty() {
        return Err(fail(&first, "the tracing instance is still there"));
    }
    let packed = dir.join("profile.json.gz.base64");
    fs::write(&packed, facts(&first, "profile").join("\n"))?;
    let profile = dir.join("profile.json");
    let unpack = format!(
        "base64 -d '{}' | gzip -d >'{}'",
        packed.display(),
        profile.display()
    );
    vmtest::command::output(std::process::Command::new("sh").args(["-ec", &unpack]))
        .map_err(|e| fail(&first, &format!("the profile: {e}")))?;
    let json: Value = serde_json::from_slice(&fs::read(&profile)?)?;
    let files = json["files"].as_array().ok_or("the profile has no files")?;
    let paths: Vec<&str> = files.iter().filter_map(|f| f["path"].as_str()).collect();
    // What runs first is read first, and what no initrd uses is not there.
    let position = |end: &str| paths.iter().position(|path| path.ends_with(end));
    let (systemd, udev) = (position("lib/systemd/systemd"), position("bin/udevadm"));
    if systemd.is_none() || udev.is_none() || systemd > udev {
        return Err(fail(
            &first,
            &format!("systemd {systemd:?}, udevadm {udev:?}"),
        ));
    }
    if paths.len() > 2000 {
        return Err(fail(&first, &format!("{} files are hot", paths.len())));
    }

    let profile = profile.to_string_lossy().into_owned();
    let second = look::boot(
        ground,
        &dir.join("second"),
        LOOK,
        "",
        &["--profile", &profile],
    )?;
    let line = second
        .lines
        .iter()
        .find_map(|line| line.text.split_once("read ahead: "))
        .ok_or_else(|| fail(&second, "nothing was read ahead"))?
        .1;
    let number = |at: usize| -> u64 {
        let word = line.split_whitespace().nth(at).unwrap_or_default();
        word.parse().unwrap_or(0)
    };
    let (kib, opened) = (number(0), number(3));
    if kib < 4096 || opened < 50 {
        return Err(fail(&second, &format!("too little was read ahead: {line}")));
    }
    Ok(())
}
