//! os-release(5), as far as it names a product.

use std::path::Path;

/// The greatest size of an os-release file, in bytes.
pub(crate) const MAX_LEN: u64 = 64 << 10;

/// Where it may lie under a root.
pub(crate) const PLACES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// The product that a root tree is of, by its os-release: `debian-13`. Made to
/// be part of a file name.
#[must_use]
pub fn product_of(root: &Path) -> Option<String> {
    PLACES
        .iter()
        .find_map(|place| {
            let path = root.join(place);
            let small = path.metadata().is_ok_and(|meta| meta.len() <= MAX_LEN);
            small.then(|| std::fs::read_to_string(path).ok()).flatten()
        })
        .and_then(|text| product(&text))
}

/// `ID-VERSION_ID` (or `ID-VERSION_CODENAME`, or `ID`), fit to be part of a
/// file name.
pub(crate) fn product(text: &str) -> Option<String> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| clean(value))
            .filter(|value| !value.is_empty())
    };
    let id = value("ID")?;
    Some(
        match value("VERSION_ID").or_else(|| value("VERSION_CODENAME")) {
            Some(version) => format!("{id}-{version}"),
            None => id,
        },
    )
}

/// Quotes go; what os-release(5) does not allow in these fields becomes `-`.
fn clean(value: &str) -> String {
    value
        .trim_matches(['"', '\'', ' '])
        .chars()
        .take(64)
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect::<String>()
        .trim_matches(['.', '-'])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::product;

    #[test]
    fn products_are_file_names() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nID=debian\n";
        assert_eq!(product(debian).as_deref(), Some("debian-13"));
        assert_eq!(product("ID=arch\n").as_deref(), Some("arch"));
        assert_eq!(
            product("ID=\"../../etc\"\nVERSION_ID='1 / 2'").as_deref(),
            Some("etc-1---2")
        );
        assert_eq!(product("NAME=x\n"), None);
        assert_eq!(product("ID=\"\"\n"), None);
    }
}
