//! Recorded boots, on a kernel that cannot trace what is read: user-mode-linux has no
//! ftrace, so what is opened is noted.

use libtest_mimic::Failed;
use serde_json::Value;
use vmtest::disk::Partition;

use crate::Test;
use crate::handover::next_root;
use crate::support::{Boot, FIRST, Ground, on_esp};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "a_kernel_that_cannot_trace_has_opened_files_noted",
        |ground| opened(ground, ""),
    ),
    // As initramfs-tools has one.
    Test::new("a_record_is_found_behind_a_run_of_its_own", |ground| {
        opened(ground, "testinit.mount=tmpfs,tmpfs,/run,rw")
    }),
];

/// What was noted, and what ends it.
pub(crate) const PATHS: &str = "/run/initoverlayfs/record.paths";
pub(crate) const STOP: &str = "/run/initoverlayfs/record.stop";
const RECORD: &str = "/run/initoverlayfs/record.json";

fn opened(ground: &Ground, before: &str) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    let volume = boot.path("volume");
    volumes::fat32(&volume, &ground.image().path);
    let root = next_root(&boot, ground);
    boot.disk(&[Partition::esp(FIRST, &volume).unwrap(), root]);
    boot.words("initoverlayfs.profile=record");
    boot.words(before);
    // Twice, and a file that the image does not have.
    boot.words("testinit.sum=/data testinit.sum=/data testinit.write=/mnt/new");
    boot.words("testinit.cat=/mnt/new testinit.switch=/dev/ubda2");
    // The image is held until the record is whole.
    boot.words("testinit2.stacked");
    boot.words(&format!(
        "testinit2.write={STOP} testinit2.whole={PATHS} testinit2.cat={PATHS}"
    ));
    boot.words(&format!("testinit2.cat={RECORD} testinit2.freed"));
    let seen = boot.succeeds();
    seen.expects("the kernel cannot trace what is read, so opened files are noted: ");
    seen.expects("this boot is recorded, and slower for it");
    assert_eq!(seen.facts("stage"), ["first", "second"]);
    assert_eq!(seen.fact("stacked"), "loop0");
    let lines = seen.facts(PATHS);
    let place = |path: &str| {
        let end = format!(" {path}");
        lines.iter().position(|line| line.ends_with(&end))
    };
    let (init, data, run_init) = (place("init"), place("data"), place("bin/run-init"));
    assert!(
        init.is_some() && init < data && data < run_init,
        "{lines:?}"
    );
    assert_eq!(lines[data.unwrap()], "0+512 data");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[3], "end");
    let json: Value = serde_json::from_str(&seen.facts(RECORD).concat())?;
    assert_eq!(json["method"], "fanotify");
    assert_eq!(json["uuid"], ground.image().expect.uuid.to_string());
    let freed = seen.fact("freed");
    assert!(freed.starts_with("all after"), "{freed}");
    Ok(())
}
