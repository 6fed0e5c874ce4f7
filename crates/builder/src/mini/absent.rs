//! What this kernel could drive and this mini-initramfs cannot: the list that a
//! failed boot looks its devices up in.

use super::catalogue;
use super::index::KernelModules;
use super::plan;
use super::select::{Chosen, drives_storage};
use crate::error::{Error, ErrorKind, Result};
use iofs_plan::Absent;
use std::collections::{BTreeMap, BTreeSet};

/// Parts of a pattern by which a device says that it is storage: PCI class 01
/// (mass storage controllers), USB interface class 08 (mass storage).
const STORAGE_CLASSES: [&str; 2] = ["bc01", "ic08"];

/// The list, as one zstd frame; `None` if nothing is absent.
pub(crate) fn compile(kernel: &KernelModules, chosen: &[Chosen<'_>]) -> Result<Option<Vec<u8>>> {
    let present: BTreeSet<&str> = chosen.iter().map(|c| c.module.name.as_str()).collect();
    let absent: Vec<(&str, &str)> = kernel
        .storage_aliases()
        .filter(|(_, module)| !present.contains(module))
        .filter(|(pattern, module)| would_serve(kernel, pattern, module))
        .collect();
    if absent.is_empty() {
        return Ok(None);
    }
    let names: BTreeSet<&str> = absent.iter().map(|&(_, module)| module).collect();
    let numbers: BTreeMap<&str, u16> = names.iter().copied().zip(0..).collect();
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(
            ErrorKind::Modules,
            "the list of absent drivers cannot be made",
        )
        .source(source)
    };
    let aliases = plan::table(absent, |module| numbers.get(module).copied())?;
    let absent = Absent {
        modules: names.into_iter().map(str::to_owned).collect(),
        aliases,
    };
    let content = absent.encode().map_err(|e| failed(e.into()))?;
    frame(&content).map(Some).map_err(|e| failed(e.into()))
}

/// Whether a module that this kernel has would make a disk of a device.
fn would_serve(kernel: &KernelModules, pattern: &str, module: &str) -> bool {
    let Some(module) = kernel.index.module(module) else {
        return false;
    };
    // Tapes, changers and CD-ROMs are devices of this bus too.
    let is_on_scsi = pattern.starts_with("scsi:");
    drives_storage(module)
        || (!is_on_scsi
            && (STORAGE_CLASSES.iter().any(|class| pattern.contains(class))
                || catalogue::in_storage_folder(&module.path)))
}

/// Small, and read by a boot that has failed: the best that zstd can do.
fn frame(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(19)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    compressor.compress(content)
}
