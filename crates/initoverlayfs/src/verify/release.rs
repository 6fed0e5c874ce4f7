//! Product and version of an image, read from its file system as a boot reads
//! them once it is mounted.

use std::cmp::Ordering;

use builder::Stage;
use iofs_erofs::tree::{FileType, Inode, Tree, TreeError};
use iofs_extension::host_places;
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
    let text = first(&tree, &PLACES, "whether product and version are allowed")?;
    Ok(text.map_or_else(Release::default, |text| Release::parse(&text)))
}

/// What extensions are compared with: the image's os-release, of an initrd its
/// initrd-release. Empty if it has none.
pub(super) fn of_host<S: ReadAt>(source: S, stage: Stage) -> Result<String, String> {
    let tree = Tree::open(source).map_err(|e| e.to_string())?;
    let text = first(&tree, host_places(stage), "what the image is")?;
    Ok(text.unwrap_or_default())
}

/// The first of several small files that is there.
fn first<S: ReadAt>(tree: &Tree<S>, places: &[&str], what: &str) -> Result<Option<String>, String> {
    for place in places {
        match text(tree, place) {
            Ok(None) => {}
            Ok(text) => return Ok(text),
            Err(TreeError::Compressed { .. }) => {
                return Err(format!(
                    "/{place} is compressed, which this program does not read: {what} is not \
                     known; look with fsck.erofs --extract"
                ));
            }
            Err(error) => return Err(format!("/{place}: {error}")),
        }
    }
    Ok(None)
}

/// A small file's text, as a system whose root the image is reads it.
pub(super) fn text<S: ReadAt>(tree: &Tree<S>, path: &str) -> Result<Option<String>, TreeError> {
    let Some(file) = find(tree, path)? else {
        return Ok(None);
    };
    if file.kind != FileType::Regular || file.size > MAX_LEN {
        return Err(TreeError::Corrupt {
            nid: file.nid,
            what: "it is no small file",
        });
    }
    let mut bytes = vec![0; usize::try_from(file.size).unwrap_or(0)];
    tree.read(&file, 0, &mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
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
        let field = |name: &str| iofs_extension::field(text, name);
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
