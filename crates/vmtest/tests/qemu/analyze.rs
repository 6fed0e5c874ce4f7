//! `initoverlayfs analyze` in a booted Debian: systemd-boot, a UKI for any
//! machine, dracut's image, the root beside the ESP, multi-user.
//!
//! What it says there has to agree with two other witnesses of the same boot: the
//! stages in the kernel log, and systemd. The loader's times are written into the
//! firmware's variables by hand: systemd-boot takes none on a virtual machine.

use std::fs;
use std::time::Duration;

use libtest_mimic::Failed;
use qemu_driver::Outcome;
use serde_json::Value;

use crate::support::{Ground, facts, fail};
use crate::{Test, look};

pub(crate) const TESTS: &[Test] = &[Test::new(
    "analyze_agrees_with_the_log_and_with_systemd",
    analyze,
)];

/// Runs when systemd has started everything.
const LOOK: &str = r#"
for wait in 1 2 3 4 5 6 7 8 9 10; do
    case $(systemctl show --value -p FinishTimestampMonotonic) in
        0) sleep 1 ;;
        *) break ;;
    esac
done
cd /sys/firmware/efi/efivars
vendor=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
for pair in LoaderTimeInitUSec=2000000 LoaderTimeExecUSec=3500000; do
    # Attributes (non-volatile: others cannot be made now), then UTF-16, in one write.
    { printf '\007\000\000\000'; echo -n "${pair#*=}" | sed 's/./&\x00/g'; } >/run/variable
    cat /run/variable >"${pair%=*}-$vendor"
done
tool() { /root/initoverlayfs analyze "$@" 2>&1; }
tool --json >/run/analyze.json
# The console's lines are short, JSON's line ends do not matter.
fact analyze </run/analyze.json
tool | fact text
tool --svg /run/analyze.svg | fact svg-said
tail -c 7 /run/analyze.svg | fact svg-end
fact boot-json </run/initoverlayfs/boot.json
systemctl show -p InitRDTimestampMonotonic -p UserspaceTimestampMonotonic \
    -p FinishTimestampMonotonic | fact time
"#;

/// What the script writes into the variables, in microseconds since power-on.
const LOADER_US: i64 = 2_000_000;
const KERNEL_US: i64 = 3_500_000;

/// How far the log may lag behind a stage's own time.
const LAG: Duration = Duration::from_millis(100);

fn analyze(ground: &Ground) -> Result<(), Failed> {
    let dir = ground.dir().join("analyze");
    let outcome = look::boot(ground, &dir, LOOK, "", &[])?;
    if let Some(folder) = std::env::var_os("IOFS_KEEP") {
        keep(&outcome, std::path::Path::new(&folder))?;
    }
    let said: Value = serde_json::from_str(&facts(&outcome, "analyze").join("\n"))
        .map_err(|e| fail(&outcome, &format!("analyze --json: {e}")))?;
    stages_agree(&outcome, &said)?;
    systemd_agrees(&outcome, &said)?;
    if said["prefetch"]["bytes"]
        .as_u64()
        .is_none_or(|bytes| bytes == 0)
    {
        return Err(fail(&outcome, "nothing is said of what was read ahead"));
    }
    if facts(&outcome, "svg-end").concat() != "</svg>" {
        return Err(fail(&outcome, "the chart is no SVG"));
    }
    let text = facts(&outcome, "text").join("\n");
    for part in [
        "firmware",
        "loader",
        "kernel",
        "initrd",
        "system",
        "virtio_blk",
        "read a UKI of",
        "read ahead beside the image's init: ",
    ] {
        if !text.contains(part) {
            return Err(fail(&outcome, &format!("the text has no {part}")));
        }
    }
    Ok(())
}

/// Leaves what the guest said where the tests of the program take records from.
fn keep(outcome: &Outcome, folder: &std::path::Path) -> Result<(), Failed> {
    fs::create_dir_all(folder)?;
    for name in ["analyze", "text", "boot-json", "time", "svg-said"] {
        fs::write(folder.join(name), facts(outcome, name).join("\n") + "\n")?;
    }
    Ok(())
}

/// The end of a phase, in microseconds since the kernel started.
fn end(said: &Value, name: &str) -> Option<i64> {
    let phases = said.get("phases")?.as_array()?;
    let phase = phases.iter().find(|phase| phase["name"] == name)?;
    Some(phase["at_us"].as_i64()? + phase["us"].as_i64()?)
}

/// Each stage of the kernel log ends a phase at the same time.
fn stages_agree(outcome: &Outcome, said: &Value) -> Result<(), Failed> {
    let mut seen = 0;
    for line in &outcome.lines {
        let Some((at, message)) = &line.kernel else {
            continue;
        };
        let Some(rest) = message.strip_prefix("storage-init: [stage ") else {
            continue;
        };
        let (name, _) = rest.split_once(']').unwrap_or_default();
        let name = if name == "start" { "kernel" } else { name };
        let told = end(said, name).and_then(|us| u64::try_from(us).ok());
        let Some(told) = told.map(Duration::from_micros) else {
            return Err(fail(outcome, &format!("no phase ends with stage {name}")));
        };
        if told.abs_diff(*at) > LAG {
            return Err(fail(
                outcome,
                &format!("stage {name}: {told:?}, in the log {at:?}"),
            ));
        }
        seen += 1;
    }
    match seen {
        9.. => Ok(()),
        _ => Err(fail(outcome, &format!("{seen} stages in the log"))),
    }
}

/// Firmware and loader are what the variables say, the rest is what systemd says.
fn systemd_agrees(outcome: &Outcome, said: &Value) -> Result<(), Failed> {
    let times = facts(outcome, "time");
    let time = |name: &str| -> Option<i64> {
        let prefix = format!("{name}TimestampMonotonic=");
        let line = times.iter().find_map(|line| line.strip_prefix(&prefix));
        line?.parse().ok()
    };
    let named = |name: &str| time(name).filter(|&us| us > 0);
    let wanted = [
        ("firmware", Some(LOADER_US - KERNEL_US)),
        ("loader", Some(0)),
        ("initrd", named("Userspace")),
        ("system", named("Finish")),
    ];
    for (name, wanted) in wanted {
        if wanted.is_none() || end(said, name) != wanted {
            return Err(fail(
                outcome,
                &format!(
                    "{name} ends at {:?}, systemd says {wanted:?}",
                    end(said, name)
                ),
            ));
        }
    }
    let start = said.pointer("/phases/0/at_us").and_then(Value::as_i64);
    match start == Some(-KERNEL_US) {
        true => Ok(()),
        false => Err(fail(outcome, &format!("firmware starts at {start:?}"))),
    }
}
