//! Compiles the boot plan.

use super::catalogue;
use super::index::KernelModules;
use super::select::Chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::request::MiniRequest;
use iofs_kmod::ModInfo;
use iofs_plan::{Alias, Appended, Auth, BootPlan, Module, Role};
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
) -> Result<BootPlan> {
    let modules = chosen
        .iter()
        .zip(bytes)
        .map(|(chosen, bytes)| Module {
            name: chosen.module.name.clone(),
            file: file_name(chosen),
            packed: None,
            params: params(request, kernel, chosen, bytes),
            role: chosen.role,
            needs: chosen.needs.clone(),
            required: chosen.required,
        })
        .collect();
    Ok(BootPlan {
        product: request.product.clone(),
        kernel_release: request.kernel.release.clone(),
        auth: request.auth.clone(),
        on_corruption: request.on_corruption,
        candidates: request.candidates.clone(),
        kernel_mounts: Vec::new(),
        appended: match request.auth {
            Auth::None => Appended::All,
            Auth::Sealed(_) | Auth::Signed(_) => Appended::Extra,
        },
        packs: Vec::new(),
        modules,
        aliases: kernel.map_or_else(Vec::new, |kernel| aliases(kernel, chosen)),
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
