//! Packs: the modules that only some machines need, compressed by the group.
//!
//! What every boot loads stays in the archive as it is. Of a generic
//! mini-initramfs that is a twentieth; the rest, 30 MB in Debian, was unpacked
//! by the kernel at every boot for the one or two drivers that it then loaded. A
//! pack is decompressed only when a device asks for one of its modules.
//!
//! *Small packs* cost a boot less; *large ones* compress better, since modules
//! repeat each other's symbols, checksums and type data. So what is loaded
//! together is packed together ([`CHAINS`]), small where it is common; what is
//! rare is packed by its folder, up to [`MAX_RARE`]. Measured on Debian 6.12
//! (31.7 MB): one frame for all 6.1 MB at level 9 and 5.3 at 19; a frame a module
//! 6.9; these groups 6.4 at level 9, 6.0 with the [`parameters`] here.

use super::select::Chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Compression;
use iofs_plan::{MAX_PACK, Pack, Packed, Role};
use rayon::prelude::*;
use std::collections::BTreeMap;
use zstd::stream::raw::CParameter;
use zstd::zstd_safe::Strategy;

/// The greatest size of a pack of rare drivers before compression, in bytes; one
/// driver may be larger.
const MAX_RARE: usize = 2 << 20;

/// The greatest window, as a power of two: PID 1 and the kernel hold it in memory
/// while they decompress.
const WINDOW_LOG: u32 = 22;

/// Modules that a machine loads together, with the name of their pack. A name
/// that ends with a slash is a folder under `drivers/`. What they need and no
/// line names comes with the first that needs it.
const CHAINS: &[(&str, &[&str])] = &[
    (
        "virtio",
        &[
            "virtio",
            "virtio_ring",
            "virtio_pci",
            "virtio_pci_modern_dev",
            "virtio_pci_legacy_dev",
            "virtio_mmio",
            "virtio_blk",
            "virtio_scsi",
        ],
    ),
    ("scsi", &["scsi_common", "scsi_mod", "sd_mod"]),
    ("ahci", &["libata", "libahci", "ahci"]),
    ("ide", &["ata_piix", "ata_generic"]),
    ("nvme", &["nvme_core", "nvme_auth", "nvme", "vmd"]),
    ("usb", &["usb_common", "usbcore", "xhci_hcd", "xhci_pci"]),
    (
        "usb-1-2",
        &["ehci_hcd", "ehci_pci", "ohci_hcd", "ohci_pci", "uhci_hcd"],
    ),
    (
        "usb-boards",
        &["xhci_plat_hcd", "usb/dwc3/", "usb/chipidea/", "udc_core"],
    ),
    ("usb-storage", &["usb_storage", "uas"]),
    (
        "mmc",
        &[
            "mmc_core",
            "mmc_block",
            "sdhci",
            "cqhci",
            "sdhci_pci",
            "sdhci_acpi",
        ],
    ),
    ("ufs", &["ufs/"]),
    ("hyper-v", &["hv/", "pci_hyperv", "hv_storvsc"]),
    ("xen", &["xen_blkfront", "xen_scsifront"]),
    ("vmware", &["vmw_pvscsi", "message/fusion/"]),
    ("pmem", &["nvdimm/", "acpi/nfit/"]),
    ("firewire", &["firewire/"]),
    (
        "scsi-transport",
        &[
            "scsi_transport_spi",
            "scsi_transport_sas",
            "scsi_transport_fc",
            "raid_class",
        ],
    ),
    ("lpfc", &["lpfc"]),
    ("efi", &["efivarfs"]),
];

/// Folders under `drivers/` by which rare drivers are packed. No name is that of
/// a chain.
const FAMILIES: &[(&str, &str)] = &[
    ("ata-rare", "ata/"),
    ("scsi-rare", "scsi/"),
    ("usb-rare", "usb/"),
    ("mmc-rare", "mmc/"),
    ("other", ""),
];

/// A pack: its name and the modules in it, as indices in load order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    members: Vec<usize>,
}

/// Packs whatever the boot disk, the image and mappings do not need. `sizes` are
/// the modules' sizes in bytes.
fn group(chosen: &[Chosen<'_>], sizes: &[usize]) -> Vec<Group> {
    let plain = needed_by_every_boot(chosen);
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut rare: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, place) in places(chosen).into_iter().enumerate() {
        if plain.get(number) == Some(&true) {
            continue;
        }
        let (groups, name) = match place {
            Place::Chain(name) => (&mut named, name),
            Place::Family(name) => (&mut rare, name),
        };
        groups.entry(name).or_default().push(number);
    }
    let mut groups: Vec<Group> = named
        .into_iter()
        .map(|(name, members)| Group {
            name: name.to_owned(),
            members,
        })
        .collect();
    for (family, members) in rare {
        let bins = fill(&members, sizes);
        let several = bins.len() > 1;
        groups.extend((1..).zip(bins).map(|(number, members)| Group {
            name: match several {
                true => format!("{family}-{number}"),
                false => family.to_owned(),
            },
            members,
        }));
    }
    groups
}

/// What is loaded without a device that asks for it.
fn needed_by_every_boot(chosen: &[Chosen<'_>]) -> Vec<bool> {
    let at_once =
        |chosen: &Chosen<'_>| matches!(chosen.role, Role::Disk | Role::Image | Role::Mapping);
    let mut plain: Vec<bool> = chosen.iter().map(at_once).collect();
    // Backwards: a module stands after those that it needs.
    for (number, module) in chosen.iter().enumerate().rev() {
        if plain.get(number) == Some(&true) {
            for &need in &module.needs {
                if let Some(slot) = plain.get_mut(usize::from(need)) {
                    *slot = true;
                }
            }
        }
    }
    plain
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Chain(&'static str),
    Family(&'static str),
}

/// Where each module belongs: by [`CHAINS`], else with the first that needs it,
/// else by its folder.
fn places(chosen: &[Chosen<'_>]) -> Vec<Place> {
    let mut users: Vec<Option<Place>> = vec![None; chosen.len()];
    let mut places = Vec::with_capacity(chosen.len());
    for (number, module) in chosen.iter().enumerate().rev() {
        let folder = folder_of(&module.module.path);
        let inherited = users.get(number).copied().flatten();
        let inherited = inherited.filter(|_| module.role == Role::Dependency);
        let place = chain(&module.module.name, folder)
            .map(Place::Chain)
            .or(inherited)
            .unwrap_or_else(|| Place::Family(family(folder)));
        for &need in &module.needs {
            if let Some(slot) = users.get_mut(usize::from(need)) {
                *slot = Some(place);
            }
        }
        places.push(place);
    }
    places.reverse();
    places
}

/// A module's path under `drivers/`; empty if it is elsewhere.
fn folder_of(path: &str) -> &str {
    path.split_once("drivers/").map_or("", |(_, path)| path)
}

fn chain(name: &str, path: &str) -> Option<&'static str> {
    let means = |entry: &&str| match entry.ends_with('/') {
        true => path.starts_with(entry),
        false => name == *entry,
    };
    CHAINS
        .iter()
        .find(|(_, modules)| modules.iter().any(means))
        .map(|(chain, _)| *chain)
}

fn family(path: &str) -> &'static str {
    FAMILIES
        .iter()
        .find(|(_, folder)| path.starts_with(folder))
        .map_or("other", |(family, _)| family)
}

/// Cuts a family into packs, in order: what is alike stands together.
fn fill(members: &[usize], sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for &member in members {
        let size = sizes.get(member).copied().unwrap_or(0);
        match bins.last_mut() {
            Some(bin) if size <= room => bin.push(member),
            _ => {
                bins.push(vec![member]);
                room = MAX_RARE;
            }
        }
        room = room.saturating_sub(size);
    }
    bins
}

/// Which module lies where.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The packs, as the plan has them.
    pub(crate) packs: Vec<Pack>,
    /// The modules of each pack, in the order of its content.
    members: Vec<Vec<usize>>,
    places: Vec<Option<Packed>>,
}

impl Layout {
    /// Lays out the chosen modules, whose bytes are `modules`.
    pub(crate) fn new(chosen: &[Chosen<'_>], modules: &[Vec<u8>]) -> Result<Self> {
        let sizes: Vec<usize> = modules.iter().map(Vec::len).collect();
        let mut layout = Self {
            places: vec![None; chosen.len()],
            ..Self::default()
        };
        for (number, group) in (0..).zip(group(chosen, &sizes)) {
            let too_large = || {
                Error::new(
                    ErrorKind::Limit,
                    format!("the modules of the pack {} are too large", group.name),
                )
            };
            let mut offset = 0u32;
            for &member in &group.members {
                let len = sizes.get(member).copied().unwrap_or(0);
                let len = u32::try_from(len).map_err(|_| too_large())?;
                if let Some(slot) = layout.places.get_mut(member) {
                    *slot = Some(Packed {
                        pack: number,
                        offset,
                        len,
                    });
                }
                offset = offset
                    .checked_add(len)
                    .filter(|end| *end <= MAX_PACK)
                    .ok_or_else(too_large)?;
            }
            layout.packs.push(Pack {
                file: format!("{}.zst", group.name),
                size: offset,
            });
            layout.members.push(group.members);
        }
        Ok(layout)
    }

    /// The place of a module; `None` if it lies in the archive itself.
    pub(crate) fn place(&self, module: usize) -> Option<Packed> {
        self.places.get(module).copied().flatten()
    }

    /// The packs' bytes: one zstd frame each, made on every core.
    pub(crate) fn compress(
        &self,
        modules: &[Vec<u8>],
        compression: Compression,
    ) -> Result<Vec<Vec<u8>>> {
        let level = match compression {
            Compression::ZstdLevel(level) => Some(level),
            _ => None,
        };
        self.members
            .par_iter()
            .with_max_len(1)
            .map(|members| {
                let members = members.iter().filter_map(|&member| modules.get(member));
                let content: Vec<u8> = members.flatten().copied().collect();
                frame(&content, level).map_err(|source| {
                    Error::new(ErrorKind::Io, "compressing a pack failed").source(source)
                })
            })
            .collect()
    }
}

/// One frame with content size and checksum.
fn frame(content: &[u8], level: Option<i32>) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(base_level(level))?;
    for parameter in parameters(level) {
        compressor.set_parameter(parameter)?;
    }
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    compressor.compress(content)
}

/// The level whose parameters [`parameters`] changes.
pub(crate) fn base_level(level: Option<i32>) -> i32 {
    level.unwrap_or(16)
}

/// How zstd compresses: at `level`, else with the fastest of the parsers that
/// weigh what each choice costs, short matches (of which modules are full) and
/// little searching. Within 1 % of level 16 in less than half of its time, and
/// 7 % less than level 9.
pub(crate) fn parameters(level: Option<i32>) -> Vec<CParameter> {
    let mut all = vec![CParameter::WindowLog(WINDOW_LOG)];
    if level.is_none() {
        all.extend([
            CParameter::ChainLog(19),
            CParameter::HashLog(19),
            CParameter::SearchLog(2),
            CParameter::MinMatch(3),
            CParameter::TargetLength(16),
            CParameter::Strategy(Strategy::ZSTD_btopt),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_kmod::Module;

    fn module(path: &str) -> Module {
        Module {
            name: iofs_kmod::module_name(path),
            path: format!("kernel/{path}"),
            needs: Vec::new(),
        }
    }

    #[test]
    fn no_two_packs_have_one_name() {
        let chains = CHAINS.iter().map(|(name, _)| *name);
        let names: Vec<&str> = chains
            .chain(FAMILIES.iter().map(|(name, _)| *name))
            .collect();
        for (number, name) in names.iter().enumerate() {
            assert!(!names[..number].contains(name), "{name}");
            // Families are numbered.
            let numbered = |other: &&str| {
                let rest = other
                    .strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix('-'));
                rest.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
            };
            assert!(!names.iter().any(numbered), "{name}");
        }
        // A family that fits into one pack, beside the chain of its folder.
        let modules: &[(&str, Role, &[u16])] = &[
            ("drivers/scsi/scsi_mod.ko", Role::Bus, &[]),
            ("drivers/scsi/rare.ko", Role::Bus, &[0]),
        ];
        assert_eq!(
            packs(modules, &[1, 1]),
            ["scsi: scsi_mod", "scsi-rare: rare"]
        );
    }

    /// What is packed, as `pack: module module`.
    fn packs(modules: &[(&str, Role, &[u16])], sizes: &[usize]) -> Vec<String> {
        let files: Vec<Module> = modules.iter().map(|(path, ..)| module(path)).collect();
        let chosen: Vec<Chosen<'_>> = modules
            .iter()
            .zip(&files)
            .map(|(&(_, role, needs), module)| Chosen {
                module,
                role,
                reason: String::new(),
                required: true,
                needs: needs.to_vec(),
                fallback_for: Vec::new(),
            })
            .collect();
        let name = |&member: &usize| files[member].name.as_str();
        group(&chosen, sizes)
            .iter()
            .map(|group| {
                let members: Vec<&str> = group.members.iter().map(name).collect();
                format!("{}: {}", group.name, members.join(" "))
            })
            .collect()
    }

    #[test]
    fn what_every_boot_needs_is_in_no_pack() {
        let modules: &[(&str, Role, &[u16])] = &[
            ("lib/crc.ko", Role::Dependency, &[]),
            ("drivers/scsi/scsi_mod.ko", Role::Dependency, &[]),
            ("drivers/scsi/sd_mod.ko", Role::Disk, &[1]),
            ("fs/erofs/erofs.ko", Role::Image, &[0]),
            ("drivers/block/loop.ko", Role::Mapping, &[]),
            ("drivers/ata/libata.ko", Role::Dependency, &[1]),
            ("drivers/ata/ahci.ko", Role::Bus, &[5]),
        ];
        assert_eq!(packs(modules, &[1; 7]), ["ahci: libata ahci"]);
    }

    #[test]
    fn a_dependency_goes_with_the_first_that_needs_it() {
        let modules: &[(&str, Role, &[u16])] = &[
            ("lib/itu.ko", Role::Dependency, &[]),
            ("drivers/firewire/core.ko", Role::Dependency, &[0]),
            ("drivers/firewire/ohci.ko", Role::Bus, &[1]),
            ("drivers/nvme/host/fabrics.ko", Role::Dependency, &[]),
            ("drivers/nvme/target/nvmet.ko", Role::Dependency, &[3]),
            ("drivers/scsi/lpfc/lpfc.ko", Role::Bus, &[4]),
            ("drivers/nvme/host/other.ko", Role::Bus, &[3]),
        ];
        assert_eq!(
            packs(modules, &[1; 7]),
            [
                "firewire: itu core ohci",
                "lpfc: fabrics nvmet lpfc",
                "other: other"
            ]
        );
    }

    #[test]
    fn rare_drivers_fill_packs_in_order() {
        let modules: &[(&str, Role, &[u16])] = &[
            ("drivers/scsi/a.ko", Role::Bus, &[]),
            ("drivers/scsi/lib.ko", Role::Dependency, &[]),
            ("drivers/scsi/b.ko", Role::Bus, &[1]),
            ("drivers/scsi/large.ko", Role::Bus, &[]),
            ("drivers/scsi/c.ko", Role::Bus, &[]),
            ("drivers/ata/pata_x.ko", Role::Bus, &[]),
        ];
        let third = MAX_RARE / 3;
        let sizes = [third, third, third, 5 * third, third, 7];
        assert_eq!(
            packs(modules, &sizes),
            [
                "ata-rare: pata_x",
                "scsi-rare-1: a lib b",
                "scsi-rare-2: large",
                "scsi-rare-3: c"
            ]
        );
    }
}
