//! The order of a boot menu.

use core::cmp::Ordering;

use crate::{Entry, EntryName, compare_versions};

/// Compares entries as a boot menu lists them: what comes first is less. Bad
/// entries come last, those with a sort key before those without, newer ones
/// before older ones. Different names are never equal.
#[must_use]
pub fn compare_entries(a: (&EntryName, &Entry), b: (&EntryName, &Entry)) -> Ordering {
    let ((a_name, a), (b_name, b)) = (a, b);
    let by_keys = match (&a.sort_key, &b.sort_key) {
        (Some(a_key), Some(b_key)) => a_key
            .cmp(b_key)
            .then_with(|| a.machine_id.cmp(&b.machine_id))
            .then_with(|| compare_versions(or_empty(&b.version), or_empty(&a.version))),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    a_name
        .is_bad()
        .cmp(&b_name.is_bad())
        .then(by_keys)
        .then_with(|| compare_versions(b_name.id(), a_name.id()))
        .then_with(|| b_name.id().cmp(a_name.id()))
        .then_with(|| tries(b_name).0.cmp(&tries(a_name).0))
        .then_with(|| tries(a_name).1.cmp(&tries(b_name).1))
        .then_with(|| {
            let names = [a_name, b_name].map(alloc::string::ToString::to_string);
            names[0].cmp(&names[1])
        })
}

fn or_empty(text: &Option<alloc::string::String>) -> &str {
    text.as_deref().unwrap_or("")
}

/// Tries left and done; a good entry has as many left as there are.
fn tries(name: &EntryName) -> (u32, u32) {
    name.counter()
        .map_or((u32::MAX, 0), |counter| (counter.left(), counter.done()))
}
