//! Images that prove themselves: wherever they lie, sealed or signed.

use std::path::Path;

use builder::{
    Auth, Candidate, Container, ImageRequest, KeySource, KeyType, KeygenRequest, Selector, Signed,
    Signer, keygen,
};
use iofs_gpt::types;
use libtest_mimic::Failed;
use vmtest::disk::Partition;
use vmtest::set;

use crate::Test;
use crate::support::{Boot, FIRST, Ground, Image, Seen, TYPE, on_esp, partition_at};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("sealed_file_in_one_piece", sealed_file),
    Test::new("sealed_file_in_pieces", sealed_pieces),
    Test::new("sealed_file_on_ext4", sealed_ext4),
    Test::new("sealed_disk_image_as_a_partition", sealed_nested),
    Test::new("sealed_image_in_partitions", sealed_partitions),
    Test::new("signed_by_rsa", signed_rsa),
    Test::new("signed_by_p256", signed_p256),
    Test::new("signed_by_p384", signed_p384),
    Test::new("signed_image_in_partitions", signed_partitions),
];

/// A key pair for one test.
pub(crate) struct Key {
    pub(crate) signer: Signer,
}

impl Key {
    /// A new one in `dir`.
    pub(crate) fn new(dir: &Path, name: &str, key_type: KeyType) -> Self {
        let path = |end: &str| dir.join(format!("{name}.{end}"));
        let request = KeygenRequest {
            key: path("key"),
            certificate: path("pem"),
            certificate_der: path("der"),
            key_type,
            common_name: name.to_owned(),
            force: true,
        };
        keygen(&request).unwrap();
        let source = KeySource::File(request.key.clone());
        Self {
            signer: Signer::new(source, &request.certificate).unwrap(),
        }
    }

    /// A plan that trusts its certificate.
    pub(crate) fn trusted(&self) -> Auth {
        self.trusted_from("")
    }

    /// The same, for images of at least this version.
    pub(crate) fn trusted_from(&self, min_version: &str) -> Auth {
        Auth::Signed(Signed {
            certificates: vec![self.signer.certificate().der().to_vec()],
            min_version: min_version.to_owned(),
            ..Signed::default()
        })
    }
}

/// An image signed with `key`, of the product that the tests' plans are for.
pub(crate) fn signed_image(ground: &Ground, name: &str, key: &Key, version: &str) -> Image {
    let container = Container::Ddi {
        signer: Some(key.signer.clone()),
    };
    ground.build_image_in(name, container, &|_| {}, |request| ImageRequest {
        product: "test-1".to_owned(),
        version: version.to_owned(),
        ..request
    })
}

/// What tells that the image is intact, and what it stands on.
pub(crate) const WORDS: &str = "testinit.sum=/data testinit.stacked testinit.cat=/proc/modules";

/// Boots and looks at all that a verified boot promises.
fn verified(boot: &mut Boot<'_>) -> Seen {
    let seen = boot.words(WORDS).succeeds();
    seen.data_is_intact();
    seen.expects("[stage proof] root hash ");
    seen.rejects("NOT authenticated");
    seen
}

fn sealed(ground: &Ground, make: fn(&Path, &Path)) -> Seen {
    let image = ground.proven();
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[on_esp()]);
    boot.esp_with(&image.path, make);
    let seen = verified(&mut boot);
    seen.expects(", sealed in the boot plan");
    // What reads the boot partition is not the kernel. (ext4 is built into this one.)
    let modules = seen.facts("/proc/modules").join("\n");
    for name in ["fat ", "vfat ", "nls_"] {
        assert!(!modules.contains(name), "{modules}");
    }
    seen
}

fn sealed_file(ground: &Ground) -> Result<(), Failed> {
    let seen = sealed(ground, volumes::fat32);
    seen.expects("[stage image] /dev/dm-0 (dm-verity over /dev/loop0)");
    assert_eq!(seen.fact("stacked"), "dm-0 loop0");
    Ok(())
}

fn sealed_pieces(ground: &Ground) -> Result<(), Failed> {
    let seen = sealed(ground, volumes::fat32_fragmented);
    seen.expects("[stage image] /dev/dm-1 (dm-verity over dm-linear over /dev/loop0)");
    assert_eq!(seen.fact("stacked"), "dm-0 dm-1 loop0");
    Ok(())
}

fn sealed_ext4(ground: &Ground) -> Result<(), Failed> {
    sealed(ground, volumes::ext4_without_holes);
    Ok(())
}

fn sealed_nested(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let place = partition_at("partition", Selector::PartUuid(FIRST));
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[place]);
    boot.disk(&[Partition::of(TYPE, FIRST, "image", &image.path).unwrap()]);
    let seen = verified(&mut boot);
    seen.expects("[stage image] /dev/dm-1 (dm-verity over dm-linear)");
    let modules = seen.facts("/proc/modules").join("\n");
    assert!(!modules.contains("loop "), "{modules}");
    Ok(())
}

/// The partitions of an image, each as one of a disk, with their PARTUUIDs.
pub(crate) fn taken_apart(boot: &Boot<'_>, image: &Image) -> Vec<Partition> {
    set::taken_apart(&image.path, &boot.path("")).unwrap()
}

/// The file system's partition, by the PARTUUID that follows from the root hash.
pub(crate) fn by_root_hash(image: &Image) -> Candidate {
    let guid = image.root_hash.unwrap().data_part_uuid();
    partition_at("partition", Selector::PartUuid(guid))
}

fn sealed_partitions(ground: &Ground) -> Result<(), Failed> {
    let image = ground.proven();
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[by_root_hash(image)]);
    let parts = taken_apart(&boot, image);
    boot.disk(&parts);
    let seen = verified(&mut boot);
    seen.expects("hash tree on /dev/ubda2");
    seen.expects("[stage image] /dev/dm-0 (dm-verity)");
    assert_eq!(seen.fact("stacked"), "dm-0");
    Ok(())
}

fn signed(ground: &Ground, name: &str, key_type: KeyType) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let key = Key::new(dir.path(), name, key_type);
    let image = signed_image(ground, name, &key, "2");
    let mut boot = Boot::trusting(ground, &image, key.trusted_from("1.9"), &[on_esp()]);
    boot.esp_with(&image.path, volumes::fat32);
    let seen = verified(&mut boot);
    seen.expects(&format!(", signed by CN={name}"));
    // This kernel checks no signatures.
    seen.rejects("root_hash_sig_key_desc");
    seen.expects("the root hash is not measured: the kernel shows no TPM 2.0");
    Ok(())
}

fn signed_rsa(ground: &Ground) -> Result<(), Failed> {
    signed(ground, "rsa", KeyType::Rsa(2048))
}

fn signed_p256(ground: &Ground) -> Result<(), Failed> {
    signed(ground, "p256", KeyType::P256)
}

fn signed_p384(ground: &Ground) -> Result<(), Failed> {
    signed(ground, "p384", KeyType::P384)
}

/// Two generations on one disk; the plan takes whatever is signed, the label
/// tells which is meant.
fn signed_partitions(ground: &Ground) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let key = Key::new(dir.path(), "parts", KeyType::P256);
    let old = signed_image(ground, "parts-old", &key, "1");
    let new = signed_image(ground, "parts-new", &key, "2");
    let place = partition_at("new", Selector::PartLabel("new".to_owned()));
    let mut boot = Boot::trusting(ground, &new, key.trusted(), &[place]);
    let mut parts = taken_apart(&boot, &old);
    parts.extend(taken_apart(&boot, &new));
    let wanted = new.root_hash.unwrap().data_part_uuid();
    for part in &mut parts {
        if part.guid == wanted {
            part.label = "new".to_owned();
        }
    }
    assert_eq!(parts.len(), 6);
    assert_eq!(parts[0].type_guid, types::ROOT_X86_64);
    boot.disk(&parts);
    let seen = verified(&mut boot);
    seen.expects(&format!(
        "root hash {}, signed by CN=parts",
        new.root_hash.unwrap()
    ));
    seen.expects("hash tree on /dev/ubda5");
    Ok(())
}
