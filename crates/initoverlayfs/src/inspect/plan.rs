//! Boot plans.

use builder::TrustedCertificate;
use iofs_plan::{Auth, BootPlan, MAX_LEN, OnCorruption, Stage, VERSION};

use super::node::{Fact, Node};
use super::{Described, View};

/// The plan that the source is.
pub(super) fn read(view: &View<'_>) -> Result<BootPlan, String> {
    if view.source.size() > MAX_LEN as u64 {
        return Err(format!(
            "a boot plan has at most {MAX_LEN} bytes; this has {}",
            view.source.size()
        ));
    }
    let bytes = view.whole("a boot plan")?;
    BootPlan::decode(&bytes).map_err(|e| e.to_string())
}

pub(super) fn describe(view: &View<'_>) -> Described {
    if view.bytes(0, 8).as_deref() != Some(b"IOFSPLAN") {
        return Ok(None);
    }
    let plan = read(view)?;
    let size = usize::try_from(view.source.size()).unwrap_or(usize::MAX);
    Ok(Some(node(&plan, size, view.list)))
}

/// The plan's outline; its modules and aliases where `list` asks for them.
pub(super) fn node(plan: &BootPlan, size: usize, list: bool) -> Node {
    let candidates = plan.candidates.iter().map(|candidate| {
        let place = match &candidate.file {
            Some(file) => format!("file {file} on {}", candidate.partition),
            None => candidate.partition.to_string(),
        };
        let expect = candidate.expect;
        let uuid = match expect.uuid.is_nil() {
            true => "any UUID".into(),
            false => format!("UUID {}", expect.uuid),
        };
        let size = match expect.size {
            0 => "any size".into(),
            size => format!("{size} bytes"),
        };
        format!("{}: {place}; expects {uuid}, {size}", candidate.name)
    });
    let node = Node::new("boot-plan")
        .fact("size", Fact::size(size))
        .fact("format_version", Fact::number(VERSION))
        .fact("product", plan.product.as_str())
        .fact("kernel_release", plan.kernel_release.as_str())
        .fact("auth", plan.auth.name());
    let mut node = trust(node, plan)
        .fact("candidates", candidates.collect::<Vec<_>>())
        .fact("kernel_mounts", plan.kernel_mounts.clone())
        .fact("mode", mode(plan))
        .fact("stage", plan.stage.name())
        .fact("extensions", extensions(plan))
        .fact("appended", plan.appended.name())
        .fact("inits", plan.inits.clone())
        .fact("device_timeout_ms", Fact::number(plan.device_timeout_ms))
        .fact("on_failure", plan.on_failure.name())
        .fact("failure_wait_ms", Fact::number(plan.failure_wait_ms))
        .fact("modules", Fact::number(plan.modules.len()))
        .fact("aliases", Fact::number(plan.aliases.len()));
    if list {
        let name = |index: u16| {
            let module = plan.modules.get(usize::from(index));
            module.map_or("?", |module| module.name.as_str())
        };
        let modules = plan.modules.iter().map(|module| {
            let needs: Vec<&str> = module.needs.iter().map(|&n| name(n)).collect();
            let needs = match needs.is_empty() {
                true => String::new(),
                false => format!(", needs {}", needs.join(" ")),
            };
            format!("{} ({}){needs}", module.name, module.role.name())
        });
        let aliases = plan
            .aliases
            .aliases()
            .into_iter()
            .map(|alias| format!("{} {}", alias.pattern, name(alias.module)));
        node = node
            .fact("load_order", modules.collect::<Vec<_>>())
            .fact("alias_table", aliases.collect::<Vec<_>>());
    }
    node
}

/// How a boot goes on where nothing else is asked for.
fn mode(plan: &BootPlan) -> String {
    match &plan.direct {
        None if plan.stage == Stage::System => "stay: the image is the system".into(),
        None => "initrd".into(),
        Some(direct) => {
            let kinds = direct.kinds.join(", ");
            let root = match direct.root.as_str() {
                "" => "the root of the command line",
                root => root,
            };
            format!("direct: {root} with {kinds}; the image where that fails")
        }
    }
}

/// Whose extensions are merged.
fn extensions(plan: &BootPlan) -> Vec<String> {
    let Some(extensions) = &plan.extensions else {
        return vec!["none".into()];
    };
    let signed = extensions.certificates.iter().map(|der| {
        let certificate = TrustedCertificate::from_der(der.clone());
        certificate.map_or_else(
            |error| error.to_string(),
            |certificate| format!("signed by {}", certificate.describe()),
        )
    });
    let sealed = extensions
        .sealed
        .iter()
        .map(|root| format!("root hash {root}"));
    signed.chain(sealed).collect()
}

/// Whom the plan trusts.
fn trust(node: Node, plan: &BootPlan) -> Node {
    let node = match &plan.auth {
        Auth::None => return node,
        Auth::Sealed(root) => node.fact("root_hash", root.to_string()),
        Auth::Signed(signed) => {
            let certificates = signed.certificates.iter().map(|der| {
                match TrustedCertificate::from_der(der.clone()) {
                    Ok(certificate) => format!(
                        "{}, SHA-256 {}",
                        certificate.describe(),
                        certificate.fingerprint()
                    ),
                    Err(error) => error.to_string(),
                }
            });
            let least = Some(signed.min_version.as_str()).filter(|least| !least.is_empty());
            node.fact("certificates", certificates.collect::<Vec<_>>())
                .fact_if("min_version", least)
                .fact("measure_pcr", Fact::number(signed.measure.pcr))
                .fact("measure_required", signed.measure.required)
        }
    };
    let action = match plan.on_corruption {
        OnCorruption::Error => "error",
        OnCorruption::Restart => "restart",
        OnCorruption::Panic => "panic",
    };
    node.fact("on_corruption", action)
}
