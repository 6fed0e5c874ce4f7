//! What `build` says at its end.

use builder::{Auth, BuiltUki, ImageSummary, MiniSummary};
use installer::Manifest;
use serde::Serialize;

use super::Built;
use super::memory::Memory;
use super::plan::BuildPlan;
use crate::ui;

/// The output of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    manifest: &'a Manifest,
    image: &'a ImageSummary,
    mini: &'a MiniSummary,
    uki: Option<&'a BuiltUki>,
    /// What a loader needs that puts the image into memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'a Memory>,
}

impl<'a> Json<'a> {
    pub(super) fn new(built: &'a Built) -> Self {
        Self {
            manifest: &built.manifest,
            image: &built.image.summary,
            mini: &built.mini.summary,
            uki: built.uki.as_ref(),
            memory: built.memory.as_ref(),
        }
    }
}

/// The summary for people.
pub(super) fn print(plan: &BuildPlan, built: &Built) {
    let manifest = &built.manifest;
    let (image, mini) = (&built.image.summary, &built.mini.summary);
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
    if let Some(prefetch) = &image.prefetch {
        let how = match prefetch.recorded {
            true => "as recorded",
            false => "by a guess",
        };
        rows.push(row(
            "  read ahead",
            prefetch.bytes,
            format!("{} files, {how}", prefetch.files),
        ));
    }
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
    if mini.embedded_bytes > 0 {
        rows.push(row(
            "  image",
            mini.embedded_bytes,
            "packed too, as it is".into(),
        ));
    }
    if mini.early_bytes > 0 {
        rows.push(row("  early segment", mini.early_bytes, String::new()));
    }
    rows.push(row(
        &manifest.kernel.name,
        manifest.kernel.size,
        manifest.kernel_release.clone(),
    ));
    if let (Some(uki), Some(artefact)) = (&built.uki, &manifest.uki) {
        let note = match uki.signed {
            true => "signed for Secure Boot".into(),
            false => "not signed for Secure Boot".into(),
        };
        rows.push(row(&artefact.name, uki.bytes, note));
    }
    ui::table(&["", "size", ""], &rows);
    for sentence in &image.adjustments {
        anstream::println!("Adjusted: {sentence}");
    }
    if let Some(memory) = &built.memory {
        for line in memory.lines() {
            anstream::println!("{line}");
        }
        if manifest.cmdline.is_none() {
            anstream::println!("The boot entry's command line needs that argument, too.");
        }
    }
    anstream::println!(
        "{} {} is in {}. {}",
        manifest.product,
        manifest.product_version,
        plan.output.display(),
        trust(plan, built)
    );
}

/// What the boot takes for authentic, as a sentence.
fn trust(plan: &BuildPlan, built: &Built) -> String {
    match &built.mini.plan.auth {
        Auth::None => "The boot does not check who made the image (--auth none).".into(),
        Auth::Sealed(root) => format!("The boot takes only this image, root hash {root}."),
        Auth::Signed(signed) => {
            let count = signed.certificates.len();
            let by = match count {
                1 => "a signature by one certificate".to_owned(),
                _ => format!("a signature by one of {count} certificates"),
            };
            let yet = match plan.trust.unsigned() {
                true => "; this one has none yet: use `initoverlayfs sign`",
                false => "",
            };
            format!("The boot takes images of this product with {by}{yet}.")
        }
    }
}
