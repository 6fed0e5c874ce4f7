//! Encoding and decoding of the boot plan.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use iofs_source::crc32;
use uuid::Uuid;

use crate::{
    AliasError, AliasTable, Appended, Auth, BootPlan, Candidate, Direct, Expect, Extensions,
    MAX_CERTIFICATES, MAX_LEN, MAX_PACK, MAX_PCR, Measure, Module, OnCorruption, OnFailure, Pack,
    Packed, Role, RootHash, Selector, Signed, Stage, VERSION,
};

const MAGIC: &[u8; 8] = b"IOFSPLAN";
const HEADER_LEN: usize = 16;
const CHECKSUM_LEN: usize = 4;

/// What the numbers mean that [`Writer`] gives these.
const ON_FAILURE: [OnFailure; 3] = [OnFailure::Reboot, OnFailure::PowerOff, OnFailure::Halt];
const ON_CORRUPTION: [OnCorruption; 3] = [
    OnCorruption::Error,
    OnCorruption::Restart,
    OnCorruption::Panic,
];
const APPENDED: [Appended; 2] = [Appended::Extra, Appended::All];
const ROLES: [Role; 5] = [
    Role::Dependency,
    Role::Disk,
    Role::Image,
    Role::Mapping,
    Role::Bus,
];

/// Why bytes are not a plan, or a plan cannot become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanError {
    /// It does not begin with the magic.
    NotAPlan,
    /// It is of another version of the format.
    Version {
        /// The version that was found.
        found: u16,
    },
    /// It ends early, or its length field disagrees with its length.
    Length {
        /// What the header says, in bytes.
        stated: u64,
        /// What is there, in bytes.
        actual: u64,
    },
    /// The checksum does not match: the plan is damaged.
    Checksum,
    /// A field runs over the end.
    Truncated {
        /// Offset of the field, in bytes.
        at: usize,
    },
    /// A field has a value that this version does not know.
    Value {
        /// Name of the field.
        field: &'static str,
        /// Offset of the field, in bytes (0 while encoding).
        at: usize,
    },
    /// A list or string is longer than the format can say.
    TooLong {
        /// Name of the field.
        field: &'static str,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotAPlan => f.write_str("this is not a boot plan (no IOFSPLAN at its start)"),
            Self::Version { found } => write!(
                f,
                "the boot plan has format version {found}, this program reads {VERSION}; \
                 build plan and storage-init together"
            ),
            Self::Length { stated, actual } => write!(
                f,
                "the boot plan says it has {stated} bytes, but {actual} are there"
            ),
            Self::Checksum => f.write_str("the boot plan is damaged: its checksum does not match"),
            Self::Truncated { at } => write!(f, "the boot plan ends inside the field at byte {at}"),
            Self::Value { field, at } => {
                write!(f, "the boot plan's {field} at byte {at} has no valid value")
            }
            Self::TooLong { field } => write!(f, "the boot plan's {field} is too long"),
        }
    }
}

impl core::error::Error for PlanError {}

pub(crate) fn encode(plan: &BootPlan) -> Result<Vec<u8>, PlanError> {
    let mut out = Writer(Vec::new());
    out.0.extend_from_slice(MAGIC);
    out.0.extend_from_slice(&VERSION.to_le_bytes());
    out.0.extend_from_slice(&[0; 6]);
    out.string("product", &plan.product)?;
    out.string("kernel release", &plan.kernel_release)?;
    out.auth(&plan.auth)?;
    out.u8(match plan.on_corruption {
        OnCorruption::Error => 0,
        OnCorruption::Restart => 1,
        OnCorruption::Panic => 2,
    });
    out.list("candidates", &plan.candidates, Writer::candidate)?;
    out.list("kernel mounts", &plan.kernel_mounts, |out, name| {
        out.string("kernel mount", name)
    })?;
    match &plan.direct {
        None => out.u8(0),
        Some(direct) => {
            out.u8(1);
            out.string("root", &direct.root)?;
            out.list("root's file systems", &direct.kinds, |out, kind| {
                out.string("root's file system", kind)
            })?;
            out.string("root's options", &direct.flags)?;
        }
    }
    out.u8(match plan.stage {
        Stage::Initrd => 0,
        Stage::System => 1,
    });
    match &plan.extensions {
        None => out.u8(0),
        Some(extensions) => {
            out.u8(1);
            if extensions.certificates.len() > MAX_CERTIFICATES {
                return Err(PlanError::Value {
                    field: "number of certificates",
                    at: 0,
                });
            }
            out.certificates(&extensions.certificates)?;
            out.list("root hashes", &extensions.sealed, |out, root| {
                out.bytes("root hash", root.as_bytes())
            })?;
        }
    }
    out.u8(match plan.appended {
        Appended::Extra => 0,
        Appended::All => 1,
    });
    out.list("packs", &plan.packs, |out, pack| {
        out.string("pack", &pack.file)?;
        out.u32(pack.size);
        Ok(())
    })?;
    let in_pack = |packed: &Packed| fits(packed, &plan.packs);
    if !plan
        .modules
        .iter()
        .filter_map(|m| m.packed.as_ref())
        .all(in_pack)
        || plan.packs.iter().any(|pack| pack.size > MAX_PACK)
    {
        return Err(PlanError::Value {
            field: "module's place in a pack",
            at: 0,
        });
    }
    for (index, module) in plan.modules.iter().enumerate() {
        let mut before = module.needs.iter().chain(&module.fallback_for);
        if before.any(|&other| usize::from(other) >= index) {
            return Err(PlanError::Value {
                field: "module dependency",
                at: 0,
            });
        }
    }
    out.list("modules", &plan.modules, Writer::module)?;
    let table = plan.aliases.to_bytes();
    if AliasTable::from_bytes(table, plan.modules.len()).is_err() {
        return Err(PlanError::Value {
            field: "alias table",
            at: 0,
        });
    }
    let len = u32::try_from(table.len()).map_err(|_| PlanError::TooLong {
        field: "alias table",
    })?;
    out.u32(len);
    out.0.extend_from_slice(table);
    out.list("inits", &plan.inits, |out, init| out.string("init", init))?;
    out.u32(plan.device_timeout_ms);
    out.u8(match plan.on_failure {
        OnFailure::Reboot => 0,
        OnFailure::PowerOff => 1,
        OnFailure::Halt => 2,
    });
    out.u32(plan.failure_wait_ms);

    let mut bytes = out.0;
    let total = bytes.len() + CHECKSUM_LEN;
    if total > MAX_LEN {
        return Err(PlanError::TooLong { field: "whole" });
    }
    let total = u32::try_from(total).map_err(|_| PlanError::TooLong { field: "whole" })?;
    bytes[12..HEADER_LEN].copy_from_slice(&total.to_le_bytes());
    let sum = crc32(0, &bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<BootPlan, PlanError> {
    if bytes.get(..8) != Some(MAGIC) {
        return Err(PlanError::NotAPlan);
    }
    let mut header = Reader::new(bytes, 8);
    let version = header.u16();
    let reserved = header.u16();
    let stated = header.u32();
    header.end()?;
    if version != VERSION {
        return Err(PlanError::Version { found: version });
    }
    let actual = bytes.len();
    let lengths = HEADER_LEN + CHECKSUM_LEN..=MAX_LEN;
    if u64::from(stated) != actual as u64 || !lengths.contains(&actual) {
        return Err(PlanError::Length {
            stated: stated.into(),
            actual: actual as u64,
        });
    }
    let (body, sum) = bytes.split_at(actual - CHECKSUM_LEN);
    if crc32(0, body).to_le_bytes() != sum {
        return Err(PlanError::Checksum);
    }
    let mut input = Reader::new(body, HEADER_LEN);
    input.check(reserved == 0, "reserved header field", 10);
    let plan = input.plan();
    input.check(input.at == body.len(), "end", input.at);
    input.end()?;
    Ok(plan)
}

/// Whether a module lies inside its pack.
fn fits(packed: &Packed, packs: &[Pack]) -> bool {
    let end = packed.offset.checked_add(packed.len);
    packs
        .get(usize::from(packed.pack))
        .is_some_and(|pack| end.is_some_and(|end| end <= pack.size))
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn count(&mut self, field: &'static str, count: usize) -> Result<(), PlanError> {
        let count = u16::try_from(count).map_err(|_| PlanError::TooLong { field })?;
        self.u16(count);
        Ok(())
    }

    fn string(&mut self, field: &'static str, text: &str) -> Result<(), PlanError> {
        self.count(field, text.len())?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn list<T>(
        &mut self,
        field: &'static str,
        items: &[T],
        mut item: impl FnMut(&mut Self, &T) -> Result<(), PlanError>,
    ) -> Result<(), PlanError> {
        self.count(field, items.len())?;
        items.iter().try_for_each(|value| item(self, value))
    }

    fn bytes(&mut self, field: &'static str, bytes: &[u8]) -> Result<(), PlanError> {
        self.count(field, bytes.len())?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn auth(&mut self, auth: &Auth) -> Result<(), PlanError> {
        match auth {
            Auth::None => self.u8(0),
            Auth::Sealed(root) => {
                self.u8(1);
                self.bytes("root hash", root.as_bytes())?;
            }
            Auth::Signed(signed) => {
                self.u8(2);
                let count = signed.certificates.len();
                let valid = (1..=MAX_CERTIFICATES).contains(&count);
                for (valid, field) in [
                    (valid, "number of certificates"),
                    (signed.measure.pcr <= MAX_PCR, "PCR"),
                ] {
                    if !valid {
                        return Err(PlanError::Value { field, at: 0 });
                    }
                }
                self.certificates(&signed.certificates)?;
                self.string("least version", &signed.min_version)?;
                self.u8(signed.measure.pcr);
                self.u8(u8::from(signed.measure.required));
            }
        }
        Ok(())
    }

    fn certificates(&mut self, certificates: &[Vec<u8>]) -> Result<(), PlanError> {
        self.list("certificates", certificates, |out, certificate| {
            out.bytes("certificate", certificate)
        })
    }

    fn candidate(&mut self, candidate: &Candidate) -> Result<(), PlanError> {
        self.string("candidate name", &candidate.name)?;
        match &candidate.partition {
            Selector::TypeGuid(guid) => {
                self.u8(0);
                self.0.extend_from_slice(guid.as_bytes());
            }
            Selector::PartUuid(guid) => {
                self.u8(1);
                self.0.extend_from_slice(guid.as_bytes());
            }
            Selector::PartLabel(label) => {
                self.u8(2);
                self.string("partition label", label)?;
            }
            Selector::Pmem { dax } => {
                self.u8(3);
                self.u8(u8::from(*dax));
            }
            Selector::Embedded => self.u8(4),
        }
        match &candidate.file {
            None => self.u8(0),
            Some(path) => {
                self.u8(1);
                self.string("image path", path)?;
            }
        }
        self.0.extend_from_slice(candidate.expect.uuid.as_bytes());
        self.0
            .extend_from_slice(&candidate.expect.size.to_le_bytes());
        Ok(())
    }

    fn module(&mut self, module: &Module) -> Result<(), PlanError> {
        self.string("module name", &module.name)?;
        self.string("module file", &module.file)?;
        match &module.packed {
            None => self.u8(0),
            Some(packed) => {
                self.u8(1);
                self.u16(packed.pack);
                self.u32(packed.offset);
                self.u32(packed.len);
            }
        }
        self.string("module parameters", &module.params)?;
        self.u8(match module.role {
            Role::Dependency => 0,
            Role::Disk => 1,
            Role::Image => 2,
            Role::Mapping => 3,
            Role::Bus => 4,
        });
        self.indices("module dependencies", &module.needs)?;
        self.u8(u8::from(module.required));
        self.indices("module's better ones", &module.fallback_for)
    }

    fn indices(&mut self, field: &'static str, indices: &[u16]) -> Result<(), PlanError> {
        self.list(field, indices, |out, &index| {
            out.u16(index);
            Ok(())
        })
    }
}

/// Takes values off the bytes one after another.
///
/// The first error is kept and shown by [`Reader::end`]; all that is read after
/// it is zero or empty. That takes a third of the code that passing on a
/// `Result` from every field would.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    error: Option<PlanError>,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            error: None,
        }
    }

    /// Whether all that was read is good.
    fn end(&self) -> Result<(), PlanError> {
        self.error.map_or(Ok(()), Err)
    }

    fn fail(&mut self, error: PlanError) {
        self.error.get_or_insert(error);
    }

    /// Refuses the field at `at` unless it is valid.
    fn check(&mut self, valid: bool, field: &'static str, at: usize) {
        if !valid {
            self.fail(PlanError::Value { field, at });
        }
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let end = self.at.saturating_add(len);
        match self.bytes.get(self.at..end) {
            Some(taken) if self.error.is_none() => {
                self.at = end;
                taken
            }
            _ => {
                self.fail(PlanError::Truncated { at: self.at });
                &[]
            }
        }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).first_chunk().copied().unwrap_or([0; N])
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_bytes(self.array())
    }

    /// A byte that chooses among `values`.
    fn choice<T: Copy, const N: usize>(&mut self, field: &'static str, values: [T; N]) -> T {
        let at = self.at;
        let [index] = self.array();
        let chosen = values.get(usize::from(index));
        self.check(chosen.is_some(), field, at);
        *chosen.unwrap_or(&values[0])
    }

    fn bool(&mut self, field: &'static str) -> bool {
        self.choice(field, [false, true])
    }

    fn string(&mut self, field: &'static str) -> String {
        let at = self.at;
        let len = self.u16();
        match core::str::from_utf8(self.take(len.into())) {
            // A NUL would cut the string where it becomes a C string.
            Ok(text) if !text.as_bytes().contains(&0) => text.into(),
            _ => {
                self.check(false, field, at);
                String::new()
            }
        }
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self, usize) -> T) -> Vec<T> {
        let count = usize::from(self.u16());
        // Not `with_capacity(count)`: each item takes at least a byte of input,
        // so memory stays in proportion to it.
        let mut items = Vec::new();
        while items.len() < count && self.error.is_none() {
            items.push(item(self, items.len()));
        }
        items
    }

    fn plan(&mut self) -> BootPlan {
        let product = self.string("product");
        let kernel_release = self.string("kernel release");
        let auth = self.auth();
        let on_corruption = self.choice("corruption policy", ON_CORRUPTION);
        let candidates = self.list(|input, _| input.candidate());
        let kernel_mounts = self.list(|input, _| input.string("kernel mount"));
        let direct = self.bool("direct").then(|| Direct {
            root: self.string("root"),
            kinds: self.list(|input, _| input.string("root's file system")),
            flags: self.string("root's options"),
        });
        let stage = self.choice("stage", [Stage::Initrd, Stage::System]);
        let extensions = self.bool("extensions").then(|| self.extensions());
        let appended = self.choice("appended", APPENDED);
        let packs = self.list(|input, _| input.pack());
        let modules = self.list(|input, index| input.module(index, &packs));
        BootPlan {
            product,
            kernel_release,
            auth,
            on_corruption,
            candidates,
            kernel_mounts,
            direct,
            stage,
            extensions,
            appended,
            packs,
            aliases: self.aliases(modules.len()),
            modules,
            inits: self.list(|input, _| input.string("init")),
            device_timeout_ms: self.u32(),
            on_failure: self.choice("failure action", ON_FAILURE),
            failure_wait_ms: self.u32(),
        }
    }

    fn auth(&mut self) -> Auth {
        match self.choice("auth", [0, 1, 2]) {
            0 => Auth::None,
            1 => self.root_hash().map_or_else(Auth::default, Auth::Sealed),
            _ => self.signed(),
        }
    }

    fn root_hash(&mut self) -> Option<RootHash> {
        let at = self.at;
        let len = self.u16();
        let root = RootHash::from_bytes(self.take(len.into()));
        self.check(root.is_ok(), "root hash", at);
        root.ok()
    }

    fn certificates(&mut self) -> Vec<Vec<u8>> {
        self.list(|input, _| {
            let len = input.u16();
            input.take(len.into()).to_vec()
        })
    }

    fn extensions(&mut self) -> Extensions {
        let at = self.at;
        let certificates = self.certificates();
        let valid = certificates.len() <= MAX_CERTIFICATES;
        self.check(valid, "number of certificates", at);
        let sealed = self.list(|input, _| input.root_hash());
        Extensions {
            certificates,
            sealed: sealed.into_iter().flatten().collect(),
        }
    }

    fn signed(&mut self) -> Auth {
        let at = self.at;
        let certificates = self.certificates();
        let valid = (1..=MAX_CERTIFICATES).contains(&certificates.len());
        self.check(valid, "number of certificates", at);
        let min_version = self.string("least version");
        let at = self.at;
        let [pcr] = self.array();
        self.check(pcr <= MAX_PCR, "PCR", at);
        Auth::Signed(Signed {
            certificates,
            min_version,
            measure: Measure {
                pcr,
                required: self.bool("measurement's required flag"),
            },
        })
    }

    fn aliases(&mut self, modules: usize) -> AliasTable {
        let len = self.u32() as usize;
        let start = self.at;
        let table = AliasTable::from_bytes(self.take(len), modules);
        let at = match table {
            Err(AliasError::Damaged { at }) => start.saturating_add(at),
            _ => start,
        };
        self.check(table.is_ok(), "alias table", at);
        table.unwrap_or_default()
    }

    fn candidate(&mut self) -> Candidate {
        Candidate {
            name: self.string("candidate name"),
            partition: match self.choice("partition selector", [0, 1, 2, 3, 4]) {
                0 => Selector::TypeGuid(self.uuid()),
                1 => Selector::PartUuid(self.uuid()),
                2 => Selector::PartLabel(self.string("partition label")),
                3 => Selector::Pmem {
                    dax: self.bool("use of memory"),
                },
                _ => Selector::Embedded,
            },
            file: self.bool("image kind").then(|| self.string("image path")),
            expect: Expect {
                uuid: self.uuid(),
                size: self.u64(),
            },
        }
    }

    /// The name of a file in a folder.
    fn file_name(&mut self, field: &'static str) -> String {
        let at = self.at;
        let file = self.string(field);
        let is_name = !file.is_empty() && !file.as_bytes().contains(&b'/');
        self.check(is_name, field, at);
        file
    }

    fn pack(&mut self) -> Pack {
        let file = self.file_name("pack");
        let at = self.at;
        let size = self.u32();
        self.check(size <= MAX_PACK, "pack's size", at);
        Pack { file, size }
    }

    fn packed(&mut self, packs: &[Pack]) -> Packed {
        let at = self.at;
        let packed = Packed {
            pack: self.u16(),
            offset: self.u32(),
            len: self.u32(),
        };
        self.check(fits(&packed, packs), "module's place in a pack", at);
        packed
    }

    fn module(&mut self, index: usize, packs: &[Pack]) -> Module {
        Module {
            name: self.string("module name"),
            file: self.file_name("module file"),
            packed: self
                .bool("module's kind of place")
                .then(|| self.packed(packs)),
            params: self.string("module parameters"),
            role: self.choice("module role", ROLES),
            needs: self.before(index),
            required: self.bool("module's required flag"),
            fallback_for: self.before(index),
        }
    }

    /// Indices of modules that stand before the one of this index.
    fn before(&mut self, index: usize) -> Vec<u16> {
        self.list(|input, _| {
            let at = input.at;
            let other = input.u16();
            input.check(usize::from(other) < index, "module dependency", at);
            other
        })
    }
}
