//! Product and version of an image, read from its file system as a boot reads
//! them once it is mounted.

use std::cmp::Ordering;

use iofs_erofs::tree::{FileType, Inode, Tree, TreeError};
use iofs_source::ReadAt;

/// Where an image says what it is; the first of these counts. storage-init has
/// the same list.
const PLACES: [&str; 4] = [
    "usr/lib/initoverlayfs/image-release",
    "etc/initrd-release",
    "etc/os-release",
    "usr/lib/os-release",
];

/// The greatest length of such a file, in bytes.
const MAX_LEN: u64 = 64 << 10;

/// How many symbolic links a path may lead through, as in the kernel.
const MAX_LINKS: u32 = 40;

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Release {
    pub(super) product: String,
    pub(super) version: String,
}

/// Reads it.
pub(super) fn read<S: ReadAt>(source: S) -> Result<Release, String> {
    let tree = Tree::open(source).map_err(|e| e.to_string())?;
    for place in PLACES {
        let failed = |error: TreeError| match error {
            TreeError::Compressed { .. } => format!(
                "/{place} is compressed, which this program does not read: whether product and \
                 version are allowed is not known; look with fsck.erofs --extract"
            ),
            error => format!("/{place}: {error}"),
        };
        let Some(file) = find(&tree, place).map_err(failed)? else {
            continue;
        };
        if file.kind != FileType::Regular || file.size > MAX_LEN {
            return Err(format!("/{place} is no small file"));
        }
        let mut bytes = vec![0; usize::try_from(file.size).unwrap_or(0)];
        tree.read(&file, 0, &mut bytes).map_err(failed)?;
        return Ok(Release::parse(&String::from_utf8_lossy(&bytes)));
    }
    Ok(Release::default())
}

/// What `path` means in the image, as in a system of which it is the root.
fn find<S: ReadAt>(tree: &Tree<S>, path: &str) -> Result<Option<Inode>, TreeError> {
    let mut todo: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
    let mut at = String::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let next = format!("{at}/{name}");
        let inode = match tree.lookup(&next) {
            Ok(inode) => inode,
            Err(TreeError::NotFound { .. } | TreeError::NotADirectory { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if inode.kind != FileType::Symlink {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Ok(None);
        }
        let target = tree.link_target(&inode)?;
        let target = String::from_utf8_lossy(&target).into_owned();
        if target.starts_with('/') {
            at.clear();
        }
        todo.extend(target.rsplit('/').map(str::to_owned));
    }
    tree.lookup(&at).map(Some)
}

impl Release {
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            // As in a shell, the last assignment counts.
            let value = text
                .lines()
                .rev()
                .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            unquote(value.unwrap_or(""))
        };
        let product = match (field("IMAGE_ID"), field("ID"), field("VERSION_ID")) {
            ("", id, "") => id.into(),
            ("", id, version) => format!("{id}-{version}"),
            (image, ..) => image.into(),
        };
        Self {
            product,
            version: field("IMAGE_VERSION").into(),
        }
    }

    /// Whether a plan for that product with that least version takes it.
    pub(super) fn check(&self, product: &str, least: &str) -> Result<(), String> {
        if self.product != product {
            return Err(format!(
                "the image is of product \"{}\", and the boot plan is for \"{product}\"",
                self.product
            ));
        }
        let old = iofs_bls::compare_versions(&self.version, least) == Ordering::Less;
        if old && !least.is_empty() {
            return Err(format!(
                "the image has version \"{}\", and the boot plan allows none below \"{least}\"",
                self.version
            ));
        }
        Ok(())
    }
}

fn unquote(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        let inside = value
            .strip_prefix(quote)
            .and_then(|value| value.strip_suffix(quote));
        if let Some(inside) = inside {
            return inside;
        }
    }
    value
}
