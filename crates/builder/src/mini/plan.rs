//! Compiles the boot plan.

use super::catalogue;
use super::index::KernelModules;
use super::select::Chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::request::MiniRequest;
use iofs_plan::{Alias, Auth, BootPlan, Module, OnCorruption, Role};
use std::collections::BTreeMap;

/// The plan for the request and the modules that were chosen.
pub(crate) fn compile(
    request: &MiniRequest,
    kernel: Option<&KernelModules>,
    chosen: &[Chosen<'_>],
) -> Result<BootPlan> {
    let modules = chosen
        .iter()
        .map(|chosen| Module {
            name: chosen.module.name.clone(),
            file: file_name(chosen),
            params: kernel.map_or_else(String::new, |kernel| {
                kernel.index.options(&chosen.module.name)
            }),
            role: chosen.role,
            needs: chosen.needs.clone(),
            required: chosen.required,
        })
        .collect();
    Ok(BootPlan {
        product: request.product.clone(),
        kernel_release: request.kernel.release.clone(),
        auth: Auth::None,
        on_corruption: OnCorruption::default(),
        candidates: request.candidates.clone(),
        modules,
        aliases: kernel.map_or_else(Vec::new, |kernel| aliases(kernel, chosen)),
        inits: request.inits.clone(),
        device_timeout_ms: request.device_timeout_ms,
        on_failure: request.on_failure,
        failure_wait_ms: request.failure_wait_ms,
    })
}

/// Encodes a plan and reads it back: what PID 1 will do with it.
pub(crate) fn encode(plan: &BootPlan) -> Result<Vec<u8>> {
    let failed = |source| {
        Error::new(ErrorKind::Usage, "the boot plan cannot be written as it is").source(source)
    };
    let bytes = plan.encode().map_err(failed)?;
    match BootPlan::decode(&bytes) {
        Ok(read) if read == *plan => Ok(bytes),
        Ok(_) => Err(Error::new(
            ErrorKind::Verify,
            "the boot plan reads back as another one",
        )),
        Err(source) => Err(failed(source)),
    }
}

/// A module's file in the mini-initramfs.
pub(crate) fn file_name(chosen: &Chosen<'_>) -> String {
    format!("{}.ko", chosen.module.name)
}

/// The aliases by which devices ask for the chosen drivers, sorted by pattern.
fn aliases(kernel: &KernelModules, chosen: &[Chosen<'_>]) -> Vec<Alias> {
    let drivers: BTreeMap<&str, u16> = (0..)
        .zip(chosen)
        .filter(|(_, chosen)| matches!(chosen.role, Role::Disk | Role::Bus))
        .map(|(number, chosen)| (chosen.module.name.as_str(), number))
        .collect();
    let mut aliases: Vec<Alias> = kernel
        .aliases
        .iter()
        .filter(|(pattern, _)| catalogue::storage_alias(pattern))
        .filter(|(_, module)| !kernel.index.is_blacklisted(module))
        .filter_map(|(pattern, module)| {
            let module = *drivers.get(module.as_str())?;
            Some(Alias {
                pattern: pattern.clone(),
                module,
            })
        })
        .collect();
    aliases.sort();
    aliases.dedup();
    aliases
}
