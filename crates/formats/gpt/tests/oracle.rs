//! What this crate writes against sgdisk, sfdisk, blkid and partx; what sgdisk
//! and sfdisk write against this crate.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Disk, guid, image, run, sample};
use iofs_gpt::{Copy, MbrKind, Partition, Table, Uuid, types};
use serde_json::Value;

const SIZE: u64 = 64 << 20;

fn uuid(value: &Value) -> Uuid {
    Uuid::try_parse(value.as_str().unwrap()).unwrap()
}

/// The table as `sfdisk --json` prints it.
fn sfdisk(disk: &Disk) -> (Uuid, Vec<Partition>) {
    let json: Value = serde_json::from_str(&run("sfdisk", &["--json", disk.path()])).unwrap();
    let table = &json["partitiontable"];
    assert_eq!(table["label"], "gpt");
    let block = table["sectorsize"].as_u64().unwrap();
    let partitions = table["partitions"].as_array().unwrap();
    let partition = |value: &Value| Partition {
        number: value["node"]
            .as_str()
            .and_then(|node| node.strip_prefix(disk.path()))
            .and_then(|number| number.parse().ok())
            .unwrap(),
        type_guid: uuid(&value["type"]),
        part_guid: uuid(&value["uuid"]),
        start: value["start"].as_u64().unwrap() * block,
        len: value["size"].as_u64().unwrap() * block,
        attributes: value["attrs"].as_str().map_or(0, attributes),
        name: value["name"].as_str().unwrap_or_default().to_owned(),
    };
    (
        uuid(&table["id"]),
        partitions.iter().map(partition).collect(),
    )
}

/// sfdisk's words for attribute bits.
fn attributes(text: &str) -> u64 {
    text.split([' ', ','])
        .map(|word| match word.trim_start_matches("GUID:") {
            "RequiredPartition" => 1,
            "LegacyBIOSBootable" => 1 << 2,
            number => 1u64 << number.parse::<u32>().unwrap(),
        })
        .fold(0, |all, bit| all | bit)
}

#[test]
fn sgdisk_and_sfdisk_accept_what_is_written() {
    let layout = sample(SIZE, 512);
    let disk = Disk::written(SIZE, &layout);
    let verified = run("sgdisk", &["-v", disk.path()]);
    assert!(verified.contains("No problems found"), "{verified}");
    let verified = run("sfdisk", &["--verify", disk.path()]);
    assert!(verified.contains("No errors detected"), "{verified}");
    assert_eq!(sfdisk(&disk), (guid(0), layout.partitions().to_vec()));

    let blkid = run("blkid", &["-p", "-o", "export", disk.path()]);
    assert!(blkid.contains("PTTYPE=gpt"), "{blkid}");
    assert!(blkid.contains(&format!("PTUUID={}", guid(0))), "{blkid}");

    // Nothing moves when sgdisk writes the table back.
    let before = disk.bytes();
    run("sgdisk", &["-r", "1:2", "-r", "1:2", disk.path()]);
    assert!(before == disk.bytes(), "sgdisk wrote other bytes");
}

/// A name as partx prints it in pairs.
fn escaped(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            0x80.. => format!("\\x{byte:02x}"),
            _ => char::from(byte).to_string(),
        })
        .collect()
}

#[test]
fn partx_reads_blocks_of_512_and_4096_bytes() {
    for block_size in [512, 4096] {
        let layout = sample(SIZE, block_size);
        let disk = Disk::written(SIZE, &layout);
        let block = block_size.to_string();
        let columns = "NR,START,SECTORS,TYPE,UUID,NAME";
        let listed = run(
            "partx",
            &[
                "--pairs",
                "--sector-size",
                &block,
                "-o",
                columns,
                disk.path(),
            ],
        );
        let expected: Vec<String> = layout
            .partitions()
            .iter()
            .map(|partition| {
                format!(
                    "NR=\"{}\" START=\"{}\" SECTORS=\"{}\" TYPE=\"{}\" UUID=\"{}\" NAME=\"{}\"",
                    partition.number,
                    partition.start / 512,
                    partition.len / 512,
                    partition.type_guid,
                    partition.part_guid,
                    escaped(&partition.name),
                )
            })
            .collect();
        assert_eq!(listed.trim_end().lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn what_is_written_is_read() {
    for block_size in [512, 1024, 2048, 4096] {
        let layout = sample(SIZE, block_size);
        let image = image(SIZE, &layout);
        let table = Table::read(&image, block_size).unwrap();
        assert_eq!(table.partitions, layout.partitions());
        assert_eq!(table.disk_guid, guid(0));
        assert_eq!(table.copy, Copy::Primary);
        assert_eq!(table.primary_error, None);
        assert_eq!(table.mbr, MbrKind::Protective);
        assert_eq!(table.usable.end, layout.partitions()[2].end());

        let mut damaged = image;
        damaged[..1 << 20].fill(0);
        let backup = Table::read(&damaged, block_size).unwrap();
        assert_eq!(backup.partitions, table.partitions);
        assert_eq!(backup.usable, table.usable);
        assert_eq!(backup.copy, Copy::Backup);
        assert!(backup.primary_error.is_some());
        assert_eq!(backup.mbr, MbrKind::None);
    }
}

#[test]
fn what_sgdisk_writes_is_read() {
    let disk = Disk::new(SIZE);
    run(
        "sgdisk",
        &[
            "-n",
            "1:0:+10M",
            "-t",
            "1:ef00",
            "-c",
            "1:EFI Größe ☂",
            "-n",
            "7:0:+1M",
            "-t",
            "7:8304",
            "-A",
            "7:set:2",
            "-A",
            "7:set:63",
            "-n",
            "3:0:+1M",
            "-t",
            "3:8309",
            "-n",
            "128:0:0",
            "-t",
            "128:8e00",
            disk.path(),
        ],
    );
    let table = Table::read(&disk.bytes(), 512).unwrap();
    let (id, partitions) = sfdisk(&disk);
    assert_eq!(table.disk_guid, id);
    assert_eq!(table.partitions, partitions);
    let types: Vec<_> = table
        .partitions
        .iter()
        .map(|partition| (partition.number, types::name(partition.type_guid)))
        .collect();
    assert_eq!(
        types,
        [
            (1, Some("esp")),
            (3, Some("luks")),
            (7, Some("root-x86-64")),
            (128, Some("lvm")),
        ]
    );
}

#[test]
fn a_table_of_another_size_is_read() {
    let disk = Disk::new(SIZE);
    // Room for 56 entries, and the most that this crate takes.
    for entries in ["56", "1024"] {
        run("sgdisk", &["-Z", disk.path()]);
        run(
            "sgdisk",
            &["-S", entries, "-n", "2:0:+1M", "-n", "1:0:+1M", disk.path()],
        );
        let table = Table::read(&disk.bytes(), 512).unwrap();
        assert_eq!(table.partitions, sfdisk(&disk).1);
        assert!(table.partitions[0].start > table.partitions[1].start);
    }
}

#[test]
fn a_disk_that_grew_is_read() {
    let layout = sample(SIZE, 512);
    let mut image = image(SIZE, &layout);
    image.resize(2 * image.len(), 0);
    let table = Table::read(&image, 512).unwrap();
    assert_eq!(table.partitions, layout.partitions());
}

#[test]
fn mbr_disks_and_hybrids_are_told_apart() {
    let disk = Disk::new(SIZE);
    run("sgdisk", &["-n", "1:0:+10M", "-h", "1", disk.path()]);
    let table = Table::read(&disk.bytes(), 512).unwrap();
    assert_eq!(table.mbr, MbrKind::Hybrid);
    assert_eq!(table.partitions.len(), 1);

    // The MBR takes the place of the protective one; the GPT stays behind it.
    run("sgdisk", &["-m", "1", disk.path()]);
    let error = Table::read(&disk.bytes(), 512).unwrap_err().to_string();
    assert!(error.starts_with("this is an MBR partition table, not GPT"));
}

#[test]
fn the_types_are_sfdisks_types() {
    let listed = run("sfdisk", &["--label", "gpt", "--list-types"]).to_lowercase();
    for (guid, name) in types::ALL {
        // sfdisk's list does not name LUKS; sgdisk's does, and is asked above.
        let known = listed.contains(&guid.to_string()) || *guid == types::LUKS;
        assert!(known, "{name} is {guid}");
        assert_eq!(types::name(*guid), Some(*name));
        assert_eq!(types::from_name(name), Some(*guid));
    }
    let line = |guid: Uuid| {
        let line = listed
            .lines()
            .find(|line| line.starts_with(&guid.to_string()));
        line.unwrap().split_once("  ").unwrap().1
    };
    for (guid, name) in [
        (types::ROOT_X86_64, "linux root (x86-64)"),
        (types::ROOT_X86_64_VERITY, "linux root verity (x86-64)"),
        (
            types::ROOT_X86_64_VERITY_SIG,
            "linux root verity sign. (x86-64)",
        ),
        (types::USR_X86_64, "linux /usr (x86-64)"),
        (types::USR_X86_64_VERITY, "linux /usr verity (x86-64)"),
        (
            types::USR_X86_64_VERITY_SIG,
            "linux /usr verity sign. (x86-64)",
        ),
        (types::ROOT_ARM64, "linux root (arm-64)"),
        (types::ROOT_ARM64_VERITY, "linux root verity (arm-64)"),
        (
            types::ROOT_ARM64_VERITY_SIG,
            "linux root verity sign. (arm-64)",
        ),
        (types::USR_ARM64, "linux /usr (arm-64)"),
        (types::USR_ARM64_VERITY, "linux /usr verity (arm-64)"),
        (
            types::USR_ARM64_VERITY_SIG,
            "linux /usr verity sign. (arm-64)",
        ),
        (types::ESP, "efi system"),
        (types::XBOOTLDR, "linux extended boot"),
        (types::BIOS_BOOT, "bios boot"),
        (types::SWAP, "linux swap"),
        (types::RAID, "linux raid"),
        (types::LVM, "linux lvm"),
        (types::SRV, "linux server data"),
        (types::VAR, "linux variable data"),
        (types::HOME, "linux home"),
        (types::TMP, "linux temporary data"),
        (types::USER_HOME, "linux user's home"),
        (types::LINUX_GENERIC, "linux filesystem"),
    ] {
        assert_eq!(line(guid), name);
    }
}
