//! `initoverlayfs run`, as a user types it.

use std::process::Command;

use libtest_mimic::Failed;
use serde_json::Value;
use vmtest::command;
use vmtest::guest;

use crate::Test;
use crate::support::{Ground, LIMIT};

pub(crate) const TESTS: &[Test] = &[
    Test::new("run_boots_a_set", |ground| run(ground, "none")),
    Test::new("run_boots_a_set_by_uefi_firmware", |ground| {
        run(ground, "ovmf")
    }),
];

fn run(ground: &Ground, firmware: &str) -> Result<(), Failed> {
    let set = ground.dracut()?;
    let output = command::output(
        Command::new(ground.dist.join("initoverlayfs"))
            .args(["run", "--json", "--firmware", firmware, "--from"])
            .arg(&set.dir)
            .arg("--disk")
            .arg(ground.guest.root_image())
            .args(["--timeout", &LIMIT.as_secs().to_string()])
            .args(["--until", guest::MARKED, "--append"])
            .arg(format!(
                "console=ttyS0 root=LABEL={} rw init={}",
                guest::ROOT_LABEL,
                guest::MARK
            )),
    )?;
    let report: Value = serde_json::from_slice(&output)?;
    let text = report.to_string();
    for stage in ["plan", "modules", "device", "image", "exec"] {
        if !text.contains(&format!("\"{stage}\"")) {
            return Err(format!("no stage {stage} in {text}").into());
        }
    }
    Ok(())
}
