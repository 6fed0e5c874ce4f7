//! Encoding and decoding of the boot plan.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crc::{Crc, Table};
use uuid::Uuid;

use crate::{
    Alias, Auth, BootPlan, Candidate, Expect, MAX_LEN, Module, OnFailure, Role, Selector, VERSION,
};

const MAGIC: &[u8; 8] = b"IOFSPLAN";
const HEADER_LEN: usize = 16;
const CHECKSUM_LEN: usize = 4;

/// One table of 1 KiB: the faster crates bring 16 KiB and code for every CPU.
static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&crc::CRC_32_ISO_HDLC);

pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

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
    out.u8(match plan.auth {
        Auth::None => 0,
    });
    out.list("candidates", &plan.candidates, Writer::candidate)?;
    for (index, module) in plan.modules.iter().enumerate() {
        if module.needs.iter().any(|&need| usize::from(need) >= index) {
            return Err(PlanError::Value {
                field: "module dependency",
                at: 0,
            });
        }
    }
    out.list("modules", &plan.modules, Writer::module)?;
    let sorted = plan
        .aliases
        .windows(2)
        .all(|pair| pair[0].pattern <= pair[1].pattern);
    let known = plan
        .aliases
        .iter()
        .all(|alias| usize::from(alias.module) < plan.modules.len());
    if !sorted || !known {
        return Err(PlanError::Value {
            field: "alias table",
            at: 0,
        });
    }
    out.list("aliases", &plan.aliases, |out, alias| {
        out.string("alias", &alias.pattern)?;
        out.u16(alias.module);
        Ok(())
    })?;
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
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<BootPlan, PlanError> {
    if bytes.get(..8) != Some(MAGIC) {
        return Err(PlanError::NotAPlan);
    }
    let mut header = Reader { bytes, at: 8 };
    let version = header.u16()?;
    if version != VERSION {
        return Err(PlanError::Version { found: version });
    }
    let reserved = header.u16()?;
    let stated = header.u32()?;
    if u64::from(stated) != bytes.len() as u64
        || bytes.len() > MAX_LEN
        || bytes.len() < HEADER_LEN + CHECKSUM_LEN
    {
        return Err(PlanError::Length {
            stated: stated.into(),
            actual: bytes.len() as u64,
        });
    }
    let (body, sum) = bytes.split_at(bytes.len() - CHECKSUM_LEN);
    if checksum(body).to_le_bytes() != sum {
        return Err(PlanError::Checksum);
    }
    if reserved != 0 {
        return Err(PlanError::Value {
            field: "reserved header field",
            at: 10,
        });
    }
    let mut input = Reader {
        bytes: body,
        at: HEADER_LEN,
    };
    let plan = input.plan()?;
    if input.at != body.len() {
        return Err(PlanError::Value {
            field: "end",
            at: input.at,
        });
    }
    Ok(plan)
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
        self.string("module parameters", &module.params)?;
        self.u8(match module.role {
            Role::Dependency => 0,
            Role::Disk => 1,
            Role::Image => 2,
            Role::Mapping => 3,
            Role::Bus => 4,
        });
        self.list("module dependencies", &module.needs, |out, &need| {
            out.u16(need);
            Ok(())
        })?;
        self.u8(u8::from(module.required));
        Ok(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], PlanError> {
        let taken = self
            .at
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or(PlanError::Truncated { at: self.at })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PlanError> {
        let at = self.at;
        self.take(N)?
            .try_into()
            .map_err(|_| PlanError::Truncated { at })
    }

    fn u8(&mut self) -> Result<u8, PlanError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, PlanError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, PlanError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, PlanError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn uuid(&mut self) -> Result<Uuid, PlanError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    fn bool(&mut self, field: &'static str) -> Result<bool, PlanError> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(PlanError::Value { field, at }),
        }
    }

    fn string(&mut self, field: &'static str) -> Result<String, PlanError> {
        let at = self.at;
        let len = usize::from(self.u16()?);
        let text = core::str::from_utf8(self.take(len)?)
            .ok()
            // A NUL would cut the string where it becomes a C string.
            .filter(|text| !text.contains('\0'))
            .ok_or(PlanError::Value { field, at })?;
        Ok(text.into())
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self, usize) -> Result<T, PlanError>,
    ) -> Result<Vec<T>, PlanError> {
        let count = usize::from(self.u16()?);
        // Not `with_capacity(count)`: each item takes at least a byte of input,
        // so memory stays in proportion to it.
        let mut items = Vec::new();
        for index in 0..count {
            items.push(item(self, index)?);
        }
        Ok(items)
    }

    fn plan(&mut self) -> Result<BootPlan, PlanError> {
        let product = self.string("product")?;
        let kernel_release = self.string("kernel release")?;
        let auth_at = self.at;
        let auth = match self.u8()? {
            0 => Auth::None,
            _ => {
                return Err(PlanError::Value {
                    field: "auth",
                    at: auth_at,
                });
            }
        };
        let candidates = self.list(|input, _| input.candidate())?;
        let modules = self.list(Self::module)?;
        let aliases_at = self.at;
        let aliases = self.list(|input, _| {
            let pattern = input.string("alias")?;
            let at = input.at;
            let module = input.u16()?;
            if usize::from(module) >= modules.len() {
                return Err(PlanError::Value {
                    field: "alias's module",
                    at,
                });
            }
            Ok(Alias { pattern, module })
        })?;
        if aliases
            .windows(2)
            .any(|pair| pair[0].pattern > pair[1].pattern)
        {
            return Err(PlanError::Value {
                field: "alias table's order",
                at: aliases_at,
            });
        }
        let inits = self.list(|input, _| input.string("init"))?;
        let device_timeout_ms = self.u32()?;
        let failure_at = self.at;
        let on_failure = match self.u8()? {
            0 => OnFailure::Reboot,
            1 => OnFailure::PowerOff,
            2 => OnFailure::Halt,
            _ => {
                return Err(PlanError::Value {
                    field: "failure action",
                    at: failure_at,
                });
            }
        };
        Ok(BootPlan {
            product,
            kernel_release,
            auth,
            candidates,
            modules,
            aliases,
            inits,
            device_timeout_ms,
            on_failure,
            failure_wait_ms: self.u32()?,
        })
    }

    fn candidate(&mut self) -> Result<Candidate, PlanError> {
        let name = self.string("candidate name")?;
        let at = self.at;
        let partition = match self.u8()? {
            0 => Selector::TypeGuid(self.uuid()?),
            1 => Selector::PartUuid(self.uuid()?),
            2 => Selector::PartLabel(self.string("partition label")?),
            _ => {
                return Err(PlanError::Value {
                    field: "partition selector",
                    at,
                });
            }
        };
        let file = if self.bool("image kind")? {
            Some(self.string("image path")?)
        } else {
            None
        };
        Ok(Candidate {
            name,
            partition,
            file,
            expect: Expect {
                uuid: self.uuid()?,
                size: self.u64()?,
            },
        })
    }

    fn module(&mut self, index: usize) -> Result<Module, PlanError> {
        let name = self.string("module name")?;
        let file_at = self.at;
        let file = self.string("module file")?;
        if file.is_empty() || file.contains('/') {
            return Err(PlanError::Value {
                field: "module file",
                at: file_at,
            });
        }
        let params = self.string("module parameters")?;
        let role_at = self.at;
        let role = match self.u8()? {
            0 => Role::Dependency,
            1 => Role::Disk,
            2 => Role::Image,
            3 => Role::Mapping,
            4 => Role::Bus,
            _ => {
                return Err(PlanError::Value {
                    field: "module role",
                    at: role_at,
                });
            }
        };
        let needs = self.list(|input, _| {
            let at = input.at;
            let need = input.u16()?;
            if usize::from(need) >= index {
                return Err(PlanError::Value {
                    field: "module dependency",
                    at,
                });
            }
            Ok(need)
        })?;
        let required = self.bool("module's required flag")?;
        Ok(Module {
            name,
            file,
            params,
            role,
            needs,
            required,
        })
    }
}
