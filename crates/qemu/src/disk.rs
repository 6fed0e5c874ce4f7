//! Disks, their controllers, and the options that attach both.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::machine::Args;

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk over PCI: `/dev/vda`.
    VirtioBlk,
    /// virtio-blk on a virtio-mmio transport, of which only microvm and Arm's
    /// virt have any: `/dev/vda`.
    VirtioMmio,
    /// virtio-scsi: `/dev/sda`.
    VirtioScsi,
    /// NVMe: `/dev/nvme0n1`.
    Nvme,
    /// AHCI (SATA): `/dev/sda`. QEMU allows only blocks of 512 bytes here.
    Ahci,
    /// The IDE controller that the machine `pc` comes with (PIIX), four disks at
    /// most: `/dev/sda`. Only blocks of 512 bytes.
    Ide,
    /// LSI Logic 53C895A, parallel SCSI (sym53c8xx): `/dev/sda`.
    Lsi,
    /// LSI SAS1068 (mptsas): `/dev/sda`.
    MptSas,
    /// LSI `MegaRAID` SAS 1078 (`megaraid_sas`): `/dev/sda`.
    MegaSas,
    /// LSI `MegaRAID` SAS 2108 (`megaraid_sas`): `/dev/sda`.
    MegaSas2,
    /// `VMware`'s paravirtual SCSI (`vmw_pvscsi`): `/dev/sda`.
    PvScsi,
    /// USB mass storage, bulk only, on xHCI: `/dev/sda`.
    Usb,
    /// USB attached SCSI on xHCI: `/dev/sda`.
    Uas,
    /// An SD card on SDHCI: `/dev/mmcblk0`. Only blocks of 512 bytes, and
    /// QEMU wants the image's size to be a power of two.
    Sd,
}

impl Bus {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::VirtioBlk,
        Self::VirtioMmio,
        Self::VirtioScsi,
        Self::Nvme,
        Self::Ahci,
        Self::Ide,
        Self::Lsi,
        Self::MptSas,
        Self::MegaSas,
        Self::MegaSas2,
        Self::PvScsi,
        Self::Usb,
        Self::Uas,
        Self::Sd,
    ];

    /// Its short name, as on the command line of tests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioMmio => "virtio-mmio",
            Self::VirtioScsi => "virtio-scsi",
            Self::Nvme => "nvme",
            Self::Ahci => "ahci",
            Self::Ide => "ide",
            Self::Lsi => "lsi",
            Self::MptSas => "mptsas",
            Self::MegaSas => "megasas",
            Self::MegaSas2 => "megasas-gen2",
            Self::PvScsi => "pvscsi",
            Self::Usb => "usb",
            Self::Uas => "uas",
            Self::Sd => "sd",
        }
    }

    /// The bus of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bus| bus.name() == name)
    }

    /// The controller `id`, as `-device` wants it; `None` where the machine has
    /// it or the disk is its own.
    fn controller(self, id: &str) -> Option<String> {
        let driver = match self {
            Self::VirtioBlk | Self::VirtioMmio | Self::Ide => return None,
            Self::Nvme => return Some(format!("nvme,id={id},serial={id}")),
            Self::VirtioScsi => "virtio-scsi-pci",
            Self::Ahci => "ahci",
            Self::Lsi => "lsi53c895a",
            Self::MptSas => "mptsas1068",
            Self::MegaSas => "megasas",
            Self::MegaSas2 => "megasas-gen2",
            Self::PvScsi => "pvscsi",
            Self::Usb | Self::Uas => "qemu-xhci",
            Self::Sd => "sdhci-pci",
        };
        Some(format!("{driver},id={id}"))
    }

    /// The devices of the drive `drive` on the controller `id`, outermost first.
    /// `rest` is what the disk takes beside its place.
    fn devices(self, id: &str, index: usize, drive: &str, rest: &str) -> Vec<String> {
        let disk = format!("drive={drive}{rest}");
        match self {
            Self::VirtioBlk => vec![format!("virtio-blk-pci,{disk}")],
            Self::VirtioMmio => vec![format!("virtio-blk-device,{disk}")],
            Self::Nvme => vec![format!("nvme-ns,bus={id},{disk}")],
            Self::Ahci => vec![format!("ide-hd,bus={id}.0,{disk}")],
            Self::Ide => {
                let place = format!("bus=ide.{},unit={}", index / 2, index % 2);
                vec![format!("ide-hd,{place},{disk}")]
            }
            // The adapter reports no disk without a name of its own (WWN).
            Self::MptSas => {
                let name = 0x5000_c500_0000_0001 + index;
                vec![format!("scsi-hd,bus={id}.0,wwn={name:#x},{disk}")]
            }
            Self::VirtioScsi | Self::Lsi | Self::MegaSas | Self::MegaSas2 | Self::PvScsi => {
                vec![format!("scsi-hd,bus={id}.0,{disk}")]
            }
            Self::Usb => vec![format!("usb-storage,bus={id}.0,removable=on,{disk}")],
            Self::Uas => {
                let bridge = format!("uas-{drive}");
                vec![
                    format!("usb-uas,bus={id}.0,id={bridge}"),
                    format!("scsi-hd,bus={bridge}.0,{disk}"),
                ]
            }
            // It has neither blocks of another size nor a place in the firmware's
            // order.
            Self::Sd => vec![format!("sd-card,drive={drive}")],
        }
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The raw image.
    pub path: PathBuf,
    /// How it is attached.
    pub bus: Bus,
    /// Whether the guest sees a write-protected disk.
    pub read_only: bool,
    /// Whether the guest's writes are thrown away at the end.
    pub snapshot: bool,
    /// Logical block size in bytes: 512 or 4096.
    pub block_size: u32,
}

impl Disk {
    /// A writable disk with blocks of 512 bytes whose writes are thrown away.
    #[must_use]
    pub fn scratch(path: impl Into<PathBuf>, bus: Bus) -> Self {
        Self {
            path: path.into(),
            bus,
            read_only: false,
            snapshot: true,
            block_size: 512,
        }
    }

    pub(crate) fn args(&self, index: usize, args: &mut Args) {
        let drive = format!("disk{index}");
        args.option("-drive", &self.drive(&drive), Some(&self.path));
        // The first disk is the firmware's first choice too.
        let rest = format!(",bootindex={},{}", index + 1, self.blocks());
        if self.bus == Bus::Nvme {
            let device = format!("nvme,serial={drive},drive={drive}{rest}");
            args.words(&["-device", &device]);
            return;
        }
        let id = format!("bus{index}");
        if let Some(controller) = self.bus.controller(&id) {
            args.words(&["-device", &controller]);
        }
        for device in self.bus.devices(&id, index, &drive, &rest) {
            args.words(&["-device", &device]);
        }
    }

    /// `-drive`'s value but for the path, which follows it.
    fn drive(&self, id: &str) -> String {
        let on = |flag| if flag { "on" } else { "off" };
        format!(
            "if=none,id={id},format=raw,readonly={},snapshot={},file=",
            on(self.read_only),
            // QEMU refuses a snapshot of what cannot be written anyway.
            on(self.snapshot && !self.read_only),
        )
    }

    fn blocks(&self) -> String {
        format!(
            "logical_block_size={0},physical_block_size={0}",
            self.block_size
        )
    }

    /// What plugs this disk into `socket` of a machine that runs: the drive's
    /// options, and the monitor's commands behind them. `number` tells it from
    /// others that were plugged in.
    pub(crate) fn plug(&self, socket: usize, number: usize) -> (OsString, Vec<String>) {
        let id = format!("plugged{number}");
        let mut drive = OsString::from(self.drive(&id));
        drive.push(escape(self.path.as_os_str()));
        let rest = format!(",{}", self.blocks());
        let devices = self.bus.devices(&socket_id(socket), number, &id, &rest);
        let mut commands: Vec<String> = devices
            .iter()
            .map(|device| format!("device_add {device}"))
            .collect();
        if self.bus == Bus::Uas {
            // Its plug is only pushed in when its disk is there.
            commands.push(format!("qom-set uas-{id} attached true"));
        }
        (drive, commands)
    }
}

/// The controller of [`crate::Machine::sockets`] with this index.
fn socket_id(index: usize) -> String {
    format!("socket{index}")
}

/// A controller without disks, for [`crate::Vm::plug`].
pub(crate) fn socket(index: usize, bus: Bus, args: &mut Args) {
    if let Some(controller) = bus.controller(&socket_id(index)) {
        args.words(&["-device", &controller]);
    }
}

/// Disks that are all the same, behind one controller as far as the bus has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crowd {
    /// [`Bus::VirtioBlk`], [`Bus::VirtioScsi`] or [`Bus::Nvme`], of which one
    /// machine takes as many (virtio-blk: 96).
    pub bus: Bus,
    /// How many.
    pub count: usize,
    /// What is on each, writes thrown away; without it, zeros.
    pub content: Option<PathBuf>,
}

/// Size of a disk of zeros in bytes.
const EMPTY_SIZE: u64 = 64 << 20;

/// The first PCI slot of a crowd: behind those that QEMU gives to what names none.
const CROWD_SLOT: usize = 0x10;

impl Crowd {
    pub(crate) fn args(&self, number: usize, args: &mut Args) {
        let id = format!("crowd{number}");
        if let Some(controller) = self.bus.controller(&id) {
            args.words(&["-device", &controller]);
        }
        for index in 0..self.count {
            let drive = format!("{id}-{index}");
            match &self.content {
                Some(path) => {
                    let drive = Disk::scratch(path, self.bus).drive(&drive);
                    args.option("-drive", &drive, Some(path));
                }
                None => args.words(&[
                    "-blockdev",
                    &format!("null-co,node-name={drive},size={EMPTY_SIZE},read-zeroes=on"),
                ]),
            }
            let place = match self.bus {
                // More than there are slots.
                Bus::VirtioBlk => format!(
                    ",multifunction=on,addr={:x}.{}",
                    CROWD_SLOT + index / 8,
                    index % 8
                ),
                _ => String::new(),
            };
            for device in self.bus.devices(&id, index, &drive, &place) {
                args.words(&["-device", &device]);
            }
        }
    }
}

/// A CD-ROM drive on the machine's own IDE or AHCI controller: `/dev/sr0`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cdrom {
    /// What is in it.
    pub image: Option<PathBuf>,
}

impl Cdrom {
    pub(crate) fn args(&self, index: usize, args: &mut Args) {
        let Some(image) = &self.image else {
            args.words(&["-device", &format!("ide-cd,bus=ide.{index}")]);
            return;
        };
        let drive = format!("if=none,id=cd{index},media=cdrom,format=raw,file=");
        args.option("-drive", &drive, Some(image));
        args.words(&[
            "-device",
            &format!("ide-cd,bus=ide.{index},drive=cd{index}"),
        ]);
    }
}

/// A path in QEMU's option syntax: a comma ends an option, two are one.
pub(crate) fn escape(value: &OsStr) -> OsString {
    let mut out = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        out.push(byte);
        if byte == b',' {
            out.push(byte);
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(write: impl FnOnce(&mut Args)) -> String {
        let mut args = Args::default();
        write(&mut args);
        let words = args.0.into_iter().map(|arg| arg.into_string().unwrap());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_bus_gets_its_controller() {
        let args = strings(|args| {
            for (index, bus) in Bus::ALL.into_iter().enumerate() {
                assert_eq!(Bus::from_name(bus.name()), Some(bus));
                let disk = Disk {
                    read_only: true,
                    block_size: 4096,
                    ..Disk::scratch("/d", bus)
                };
                disk.args(index, args);
            }
        });
        let blocks = "logical_block_size=4096,physical_block_size=4096";
        for part in [
            format!("virtio-blk-pci,drive=disk0,bootindex=1,{blocks}"),
            "virtio-blk-device,drive=disk1".to_owned(),
            "virtio-scsi-pci,id=bus2 -device scsi-hd,bus=bus2.0,drive=disk2".to_owned(),
            format!("nvme,serial=disk3,drive=disk3,bootindex=4,{blocks}"),
            "ahci,id=bus4 -device ide-hd,bus=bus4.0".to_owned(),
            "ide-hd,bus=ide.2,unit=1,drive=disk5".to_owned(),
            "lsi53c895a,id=bus6 -device scsi-hd,bus=bus6.0".to_owned(),
            "mptsas1068,id=bus7 -device scsi-hd,bus=bus7.0,wwn=0x5000c50000000008".to_owned(),
            "megasas,id=bus8 -device scsi-hd,bus=bus8.0".to_owned(),
            "megasas-gen2,id=bus9 -device scsi-hd,bus=bus9.0".to_owned(),
            "pvscsi,id=bus10 -device scsi-hd,bus=bus10.0".to_owned(),
            "qemu-xhci,id=bus11 -device usb-storage,bus=bus11.0".to_owned(),
            "usb-uas,bus=bus12.0,id=uas-disk12 -device scsi-hd,bus=uas-disk12.0".to_owned(),
            "sdhci-pci,id=bus13 -device sd-card,drive=disk13".to_owned(),
            "readonly=on,snapshot=off".to_owned(),
        ] {
            assert!(args.contains(&part), "{part} is not in {args}");
        }
    }

    #[test]
    fn a_crowd_shares_a_controller_or_slots() {
        let crowd = |bus, content| Crowd {
            bus,
            count: 9,
            content,
        };
        let args = strings(|args| crowd(Bus::Nvme, None).args(0, args));
        assert_eq!(args.matches("nvme,id=crowd0").count(), 1);
        assert_eq!(args.matches("nvme-ns,bus=crowd0,drive=crowd0-").count(), 9);
        let args = strings(|args| crowd(Bus::VirtioBlk, Some("/a,b".into())).args(1, args));
        assert!(args.ends_with("drive=crowd1-8,multifunction=on,addr=11.0"));
        assert_eq!(args.matches("file=/a,,b").count(), 9);
    }

    #[test]
    fn a_disk_is_plugged_into_its_socket() {
        let args = strings(|args| socket(3, Bus::Uas, args));
        assert_eq!(args, "-device qemu-xhci,id=socket3");
        let (drive, commands) = Disk::scratch("/a,b", Bus::Uas).plug(3, 1);
        let drive = drive.into_string().unwrap();
        assert!(drive.starts_with("if=none,id=plugged1,"), "{drive}");
        assert!(drive.ends_with(",file=/a,,b"), "{drive}");
        let [bridge, disk, attach] = commands.as_slice() else {
            panic!("{commands:?}");
        };
        assert_eq!(bridge, "device_add usb-uas,bus=socket3.0,id=uas-plugged1");
        assert!(disk.starts_with("device_add scsi-hd,bus=uas-plugged1.0,drive=plugged1,"));
        assert_eq!(attach, "qom-set uas-plugged1 attached true");
    }
}
