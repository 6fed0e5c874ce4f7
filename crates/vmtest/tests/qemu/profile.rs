//! A boot is recorded, the image is built again by what it read, and the next boot
//! reads that ahead: in Debian, with systemd-boot, a UKI and dracut's image.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use qemu_driver::Outcome;
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
    fact record </run/initoverlayfs/record.json
    gzip -9 </root/profile.json | base64 -w 100 | fact profile
fi
"#;

/// A boot that was recorded, and what of.
struct Recorded {
    boot: Outcome,
    /// The profile, in a file.
    profile: PathBuf,
    /// Its paths.
    paths: Vec<String>,
    /// Pages of all of them.
    pages: u64,
}

/// Boots with this word for a record, which is then made by `method`.
fn record(ground: &Ground, dir: &Path, word: &str, method: &str) -> Result<Recorded, Failed> {
    let boot = look::boot(
        ground,
        &dir.join(word),
        LOOK,
        &format!("initoverlayfs.profile={word}"),
        &[],
    )?;
    expect(&boot, "this boot is recorded")?;
    if boot.find("read ahead:").is_some() {
        return Err(fail(&boot, "a recorded boot has read something ahead"));
    }
    if !facts(&boot, "instances").is_empty() {
        return Err(fail(&boot, "the tracing instance is still there"));
    }
    let about: Value = serde_json::from_str(&facts(&boot, "record").concat())?;
    if about["method"] != method {
        return Err(fail(&boot, &format!("the record is {about}")));
    }
    let packed = dir.join(format!("{word}.json.gz.base64"));
    fs::write(&packed, facts(&boot, "profile").join("\n"))?;
    let profile = dir.join(format!("{word}.json"));
    let unpack = format!(
        "base64 -d '{}' | gzip -d >'{}'",
        packed.display(),
        profile.display()
    );
    vmtest::command::output(std::process::Command::new("sh").args(["-ec", &unpack]))
        .map_err(|e| fail(&boot, &format!("the profile: {e}")))?;
    let json: Value = serde_json::from_slice(&fs::read(&profile)?)?;
    let files = json["files"].as_array().ok_or("the profile has no files")?;
    let paths: Vec<String> = files
        .iter()
        .filter_map(|file| Some(file["path"].as_str()?.to_owned()))
        .collect();
    let ranges = files.iter().filter_map(|file| file["pages"].as_array());
    let pages = ranges.flatten().filter_map(|range| range[1].as_u64()).sum();
    // What runs first is read first, and what no initrd uses is not there.
    let position = |end: &str| paths.iter().position(|path| path.ends_with(end));
    let (systemd, udev) = (position("lib/systemd/systemd"), position("bin/udevadm"));
    if systemd.is_none() || udev.is_none() || systemd > udev {
        return Err(fail(
            &boot,
            &format!("systemd {systemd:?}, udevadm {udev:?}"),
        ));
    }
    if paths.len() > 2000 {
        return Err(fail(&boot, &format!("{} files are hot", paths.len())));
    }
    Ok(Recorded {
        boot,
        profile,
        paths,
        pages,
    })
}

fn recorded(ground: &Ground) -> Result<(), Failed> {
    let dir = ground.dir().join("profile");
    fs::create_dir_all(&dir)?;
    let first = record(ground, &dir, "record", "trace")?;
    // As on a kernel that cannot trace: the process outlives the switch to the root,
    // and has seen what the trace saw, but for what differs between two boots.
    let noted = record(ground, &dir, "fanotify", "fanotify")?;
    let missing: Vec<&String> = first
        .paths
        .iter()
        .filter(|path| !noted.paths.contains(path))
        .collect();
    if missing.len() * 20 > first.paths.len() {
        let text = format!(
            "opened, but not noted, of {}: {missing:?}",
            first.paths.len()
        );
        return Err(fail(&noted.boot, &text));
    }

    if !(first.pages * 9 / 10..=first.pages * 11 / 10).contains(&noted.pages) {
        let text = format!("{} pages traced, {} noted", first.pages, noted.pages);
        return Err(fail(&noted.boot, &text));
    }

    let profile = first.profile;
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
