//! Step 5: what the plan trusts, and the proof that an image is it.
//!
//! dm-verity proves each block when it is read. What has to be known before is
//! the root hash, and that alone decides which image boots: it is the one
//! sealed in the plan, or it is signed by a certificate sealed in the plan. All
//! else that is read here (partition table, verity superblock, signature) is
//! hostile until it has led to that root hash.
//!
//! The start of the file system is proven here already, up to the root hash, and
//! with it the size that its superblock gives: a damaged or foreign image is told with its place, and the next
//! candidate tried, where the kernel would only say that it cannot mount it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use ddi::{Arch, Ddi, RootHash, Signature, Trees};
use iofs_plan::{Auth, Extensions};
use iofs_source::{ReadAt, ReadError, Window};
use iofs_trust::{Certificate, verify_detached};
use iofs_verity::Verifier;

use crate::report::Failure;

/// The architecture whose partitions are the image's.
pub const ARCH: Arch = Arch::NATIVE;

/// How much of the file system is proven here, in bytes: its superblock lies in
/// it, whatever the size of a block under the tree.
const PROVEN_HERE: u64 = 4096;

/// What the plan trusts.
#[derive(Debug)]
pub enum Trust {
    /// Whatever is there.
    Anything,
    /// The image with this root hash.
    Sealed(RootHash),
    /// Images whose root hash one of these signed.
    Signed(Vec<Certificate>),
    /// Extensions: whose root hash one of these signed, or that are one of these.
    Extensions(Vec<Certificate>, Vec<RootHash>),
}

impl Trust {
    /// From the plan.
    ///
    /// # Errors
    /// If it has a certificate that cannot be used: a boot that could never
    /// accept a signature ends before it has waited for one.
    pub fn new(auth: &Auth) -> Result<Self, Failure> {
        match auth {
            Auth::None => Ok(Self::Anything),
            Auth::Sealed(root) => Ok(Self::Sealed(*root)),
            Auth::Signed(signed) => certificates(&signed.certificates).map(Self::Signed),
        }
    }

    /// Of extensions, from the plan.
    ///
    /// # Errors
    /// If it has a certificate that cannot be used.
    pub fn of_extensions(extensions: &Extensions) -> Result<Self, Failure> {
        let certificates = certificates(&extensions.certificates)?;
        Ok(Self::Extensions(certificates, extensions.sealed.clone()))
    }

    /// The root hash that is trusted, if `signature` or the plan names one. What
    /// `ddi` says of it is not believed, but decides which is meant.
    fn root_hash(
        &self,
        ddi: &Ddi,
        signature: Option<&Signature>,
    ) -> Result<(RootHash, Reason<'_>), String> {
        match self {
            Self::Anything => Err("the plan authenticates nothing".into()),
            Self::Sealed(root) => Ok((*root, Reason::Sealed)),
            Self::Signed(certificates) => match signature {
                Some(signature) => Ok((signature.root, signer(signature, certificates)?)),
                None => Err("it is not signed, and the boot plan wants a signature".into()),
            },
            Self::Extensions(certificates, sealed) => {
                let is_it = |root: &&RootHash| ddi.check_root_hash(root).is_ok();
                match (sealed.iter().find(is_it), signature) {
                    (Some(root), _) => Ok((*root, Reason::Sealed)),
                    (_, Some(signature)) => Ok((signature.root, signer(signature, certificates)?)),
                    _ => Err("it is not signed, and not sealed in the boot plan".into()),
                }
            }
        }
    }
}

fn certificates(plan: &[Vec<u8>]) -> Result<Vec<Certificate>, Failure> {
    let parsed = plan.iter().map(|der| Certificate::parse(der));
    parsed.collect::<Result<_, _>>().map_err(|error| {
        Failure::new(format_args!(
            "a certificate in the boot plan cannot be used: {error}"
        ))
        .advise("build the mini-initramfs again with another certificate")
    })
}

/// Why a root hash is trusted.
enum Reason<'t> {
    Sealed,
    Signed(&'t Certificate),
}

/// Who signed, if it is somebody trusted.
fn signer<'t>(
    signature: &Signature,
    certificates: &'t [Certificate],
) -> Result<Reason<'t>, String> {
    let content = signature.root.to_hex();
    let index = verify_detached(&signature.pkcs7, content.as_bytes(), certificates)
        .map_err(|error| format!("the signature of its root hash does not hold: {error}"))?;
    let signer = certificates
        .get(index)
        .ok_or("the signer is not in the plan")?;
    match signature.fingerprint {
        Some(fingerprint) if fingerprint != signer.fingerprint() => Err(format!(
            "its signature names a certificate with another fingerprint than that of {}, which \
             made it",
            signer.subject()
        )),
        _ => Ok(Reason::Signed(signer)),
    }
}

/// The proof that an image is the trusted one.
#[derive(Debug)]
pub struct Proof {
    /// Where file system and hash tree are, in the source that they were found
    /// in.
    pub ddi: Ddi,
    /// The root hash, and the superblock of the tree under it.
    pub trees: Trees,
    /// The proven bytes.
    pub start: Start,
    /// The root hash's signature (PKCS#7, DER), if there is one, for the kernel.
    pub signature: Option<Vec<u8>>,
    /// What the kernel would know the signer by, where nobody else vouches for that.
    pub signer_id: Option<String>,
    /// Why the root hash is trusted: for the log.
    pub reason: String,
}

impl Proof {
    /// Proves that the image that `ddi` describes in `source` has a trusted root
    /// hash, and its first block.
    ///
    /// # Errors
    /// Why it is not trusted, as a sentence.
    pub fn find(source: &dyn ReadAt, ddi: Ddi, trust: &Trust) -> Result<Self, String> {
        let signature = ddi.signature(source).map_err(|e| e.to_string())?;
        let (root, reason) = trust.root_hash(&ddi, signature.as_ref())?;
        let trees = ddi.trees(source, &root).map_err(|e| e.to_string())?;
        let start = Start::prove(source, &ddi, &trees)?;
        let (signer_id, reason) = match reason {
            Reason::Sealed => (None, "sealed in the boot plan".into()),
            Reason::Signed(signer) => (
                signer.is_self_issued().then(|| signer.kernel_id()),
                format!("signed by {}", signer.subject()),
            ),
        };
        Ok(Self {
            ddi,
            trees,
            start,
            signature: signature.map(|signature| signature.pkcs7),
            signer_id,
            reason,
        })
    }
}

/// The first bytes of a file system, as they were when they were proven: what a
/// disk would say at another time does not matter.
#[derive(Debug)]
pub struct Start {
    bytes: Vec<u8>,
    /// The size of all that is under the tree, in bytes.
    size: u64,
}

impl Start {
    fn prove(source: &dyn ReadAt, ddi: &Ddi, trees: &Trees) -> Result<Self, String> {
        let params = &trees.superblock.params;
        let size = params.data_len();
        let block_size = params.data_block_size();
        let blocks = PROVEN_HERE
            .div_ceil(block_size.into())
            .min(params.data_blocks());
        // At most 64 KiB, the greatest size of a block.
        let len = usize::try_from(blocks.saturating_mul(block_size.into()))
            .map_err(|error| error.to_string())?;
        let mut bytes = vec![0; len];
        source
            .read_at(ddi.root.start, &mut bytes)
            .map_err(|error| error.to_string())?;
        let start = Self { bytes, size };
        let hashes = Window::new(source, ddi.verity.start, ddi.verity.len)
            .map_err(|error| error.to_string())?;
        Verifier::new(params, trees.root, params.tree_start(), &start, hashes)
            .map_err(|error| error.to_string())?
            .verify(0..blocks, |_| {})
            .map_err(|fault| ddi.locate(fault).to_string())?;
        Ok(start)
    }
}

impl ReadAt for Start {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.bytes.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.size
    }
}
