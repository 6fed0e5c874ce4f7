//! Compiles the boot plan.

use super::index::KernelModules;
use super::packs::Layout;
use super::select::Chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::request::MiniRequest;
use iofs_kmod::ModInfo;
use iofs_plan::{Alias, AliasTable, Appended, Auth, BootPlan, Module, Role};
use std::collections::BTreeMap;

/// By this the keyring that dm-verity checks signatures with can be filled and
/// is then to be sealed by PID 1 (Linux 7.0, drivers/md/dm-verity-verify-sig.c).
const UNSEALED: &str = "keyring_unsealed";

/// The plan for the request and the modules that were chosen, whose files'
/// bytes are `bytes`.
pub(crate) fn compile(
    request: &MiniRequest,
    kernel: Option<&KernelModules>,
    chosen: &[Chosen<'_>],
    bytes: &[Vec<u8>],
    layout: &Layout,
) -> Result<BootPlan> {
    let modules = chosen
        .iter()
        .zip(bytes)
        .enumerate()
        .map(|(number, (chosen, bytes))| Module {
            name: chosen.module.name.clone(),
            file: file_name(chosen),
            packed: layout.place(number),
            params: params(request, kernel, chosen, bytes),
            role: chosen.role,
            needs: chosen.needs.clone(),
            required: chosen.required,
            fallback_for: chosen.fallback_for.clone(),
        })
        .collect();
    Ok(BootPlan {
        product: request.product.clone(),
        kernel_release: request.kernel.release.clone(),
        auth: request.auth.clone(),
        on_corruption: request.on_corruption,
        candidates: request.candidates.clone(),
        kernel_mounts: request.kernel_mounts.clone(),
        direct: request.direct.clone(),
        stage: request.stage,
        extensions: request.extensions.clone(),
        appended: request.appended.unwrap_or(match request.auth {
            Auth::None => Appended::All,
            Auth::Sealed(_) | Auth::Signed(_) => Appended::Extra,
        }),
        packs: layout.packs.clone(),
        modules,
        aliases: aliases(kernel, chosen)?,
        inits: request.inits.clone(),
        device_timeout_ms: request.device_timeout_ms,
        on_failure: request.on_failure,
        failure_wait_ms: request.failure_wait_ms,
    })
}

/// What modprobe.d says, and what this boot needs.
fn params(
    request: &MiniRequest,
    kernel: Option<&KernelModules>,
    chosen: &Chosen<'_>,
    bytes: &[u8],
) -> String {
    let name = chosen.module.name.as_str();
    let mut params = kernel.map_or_else(String::new, |kernel| kernel.index.options(name));
    let signed = matches!(request.auth, Auth::Signed(_));
    let known = || {
        ModInfo::parse(bytes).is_ok_and(|info| {
            info.all("parm")
                .any(|parm| parm.split(':').next() == Some(UNSEALED))
        })
    };
    if name == "dm_verity" && signed && !params.contains(UNSEALED) && known() {
        if !params.is_empty() {
            params.push(' ');
        }
        params += UNSEALED;
        params += "=1";
    }
    params
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

/// The aliases by which devices ask for the chosen drivers.
fn aliases(kernel: Option<&KernelModules>, chosen: &[Chosen<'_>]) -> Result<AliasTable> {
    let drivers: BTreeMap<&str, u16> = (0..)
        .zip(chosen)
        .filter(|(_, chosen)| matches!(chosen.role, Role::Disk | Role::Bus))
        .map(|(number, chosen)| (chosen.module.name.as_str(), number))
        .collect();
    let target = |module: &str| drivers.get(module).copied();
    table(
        kernel.into_iter().flat_map(KernelModules::storage_aliases),
        target,
    )
}

/// A table of those aliases whose module has a number.
pub(crate) fn table<'k>(
    aliases: impl IntoIterator<Item = (&'k str, &'k str)>,
    mut target: impl FnMut(&str) -> Option<u16>,
) -> Result<AliasTable> {
    let mut aliases: Vec<Alias> = aliases
        .into_iter()
        .filter_map(|(pattern, module)| {
            Some(Alias {
                module: target(module)?,
                pattern: pattern.to_owned(),
            })
        })
        .collect();
    aliases.sort();
    aliases.dedup();
    AliasTable::build(&aliases).map_err(|source| {
        Error::new(
            ErrorKind::Modules,
            "the kernel's aliases cannot be compiled",
        )
        .source(source)
    })
}
