//! dm-verity: superblock, tree and signature.

use std::sync::OnceLock;

use iofs_source::{ReadAt, ReadErrorKind};
use iofs_verity::build::HashTree;
use iofs_verity::signature::JsonError;
use iofs_verity::{
    Algorithm, Device, Fault, Params, RootHash, SUPERBLOCK_LEN, Signature, SignatureError,
    Superblock, Unfit, Uuid, Verifier, signature as object,
};
use serde::Deserialize;
use serde::de::Deserializer;

/// Verity superblocks.
///
/// Input: a superblock; bytes that are missing are zero.
///
/// Invariants:
/// * no panic;
/// * a superblock that is accepted encodes to the very bytes that it came from;
/// * the tree that it describes has levels that follow one another without a
///   hole, each just large enough for the one below.
pub fn verity(data: &[u8]) {
    let mut bytes = [0; SUPERBLOCK_LEN];
    let len = data.len().min(SUPERBLOCK_LEN);
    bytes[..len].copy_from_slice(&data[..len]);
    let superblock = match Superblock::parse(&bytes) {
        Ok(superblock) => superblock,
        Err(error) => return drop(error.to_string()),
    };
    assert_eq!(superblock.encode(), bytes);
    assert_eq!(Superblock::read(&bytes[..]).as_ref(), Ok(&superblock));
    let params = &superblock.params;
    assert!(params.data_len() / u64::from(params.data_block_size()) == params.data_blocks());
    for start in [params.tree_start(), u64::MAX / 512] {
        match params.geometry(start) {
            Ok(geometry) => check_geometry(params, &geometry, start),
            Err(error) => drop(error.to_string()),
        }
    }
}

fn check_geometry(params: &Params, geometry: &iofs_verity::Geometry, start: u64) {
    let digests = u64::from(params.hash_block_size()) / params.algorithm().digest_len() as u64;
    let mut below = params.data_blocks();
    for level in geometry.levels() {
        assert_eq!(level.blocks, below.div_ceil(digests));
        below = level.blocks;
    }
    assert_eq!(below, 1);
    let mut at = start;
    for level in geometry.levels().iter().rev() {
        assert_eq!(level.start, at);
        at += level.blocks;
    }
    assert_eq!(geometry.end(), at * u64::from(params.hash_block_size()));
    assert_eq!(geometry.blocks(), at - start);
    assert_eq!(geometry.is_empty(), params.data_blocks() == 1);
}

/// A device that the input is a mutation of.
pub(crate) struct Sealed {
    params: Params,
    root: RootHash,
    /// Superblock and tree.
    hashes: Vec<u8>,
    data: Vec<u8>,
}

/// One a hash function, both with two levels of hash blocks.
pub(crate) fn sealed() -> &'static [Sealed] {
    static SEALED: OnceLock<Vec<Sealed>> = OnceLock::new();
    SEALED.get_or_init(|| {
        let make = |algorithm, blocks: u8, salt| {
            let data: Vec<u8> = (0..blocks)
                .flat_map(|block| [[block; 16], [!block; 16]].concat().repeat(16))
                .collect();
            let params = Params::new(algorithm, 512, 512, blocks.into(), salt)?;
            Ok((params, data))
        };
        [
            make(Algorithm::Sha256, 20, vec![0xa5; 32]),
            make(Algorithm::Sha512, 12, Vec::new()),
        ]
        .into_iter()
        .filter_map(|made: Result<_, iofs_verity::ParamsError>| {
            let (params, data) = made.ok()?;
            let tree = HashTree::build(&params, &data, |_| {}).ok()?;
            Some(Sealed {
                root: tree.root,
                hashes: tree.hash_device(&params, Uuid::from_u128(0x5eed)),
                data,
                params,
            })
        })
        .collect()
    })
}

impl Sealed {
    /// Its superblock.
    pub(crate) fn superblock(&self) -> &[u8] {
        &self.hashes[..SUPERBLOCK_LEN]
    }

    /// The input that is this device itself.
    pub(crate) fn input(&self) -> Vec<u8> {
        let split = u16::try_from(self.hashes.len()).unwrap_or(u16::MAX);
        [&split.to_le_bytes()[..], &self.hashes, &self.data].concat()
    }

    /// The same with another number of blocks in the superblock, which only the
    /// rest of a hash block gives away.
    pub(crate) fn shortened(&self) -> Vec<u8> {
        let mut input = self.input();
        // The number is at byte 72 of the superblock.
        if let Some(blocks) = input.get_mut(2 + 72) {
            *blocks -= 1;
        }
        input
    }

    /// What a superblock can make of the device without breaking the tree: see
    /// the documentation of the crate. A hash block can stand where data is
    /// expected, no byte can be another.
    fn check_accepted(&self, params: &Params, data: &[u8]) {
        assert_eq!(params.algorithm(), self.params.algorithm());
        assert_eq!(params.salt(), self.params.salt());
        assert_eq!(params.data_block_size(), 512);
        // There is no hash block over a single data block.
        assert!(params.data_blocks() == 1 || params.hash_block_size() == 512);
        let tree = &self.hashes[SUPERBLOCK_LEN..];
        let whole = data == self.data;
        let level = data == &tree[..512] || data == &tree[512..];
        assert!(whole || level, "other data than those that were sealed");
    }
}

/// dm-verity devices.
///
/// Input: the length of the hash device in two bytes (little-endian), that
/// device, and the data.
///
/// Invariants:
/// * no panic, and nothing but the devices is read;
/// * no input is accepted for the root hash of a sealed device unless it holds
///   its data (or, with another number of data blocks, a whole level of its
///   tree), whatever superblock and tree say;
/// * one processor and all find the same fault; where it is lies inside the
///   device;
/// * a tree built over the input's data as its superblock says is accepted, and
///   is not with any one bit of data or tree flipped.
pub fn verifier(data: &[u8]) {
    let Some((split, rest)) = data.split_first_chunk() else {
        return;
    };
    let split = usize::from(u16::from_le_bytes(*split)).min(rest.len());
    let (hashes, data) = rest.split_at(split);
    let superblock = match Superblock::read(hashes) {
        Ok(superblock) => superblock,
        Err(error) => return drop(error.to_string()),
    };
    let params = &superblock.params;
    for sealed in sealed() {
        if verify(params, sealed.root, data, hashes) {
            let len = usize::try_from(params.data_len()).unwrap_or(usize::MAX);
            sealed.check_accepted(params, &data[..len]);
        }
    }
    rebuild(&superblock, data);
}

/// Whether it is accepted, whoever asks.
fn verify(params: &Params, root: RootHash, data: &[u8], hashes: &[u8]) -> bool {
    let verifier = match Verifier::new(params, root, params.tree_start(), data, hashes) {
        Ok(verifier) => verifier,
        Err(error) => {
            if let Unfit::Truncated { size, needed, .. } = error {
                assert!(size < needed);
            }
            drop(error.to_string());
            return false;
        }
    };
    let mut last = 0;
    let result = verifier.verify(0..u64::MAX, |done| {
        assert!(done > last && done <= params.data_blocks());
        last = done;
    });
    assert_eq!(verifier.verify_all(|_| {}), result);
    let Err(fault) = result else {
        assert_eq!(last, params.data_blocks());
        return true;
    };
    drop(fault.to_string());
    match fault {
        // The devices are slices that are large enough.
        Fault::Read { device, error } => panic!("{device}: {error}"),
        Fault::Data { bytes, .. } => {
            assert!(bytes.start < bytes.end && bytes.end <= data.len() as u64);
        }
        Fault::Hash { bytes, .. } | Fault::Surplus { bytes, .. } => {
            assert!(bytes.start < bytes.end && bytes.end <= hashes.len() as u64);
        }
    }
    false
}

fn rebuild(superblock: &Superblock, data: &[u8]) {
    let params = &superblock.params;
    let tree = match HashTree::build(params, data, |_| {}) {
        Ok(tree) => tree,
        Err(error) => {
            assert!(matches!(error.kind, ReadErrorKind::OutOfBounds { .. }));
            return;
        }
    };
    let hashes = tree.hash_device(params, superblock.uuid);
    assert_eq!(Superblock::read(&hashes[..]).as_ref(), Ok(superblock));
    assert!(verify(params, tree.root, data, &hashes));
    let place = crc32fast::hash(data) as usize;
    let bit = 1 << (place % 8);
    let mut flipped = data.to_vec();
    let at = place / 8 % usize::try_from(params.data_len()).unwrap_or(usize::MAX);
    flipped[at] ^= bit;
    let fault = fault(params, tree.root, &flipped, &hashes);
    assert!(matches!(fault, Some(Fault::Data { bytes, .. }) if bytes.contains(&(at as u64))));
    if !tree.blocks.is_empty() {
        let mut flipped = hashes.clone();
        let at = hashes.len() - tree.blocks.len() + place / 8 % tree.blocks.len();
        flipped[at] ^= bit;
        let fault = self::fault(params, tree.root, data, &flipped);
        assert!(matches!(fault, Some(Fault::Hash { bytes, .. }) if bytes.contains(&(at as u64))));
    }
}

fn fault(params: &Params, root: RootHash, data: &[u8], hashes: &[u8]) -> Option<Fault> {
    assert!(data.size() >= params.data_len());
    match Verifier::new(params, root, params.tree_start(), data, hashes) {
        Ok(verifier) => verifier.verify(0..u64::MAX, |_| {}).err(),
        Err(error) => panic!("{}: {error}", Device::Hash),
    }
}

/// What serde_json takes for the same object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Oracle {
    root_hash: String,
    #[serde(default, deserialize_with = "present")]
    certificate_fingerprint: Option<String>,
    signature: String,
}

/// A string, not null.
fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    String::deserialize(input).map(Some)
}

/// Signatures of root hashes.
///
/// Input: what a signature partition begins with.
///
/// Invariants:
/// * no panic;
/// * what is accepted is written and read as the same again, and is written no
///   longer than it was;
/// * serde_json reads the same from it; where that finds an object with a root
///   hash and a signature, so is it here, except for what is refused on
///   purpose: depth, length, and halves of characters in what is passed over.
pub fn signature(data: &[u8]) {
    let len = data.iter().position(|&byte| byte == 0);
    let text = &data[..len.unwrap_or(data.len())];
    // From bytes, it would not ask whether what it passes over is UTF-8.
    let oracle: Option<Oracle> = core::str::from_utf8(text)
        .ok()
        .and_then(|text| serde_json::from_str(text).ok());
    let found = Signature::parse(data);
    let signature = match found {
        Ok(signature) => signature,
        Err(error) => {
            drop(error.to_string());
            // A structure may be a JSON array to serde.
            let object = text.trim_ascii_start().starts_with(b"{");
            if let Some(oracle) = oracle.filter(|_| object) {
                refused(&error, text, &oracle);
            }
            return;
        }
    };
    let Some(oracle) = oracle else {
        panic!("this is no JSON object of that kind");
    };
    assert_eq!(signature.root.to_hex(), oracle.root_hash.to_lowercase());
    assert_eq!(
        signature.fingerprint.is_some(),
        oracle.certificate_fingerprint.is_some()
    );
    assert!(text.len() <= object::MAX_LEN && !signature.pkcs7.is_empty());
    let written = signature.encode();
    assert_eq!(written.len() % object::ALIGNMENT, 0);
    let object = written.iter().take_while(|&&byte| byte != 0).count();
    assert!(object <= text.len());
    assert_eq!(Signature::parse(&written), Ok(signature));
}

/// Whether an escape may be half of a character. In what it passes over,
/// serde_json does not ask for the other half.
fn has_surrogate(text: &[u8]) -> bool {
    text.windows(4).any(|part| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| part[at].to_ascii_lowercase());
        (a, b, c) == (b'\\', b'u', b'd') && matches!(d, b'8' | b'9' | b'a'..=b'f')
    })
}

fn refused(error: &SignatureError, text: &[u8], oracle: &Oracle) {
    match error {
        SignatureError::Json(JsonError::Syntax { offset, .. }) if has_surrogate(text) => {
            assert!(*offset < text.len());
        }
        SignatureError::Padding { .. } | SignatureError::TooLong => {}
        SignatureError::Json(JsonError::Depth { .. }) => {}
        SignatureError::RootHash(_) => assert!(RootHash::from_hex(&oracle.root_hash).is_err()),
        SignatureError::Fingerprint => {
            let digits = oracle.certificate_fingerprint.as_deref().unwrap_or("");
            let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(!hex || digits.len() != 2 * object::FINGERPRINT_LEN);
        }
        // Strict: no white space, padded.
        SignatureError::Base64 => {
            let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            let text = &oracle.signature;
            // What is left over of the last digit's bits must be zero: not asked here.
            let last = text.contains('=');
            let fits = !text.is_empty() && text.len() % 4 == 0 && text.bytes().all(base64);
            assert!(!fits || last, "{text} is base64");
        }
        other => panic!("serde_json reads this: {other}"),
    }
}

/// Seeds of [`signature`].
pub(crate) fn signatures() -> Vec<Vec<u8>> {
    let Some(sealed) = sealed().first() else {
        return Vec::new();
    };
    let made = Signature {
        root: sealed.root,
        fingerprint: Some([0xf1; object::FINGERPRINT_LEN]),
        pkcs7: (0..50).collect(),
    };
    let spaced = format!(
        "{{ \"\\u0072ootHash\" : \"{}\",\n\t\"other\": [1.5e3, null, {{\"a\\n\": true}}],\
         \"signature\": \"AAEC\" }}",
        sealed.root
    );
    let mut written = made.encode();
    let len = written.iter().rposition(|&byte| byte != 0);
    written.truncate(len.map_or(0, |last| last + 2));
    vec![written, spaced.into_bytes()]
}
