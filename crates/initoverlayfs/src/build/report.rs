//! What `build` says at its end.

use builder::{BuiltImage, BuiltMini, ImageSummary, MiniSummary};
use installer::Manifest;
use serde::Serialize;

use super::plan::BuildPlan;
use crate::ui;

/// The output of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    manifest: &'a Manifest,
    image: &'a ImageSummary,
    mini: &'a MiniSummary,
}

impl<'a> Json<'a> {
    pub(super) fn new(manifest: &'a Manifest, image: &'a BuiltImage, mini: &'a BuiltMini) -> Self {
        Self {
            manifest,
            image: &image.summary,
            mini: &mini.summary,
        }
    }
}

/// The summary for people.
pub(super) fn print(plan: &BuildPlan, manifest: &Manifest, image: &BuiltImage, mini: &BuiltMini) {
    let (image, mini) = (&image.summary, &mini.summary);
    let row = |name: &str, size: u64, note: String| vec![name.into(), ui::size(size), note];
    let mut rows = Vec::new();
    if image.input_bytes > 0 {
        rows.push(row("input initramfs", image.input_bytes, String::new()));
    }
    rows.push(row(
        &manifest.image.name,
        image.bytes,
        format!(
            "{} files, {} unpacked",
            image.files,
            ui::size(image.raw_bytes)
        ),
    ));
    rows.push(row(
        &manifest.initrd.name,
        mini.bytes,
        format!(
            "{}, {} unpacked",
            mini.compression,
            ui::size(mini.raw_bytes)
        ),
    ));
    rows.push(row(
        "  storage-init",
        mini.storage_init_bytes,
        String::new(),
    ));
    rows.push(row(
        "  modules",
        mini.module_bytes,
        format!("{} modules", mini.modules.len()),
    ));
    rows.push(row(
        "  boot plan",
        mini.plan_bytes,
        format!("{} aliases", mini.aliases),
    ));
    if mini.early_bytes > 0 {
        rows.push(row("  early segment", mini.early_bytes, String::new()));
    }
    rows.push(row(
        &manifest.kernel.name,
        manifest.kernel.size,
        manifest.kernel_release.clone(),
    ));
    ui::table(&["", "size", ""], &rows);
    for sentence in &image.adjustments {
        anstream::println!("Adjusted: {sentence}");
    }
    anstream::println!(
        "{} {} is in {}. The boot does not check who made the image (--auth none).",
        manifest.product,
        manifest.product_version,
        plan.output.display()
    );
}
