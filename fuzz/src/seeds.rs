//! Small valid inputs to start from, made without tools.

use iofs_cpio::{Format, NewEntry, Writer};
use iofs_gpt::{Layout, NewPartition, Uuid, types};
use iofs_plan::{
    Absent, Alias, AliasTable, Auth, BootPlan, Candidate, Expect, Module, Pack, Packed, Role,
    RootHash, Selector, Signed,
};
use iofs_prefetch::{FileRanges, PrefetchList, Range};

use crate::disks::{DISK, NEAR, RESEAL};
use crate::{images, trust, verity};

mod fat;

pub use fat::{FILE as FAT_FILE, FatSize, volume as fat_volume};

/// The seeds of a target. Those of ext4 and EROFS take mkfs and are made by
/// the tests.
#[must_use]
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "gpt" => [512, 4096]
            .into_iter()
            .flat_map(|block_size| [gpt(block_size, 0), gpt(block_size, RESEAL)])
            .collect(),
        "superblock" => superblocks(),
        "fat" => FatSize::ALL.into_iter().map(fat_volume).collect(),
        "plan" => {
            let bare = BootPlan {
                auth: Auth::None,
                ..BootPlan::default()
            };
            let signed = BootPlan {
                auth: Auth::Signed(Signed {
                    certificates: vec![vec![0x30, 0], vec![0x30, 1, 0]],
                    min_version: "12.3~rc1".into(),
                    ..Signed::default()
                }),
                ..BootPlan::default()
            };
            let plans = [plan(), signed, bare].into_iter();
            plans.filter_map(|plan| plan.encode().ok()).collect()
        }
        "cmdline" => vec![
            b"root=LABEL=\"a b\" quiet initoverlayfs.image=esp -- x=\"y z\"".to_vec(),
            b"initoverlayfs.timeout=5 initoverlayfs.on_failure=halt initoverlayfs.debug".to_vec(),
            b"root=PARTUUID=0f8e9f3c-7b1d-4c5a-9e2f-1a2b3c4d5e6f ro rootwait rootdelay=5 \
              rootfstype=ext4,xfs rootflags=subvol=@ init=/sbin/init resume=UUID=1"
                .to_vec(),
        ],
        "cpio" => vec![cpio(Format::Newc), cpio(Format::Crc)],
        "bls" => vec![
            b"debian-6.12+3-1.conf\x01title Debian\nsort-key debian\nversion 6.12~rc1\n\
              linux /debian/linux\ninitrd /a\ninitrd /b\noptions quiet\noptions x=y\n\
              \x01version 6.12-1\nefi /EFI/a.efi\narchitecture x64\n"
                .to_vec(),
        ],
        "extension" => vec![
            b"tools-1.2.sysext.raw\x01ID=debian\nVERSION_ID=13\nSYSEXT_SCOPE=\"initrd system\"\n\
              ARCHITECTURE=x86-64\n\x01ID=debian\nVERSION_ID=\"13\"\n"
                .to_vec(),
            b"site.confext.raw\x01ID=_any\nCONFEXT_LEVEL=1\n\x01ID=x\nCONFEXT_LEVEL=1\n".to_vec(),
        ],
        "absent" => absent().encode().into_iter().collect(),
        "kmod" => vec![kmod(""), kmod("!")],
        "modinfo" => vec![module()],
        "verity" => {
            let devices = verity::sealed().iter();
            devices.map(|device| device.superblock().to_vec()).collect()
        }
        "verifier" => {
            let devices = verity::sealed().iter();
            devices
                .flat_map(|device| [device.input(), device.shortened()])
                .collect()
        }
        "signature" => verity::signatures(),
        "certificate" => trust::certificates(),
        "trust" => trust::signatures(),
        "ddi" => {
            let image = images::sealed().into_iter();
            image
                .flat_map(|image| {
                    let whole = [image.input(0), image.input(RESEAL)];
                    whole.into_iter().chain(image.near_misses())
                })
                .collect()
        }
        "pe" => vec![pe()],
        "tpm" => vec![tpm()],
        "prefetch" => prefetch().encode().into_iter().collect(),
        "trace" => vec![
            b"# entries-in-buffer/entries-written: 2/2   #P:1\nCPU:0 [LOST 3 EVENTS]\n\
               init-1 [000] ..... 3.141: mm_filemap_add_to_page_cache: dev 254:0 ino 1a2b pfn=0x1 ofs=4096 order=0\n\
               init-1 [000] .... 3.2: mm_filemap_add_to_page_cache: dev 8:1 ino 0x2 page=0 pfn=1 ofs=65536\n"
                .to_vec(),
            b"0+12,40+3 usr/bin/udevadm\n7+1 etc/fstab\nlost 4\nend\n".to_vec(),
        ],
        _ => Vec::new(),
    }
}

/// Devices with nothing but a magic, and names where the file systems have them.
fn superblocks() -> Vec<Vec<u8>> {
    let magics: [(usize, &[u8]); 7] = [
        (0, b"LUKS\xba\xbe"),
        (536, b"LVM2 001"),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
        (0, b"XFSB"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
        (1080, &[0x53, 0xef]),
        (NEAR + 64, b"_BHRfS_M"),
    ];
    magics
        .into_iter()
        .map(|(at, magic)| {
            let mut device = vec![b'x'; if at < NEAR { 4100 } else { NEAR + 600 }];
            for (room, byte) in device.iter_mut().skip(at).zip(magic) {
                *room = *byte;
            }
            device
        })
        .collect()
}

/// Both ends of a disk with two partitions.
fn gpt(block_size: u32, options: u8) -> Vec<u8> {
    let guid = |number: u128| Uuid::from_u128(0x5eed_0000_0000_4000_8000_0000_0000_0000 | number);
    let mut front = Vec::new();
    let mut back = Vec::new();
    if let Ok(mut layout) = Layout::new(DISK, block_size, guid(0)) {
        for (number, type_guid) in [(1, types::ESP), (2, types::ROOT_X86_64)] {
            let _ = layout.add(&NewPartition {
                type_guid,
                part_guid: guid(number),
                name: "seed",
                size: 1 << 20,
                attributes: 0,
            });
        }
        let mut runs = layout.runs().into_iter().map(|(_, bytes)| bytes);
        front = runs.next().unwrap_or_default();
        back = runs.next().unwrap_or_default();
    }
    // The input is halved: the front has the MBR more.
    let missing = front.len().saturating_sub(back.len());
    let code = (block_size / 512).trailing_zeros().to_le_bytes()[0];
    let mut seed = vec![options | code];
    seed.extend(front);
    seed.resize(seed.len() + missing, 0);
    seed.extend(back);
    seed
}

fn plan() -> BootPlan {
    let module = |name: &str, role, needs: &[u16]| Module {
        name: name.into(),
        file: format!("{name}.ko"),
        packed: (role == Role::Bus).then_some(Packed {
            pack: 0,
            offset: 16,
            len: 48,
        }),
        params: "a=1".into(),
        role,
        needs: needs.to_vec(),
        required: true,
        fallback_for: Vec::new(),
    };
    BootPlan {
        product: "debian-13".into(),
        kernel_release: "6.12.0".into(),
        auth: RootHash::from_bytes(&[0x5e; 32]).map_or(Auth::None, Auth::Sealed),
        candidates: vec![
            Candidate {
                name: "esp".into(),
                partition: Selector::TypeGuid(types::ESP),
                file: Some("/image.erofs".into()),
                expect: Expect::default(),
            },
            Candidate {
                name: "label".into(),
                partition: Selector::PartLabel("image".into()),
                file: None,
                expect: Expect::default(),
            },
        ],
        kernel_mounts: vec!["btrfs".into()],
        packs: vec![Pack {
            file: "ata.zst".into(),
            size: 64,
        }],
        modules: vec![
            module("virtio_ring", Role::Dependency, &[]),
            module("virtio_blk", Role::Disk, &[0]),
            module("erofs", Role::Image, &[]),
            module("loop", Role::Mapping, &[]),
            module("ahci", Role::Bus, &[0, 1]),
        ],
        aliases: aliases(),
        inits: vec!["/init".into()],
        ..BootPlan::default()
    }
}

fn aliases() -> AliasTable {
    let patterns = [
        "pci:v00001AF4d*sv[0-9]*",
        "pci:v*d*sv*sd*bc01sc06i01*",
        "virtio:d00000002v*",
        "platform:sdhci",
    ];
    let aliases = patterns.map(|pattern| Alias {
        pattern: pattern.into(),
        module: 1,
    });
    // They are few and short.
    AliasTable::build(&aliases).unwrap_or_default()
}

fn prefetch() -> PrefetchList {
    let range = |start, len| Range { start, len };
    let file = |path: &str, ranges: &[Range]| FileRanges {
        path: path.into(),
        ranges: ranges.to_vec(),
    };
    PrefetchList {
        uuid: Uuid::from_u128(5),
        size: 1 << 20,
        metadata: vec![range(0, 1), range(200, 56)],
        files: vec![
            file("usr/lib/systemd/systemd", &[range(0, 3), range(128, 1)]),
            file("usr/lib/systemd/libsystemd-shared.so", &[range(7, 300)]),
        ],
    }
}

fn absent() -> Absent {
    Absent {
        modules: vec!["ahci".into(), "virtio_blk".into()],
        aliases: aliases(),
    }
}

fn cpio(format: Format) -> Vec<u8> {
    let mut writer = Writer::new(format);
    // The names are short and right: nothing here can fail.
    let _ = writer.append(&NewEntry::directory("dir", 0o755));
    let _ = writer.append(&NewEntry::file("dir/file", 0o644, b"contents"));
    let _ = writer.append(&NewEntry::symlink("link", "dir/file"));
    let names: [&[u8]; 2] = [b"one", b"two"];
    let _ = writer.append_links(&names, &NewEntry::file("", 0o600, b"linked"));
    let first = writer.finish_padded(512);
    let mut second = Writer::after(first, format);
    let _ = second.append(&NewEntry::file("init", 0o755, b"#!"));
    second.finish()
}

fn kmod(first: &str) -> Vec<u8> {
    [
        &format!("{first}kernel/a.ko.xz: kernel/b-c.ko.xz\nkernel/b-c.ko.xz:\nkernel/d.ko:\n"),
        "alias pci:v00001AF4d*sv[0-9]* a\nalias fs-d d\n",
        "softdep a pre: d post: b_c\n",
        "weakdep a d\n",
        "kernel/e.ko\n",
        "e.license=GPL\0e.alias=x:*\0",
        "alias y a\noptions a p=1\nblacklist d\nsoftdep d pre: b_c\ninstall z /bin/true\n",
        "pci:v00001AF4d1sv5",
    ]
    .join("\u{1}")
    .into_bytes()
}

/// An ELF file of 64 bits with three sections: none, names, `.modinfo`.
fn module() -> Vec<u8> {
    let names = b"\0.shstrtab\0.modinfo\0";
    let info = b"license=GPL\0depends=a,b\0name=m\0vermagic=6.12.0 SMP \0";
    let (names_at, info_at) = (64, 64 + names.len());
    let sections_at = (info_at + info.len()).next_multiple_of(8);
    let mut out = vec![0; 64];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[1, 0, 62, 0, 1]);
    put(40, &(sections_at as u64).to_le_bytes());
    put(52, &[64, 0, 0, 0, 0, 0, 64, 0, 3, 0, 1, 0]);
    out.extend_from_slice(names);
    out.extend_from_slice(info);
    out.resize(sections_at, 0);
    for (name, kind, at, len) in [
        (0u8, 0u8, 0, 0),
        (1, 3, names_at, names.len()),
        (11, 1, info_at, info.len()),
    ] {
        let mut section = [0; 64];
        section[0] = name;
        section[4] = kind;
        section[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        section[32..40].copy_from_slice(&(len as u64).to_le_bytes());
        out.extend_from_slice(&section);
    }
    out
}

/// A stub with three sections, 512-byte alignment in the file and pages in
/// memory.
fn pe() -> Vec<u8> {
    const COFF: usize = 0x80;
    const OPTIONAL: usize = COFF + 24;
    const TABLE: usize = OPTIONAL + 240;
    let sections: [(&[u8], u32, &[u8]); 3] = [
        // xor eax, eax; ret
        (b".text", 0x6000_0020, &[0x31, 0xc0, 0xc3]),
        (
            b".sbat",
            0x4000_0040,
            b"sbat,1,SBAT Version,sbat,1,https://a.example\nstub,1,Stub,stub,1,https://a.example\n",
        ),
        (b".reloc", 0x4200_0040, &[0, 0x10, 0, 0, 8, 0, 0, 0]),
    ];
    let mut out = vec![0; 0x400];
    put(&mut out, 0, b"MZ");
    put(&mut out, 0x3c, &[0x80]);
    put(&mut out, COFF, b"PE\0\0\x64\x86\x03");
    put(&mut out, COFF + 20, &[240, 0, 0x2e, 2]);
    // PE32+; alignments, SizeOfImage, SizeOfHeaders; UEFI application; directories.
    put(&mut out, OPTIONAL, &[0x0b, 2]);
    put(&mut out, OPTIONAL + 32, &[0, 0x10, 0, 0, 0, 2, 0, 0]);
    put(&mut out, OPTIONAL + 56, &[0, 0x40, 0, 0, 0, 4, 0, 0]);
    put(&mut out, OPTIONAL + 68, &[10, 0, 0x60, 1]);
    put(&mut out, OPTIONAL + 108, &[16]);
    for (index, (name, flags, data)) in (0u8..).zip(sections) {
        let at = TABLE + 40 * usize::from(index);
        let number = index + 1;
        let size = data.len().to_le_bytes();
        put(&mut out, at, name);
        put(&mut out, at + 8, &size[..4]);
        put(&mut out, at + 12, &[0, 0x10 * number]);
        put(&mut out, at + 16, &[0, 2]);
        put(&mut out, at + 20, &[0, 2 * (number + 1)]);
        put(&mut out, at + 36, &flags.to_le_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out
}

/// Writes a field of a file that is large enough.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The response of a TPM with two banks.
fn tpm() -> Vec<u8> {
    let banks: [(u8, &[u8]); 2] = [(0x04, &[1; 20]), (0x0b, &[2; 32])];
    let digests: Vec<u8> = banks
        .iter()
        .flat_map(|(id, digest)| [&[0, *id], *digest].concat())
        .collect();
    let [size, parameters] = [18 + digests.len() + 5, 4 + digests.len()]
        .map(|len| u32::try_from(len).unwrap_or(0).to_be_bytes());
    [
        &[0x80, 0x02][..],
        &size,
        &[0; 4],
        &parameters,
        &2u32.to_be_bytes(),
        &digests,
        // The session's answer.
        &[0, 0, 1, 0, 0],
    ]
    .concat()
}
