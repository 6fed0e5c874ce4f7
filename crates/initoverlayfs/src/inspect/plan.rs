//! Boot plans.

use iofs_plan::{BootPlan, MAX_LEN, Role, VERSION};

use super::node::{Fact, Node};
use super::{Described, View};

pub(super) fn describe(view: &View<'_>) -> Described {
    if view.bytes(0, 8).as_deref() != Some(b"IOFSPLAN") {
        return Ok(None);
    }
    if view.source.size() > MAX_LEN as u64 {
        return Err(format!(
            "a boot plan has at most {MAX_LEN} bytes; this has {}",
            view.source.size()
        ));
    }
    let bytes = view.whole("a boot plan")?;
    let plan = BootPlan::decode(&bytes).map_err(|e| e.to_string())?;
    Ok(Some(node(&plan, bytes.len(), view.list)))
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
    let mut node = Node::new("boot-plan")
        .fact("size", Fact::size(size))
        .fact("format_version", Fact::number(VERSION))
        .fact("product", plan.product.as_str())
        .fact("kernel_release", plan.kernel_release.as_str())
        .fact("auth", plan.auth.name())
        .fact("candidates", candidates.collect::<Vec<_>>())
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
            format!("{} ({}){needs}", module.name, role(module.role))
        });
        let aliases = plan
            .aliases
            .iter()
            .map(|alias| format!("{} {}", alias.pattern, name(alias.module)));
        node = node
            .fact("load_order", modules.collect::<Vec<_>>())
            .fact("alias_table", aliases.collect::<Vec<_>>());
    }
    node
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Dependency => "dependency",
        Role::Disk => "disk",
        Role::Image => "image",
        Role::Mapping => "mapping",
        Role::Bus => "bus",
    }
}
