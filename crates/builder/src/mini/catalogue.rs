//! Which modules drive storage: the list behind [`crate::Modules::Generic`].
//!
//! By folder of the kernel's source tree, as module folders keep it, since that
//! is stable over kernel versions where names and symbols are not. A rule takes
//! a folder with its subfolders; what is left out is left out because PID 1
//! cannot use it:
//!
//! * it is the target's side of a protocol, or for debugging;
//! * it drives tapes, changers or generic access, no disks;
//! * it needs a network, or a network card's driver, to reach its disk: that is
//!   for the second stage, which has one;
//! * it cannot work without firmware files, which the mini-initramfs has none
//!   of (listed apart, so that it can be taken up again);
//! * it is a block device over something else (drbd, zram).

/// A folder under `kernel/` of a module tree, and what in it is left out.
pub(crate) struct Rule {
    /// Prefix of the module's path, with its last slash.
    pub(crate) folder: &'static str,
    /// Path prefixes under `folder`, or module names with a leading `=`.
    pub(crate) except: &'static [&'static str],
    /// If not empty: only these module names.
    pub(crate) only: &'static [&'static str],
}

const fn all(folder: &'static str) -> Rule {
    Rule {
        folder,
        except: &[],
        only: &[],
    }
}

/// The rules, in no order.
pub(crate) const RULES: &[Rule] = &[
    // Disks on PCI.
    Rule {
        folder: "drivers/nvme/host/",
        // Over networks and Fibre Channel; nvme_core and nvme_apple come as
        // dependencies and by alias.
        except: &["=nvme_fabrics", "=nvme_fc", "=nvme_rdma", "=nvme_tcp"],
        only: &[],
    },
    Rule {
        folder: "drivers/ata/",
        // ISA and PCMCIA ports that must be told where to look.
        except: &["=pata_legacy", "=pata_isapnp", "=pata_pcmcia"],
        only: &[],
    },
    Rule {
        folder: "drivers/scsi/",
        except: &[
            "=scsi_debug",
            // Tapes, changers, enclosures, generic access, CD-ROMs.
            "=st",
            "=osst",
            "=ch",
            "=ses",
            "=sg",
            "=sr_mod",
            // Over networks: iSCSI, FCoE and the cards that offload them.
            "=iscsi_tcp",
            "=libiscsi_tcp",
            "=iscsi_boot_sysfs",
            "be2iscsi/",
            "bnx2fc/",
            "bnx2i/",
            "csiostor/",
            "cxgbi/",
            "fcoe/",
            "fnic/",
            "qedf/",
            "qedi/",
            "qla4xxx/",
            "snic/",
            // Target mode.
            "=tcm_qla2xxx",
            "elx/efct/",
            // Need firmware files.
            "=advansys",
            "=qla1280",
            "=wd719x",
            "aic94xx/",
            "bfa/",
            "qla2xxx/",
            // ISA and PCMCIA.
            "pcmcia/",
            "=aha152x",
            "=aha1542",
            "=fdomain_isa",
            "=g_NCR5380",
            // Libraries come as dependencies; multipath is the second stage's.
            "device_handler/",
            "libfc/",
            "libsas/",
        ],
        only: &[],
    },
    Rule {
        folder: "drivers/message/fusion/",
        except: &["=mptctl", "=mptlan"],
        only: &[],
    },
    all("drivers/block/mtip32xx/"),
    Rule {
        folder: "drivers/pci/controller/",
        except: &[],
        only: &["vmd", "pci_hyperv", "pcie_brcmstb"],
    },
    // Disks of virtual machines.
    Rule {
        folder: "drivers/block/",
        except: &[],
        only: &["virtio_blk", "xen_blkfront", "xsysace", "sunvdc"],
    },
    Rule {
        folder: "drivers/virtio/",
        except: &[],
        only: &["virtio_mmio", "virtio_pci", "virtio"],
    },
    Rule {
        folder: "drivers/hv/",
        except: &[],
        only: &["hv_vmbus"],
    },
    // USB disks and the ports they are on.
    Rule {
        folder: "drivers/usb/storage/",
        // Needs firmware files.
        except: &["=ums_eneub6250"],
        only: &[],
    },
    Rule {
        folder: "drivers/usb/host/",
        // PCMCIA and development boards; a gadget's other side.
        except: &["=sl811_cs", "=sl811_hcd", "=u132_hcd", "=xhci_pci_renesas"],
        only: &[],
    },
    all("drivers/usb/dwc3/"),
    all("drivers/usb/chipidea/"),
    // SD cards, eMMC, UFS.
    Rule {
        folder: "drivers/mmc/",
        except: &[
            "=sdio_uart",
            "=mmc_test",
            "=mmc_spi",
            "=sdricoh_cs",
            "=vub300",
            "=ushc",
        ],
        only: &[],
    },
    all("drivers/ufs/host/"),
    // FireWire disks.
    Rule {
        folder: "drivers/firewire/",
        except: &["=firewire_net", "=nosy", "=snd_firewire_lib"],
        only: &[],
    },
    // Memory that is a disk.
    Rule {
        folder: "drivers/nvdimm/",
        except: &["=nd_btt"],
        only: &[],
    },
    Rule {
        folder: "drivers/acpi/nfit/",
        except: &[],
        only: &["nfit"],
    },
    // Disks of mainframes.
    all("drivers/s390/block/"),
];

/// Modules that find the disks of a host adapter's driver and that it does not
/// depend on: the folder of the driver, and their names.
pub(crate) const COMPANIONS: &[(&str, &[&str])] = &[
    ("drivers/ata/", &["sd_mod"]),
    ("drivers/scsi/", &["sd_mod"]),
    ("drivers/message/fusion/", &["sd_mod"]),
    ("drivers/usb/storage/", &["sd_mod"]),
    ("drivers/ufs/", &["sd_mod"]),
    ("drivers/firewire/", &["sd_mod"]),
    ("drivers/mmc/", &["mmc_block"]),
    ("drivers/nvdimm/", &["nd_pmem"]),
];

/// Buses that storage devices and what they hang on announce themselves by: the
/// part of a modalias before its colon.
pub(crate) const BUSES: &[&str] = &[
    "acpi", "amba", "ap", "ccw", "eisa", "ieee1394", "mmc", "nd", "of", "pci", "platform", "pnp",
    "scsi", "usb", "vio", "virtio", "vmbus", "xen",
];

/// Whether the module `name` (underscores) at `path`, relative to a module
/// folder's `kernel/`, drives storage.
pub(crate) fn drives_storage(path: &str, name: &str) -> bool {
    RULES.iter().any(|rule| {
        let Some(inside) = path.strip_prefix(rule.folder) else {
            return false;
        };
        let excepted = rule
            .except
            .iter()
            .any(|except| match except.strip_prefix('=') {
                Some(module) => module == name,
                None => inside.starts_with(except),
            });
        // A rule with names is about the folder itself.
        let named = rule.only.is_empty() || (rule.only.contains(&name) && !inside.contains('/'));
        !excepted && named
    })
}

/// Whether a module's path lies in a folder of storage drivers, also of those
/// that are left out.
pub(crate) fn in_storage_folder(path: &str) -> bool {
    let Some(at) = path.find("drivers/") else {
        return false;
    };
    let path = path.get(at..).unwrap_or("");
    let folders = RULES.iter().filter(|rule| rule.only.is_empty());
    folders
        .into_iter()
        .any(|rule| path.starts_with(rule.folder))
}

/// Whether an alias is one by which storage announces itself.
pub(crate) fn storage_alias(pattern: &str) -> bool {
    BUSES.iter().any(|bus| {
        pattern
            .strip_prefix(bus)
            // `acpi*:PNP0A03:*` is how ACPI's aliases are written.
            .is_some_and(|rest| rest.starts_with(':') || rest.starts_with("*:"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_in_and_the_rest_is_out() {
        for (path, name) in [
            ("drivers/nvme/host/nvme.ko.xz", "nvme"),
            ("drivers/ata/ahci.ko.xz", "ahci"),
            ("drivers/scsi/sd_mod.ko", "sd_mod"),
            ("drivers/scsi/megaraid/megaraid_sas.ko", "megaraid_sas"),
            ("drivers/block/virtio_blk.ko.zst", "virtio_blk"),
            ("drivers/usb/storage/uas.ko", "uas"),
            ("drivers/mmc/host/sdhci-pci.ko", "sdhci_pci"),
            ("drivers/pci/controller/vmd.ko", "vmd"),
        ] {
            assert!(drives_storage(path, name), "{path}");
        }
        for (path, name) in [
            ("drivers/nvme/target/nvmet.ko", "nvmet"),
            ("drivers/nvme/host/nvme-tcp.ko", "nvme_tcp"),
            ("drivers/scsi/scsi_debug.ko", "scsi_debug"),
            ("drivers/scsi/qla2xxx/qla2xxx.ko", "qla2xxx"),
            ("drivers/block/drbd/drbd.ko", "drbd"),
            ("drivers/block/loop.ko", "loop"),
            ("drivers/virtio/virtio_balloon.ko", "virtio_balloon"),
            ("drivers/net/ethernet/intel/e1000/e1000.ko", "e1000"),
            ("fs/ext4/ext4.ko", "ext4"),
        ] {
            assert!(!drives_storage(path, name), "{path}");
        }
    }

    #[test]
    fn aliases_of_storage_buses_only() {
        for alias in [
            "pci:v00008086d*",
            "acpi*:PNP0A03:*",
            "scsi:t-0x00*",
            "virtio:d00000002v*",
        ] {
            assert!(storage_alias(alias), "{alias}");
        }
        for alias in [
            "fs-erofs",
            "pcixx:a",
            "cpu:type:x86,*",
            "dmi*:svn:*",
            "crypto-crc32c",
        ] {
            assert!(!storage_alias(alias), "{alias}");
        }
    }
}
