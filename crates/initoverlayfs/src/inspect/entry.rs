//! Boot entries of type 1 of the Boot Loader Specification.

use iofs_bls::{Entry, MAX_LEN};

use super::node::Node;
use super::{Described, View};

pub(super) fn describe(view: &View<'_>) -> Described {
    if view.source.size() > MAX_LEN as u64 {
        return Ok(None);
    }
    let bytes = view.whole("a boot entry")?;
    let Ok(entry) = Entry::parse(&bytes) else {
        return Ok(None);
    };
    // Any text parses; an entry is what can be booted.
    if entry.linux.is_none() && entry.efi.is_none() && entry.uki.is_none() {
        return Ok(None);
    }
    let other = entry
        .other
        .iter()
        .map(|(key, value)| format!("{key} {value}"));
    let other: Vec<String> = other.collect();
    let options = entry.command_line();
    Ok(Some(
        Node::new("boot-entry")
            .fact_if("title", entry.title.as_deref())
            .fact_if("version", entry.version.as_deref())
            .fact_if("machine_id", entry.machine_id.as_deref())
            .fact_if("sort_key", entry.sort_key.as_deref())
            .fact_if("architecture", entry.architecture.as_deref())
            .fact_if("linux", entry.linux.as_deref())
            .fact_if("initrd", some(entry.initrd.clone()))
            .fact_if("efi", entry.efi.as_deref())
            .fact_if("uki", entry.uki.as_deref())
            .fact_if("devicetree", entry.devicetree.as_deref())
            .fact_if("options", Some(options).filter(|o| !o.is_empty()))
            .fact_if("other", some(other)),
    ))
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}
