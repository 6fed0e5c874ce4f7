use alloc::string::{String, ToString};
use alloc::vec;

use proptest::prelude::*;

use super::*;

fn sample() -> BootPlan {
    BootPlan {
        product: "debian-13".into(),
        kernel_release: "6.12.0-1-amd64".into(),
        auth: Auth::Signed(Signed {
            certificates: vec![vec![0x30, 1, 0], vec![0x30, 2, 5, 0]],
            min_version: "6.12".into(),
            measure: Measure {
                pcr: 13,
                required: true,
            },
        }),
        on_corruption: OnCorruption::Restart,
        candidates: vec![
            Candidate {
                name: "esp".into(),
                partition: Selector::TypeGuid(Uuid::from_u128(0xc12a_7328)),
                file: Some("/debian/image.erofs".into()),
                expect: Expect {
                    uuid: Uuid::from_u128(7),
                    size: 4096,
                },
            },
            Candidate {
                name: "label".into(),
                partition: Selector::PartLabel("initimage".into()),
                file: None,
                expect: Expect::default(),
            },
            Candidate {
                name: "pmem".into(),
                partition: Selector::Pmem { dax: true },
                file: None,
                expect: Expect::default(),
            },
            Candidate {
                name: "embedded".into(),
                partition: Selector::Embedded,
                file: None,
                expect: Expect::default(),
            },
        ],
        kernel_mounts: vec!["xfs".into()],
        direct: Some(Direct {
            root: "PARTLABEL=root".into(),
            kinds: vec!["ext4".into(), "xfs".into()],
            flags: "noatime".into(),
        }),
        stage: Stage::System,
        extensions: Some(Extensions {
            certificates: vec![vec![0x30, 3, 0]],
            sealed: vec![RootHash::from_bytes(&[7; 32]).unwrap()],
        }),
        appended: Appended::All,
        packs: vec![
            Pack {
                file: "usb.zst".into(),
                size: 4096,
            },
            Pack {
                file: "virtio.zst".into(),
                size: 1000,
            },
        ],
        modules: vec![
            Module {
                name: "virtio_ring".into(),
                file: "virtio_ring.ko".into(),
                packed: None,
                params: String::new(),
                role: Role::Dependency,
                needs: vec![],
                required: true,
                fallback_for: Vec::new(),
            },
            Module {
                name: "virtio_blk".into(),
                file: "virtio_blk.ko".into(),
                packed: Some(Packed {
                    pack: 1,
                    offset: 100,
                    len: 900,
                }),
                params: "queue_depth=64".into(),
                role: Role::Disk,
                needs: vec![0],
                required: true,
                fallback_for: vec![0],
            },
        ],
        aliases: AliasTable::build(&[
            Alias {
                pattern: "acpi*:PNP0A03:*".into(),
                module: 0,
            },
            Alias {
                pattern: "pci:v00001AF4d00001001sv*".into(),
                module: 1,
            },
            Alias {
                pattern: "virtio:d00000002v*".into(),
                module: 1,
            },
        ])
        .unwrap(),
        inits: vec!["/init".into()],
        device_timeout_ms: 90_000,
        on_failure: OnFailure::PowerOff,
        failure_wait_ms: 10_000,
    }
}

#[test]
fn a_plan_survives_the_round_trip() {
    let plan = sample();
    let bytes = plan.encode().unwrap();
    assert_eq!(BootPlan::decode(&bytes).unwrap(), plan);
    assert_eq!(bytes, plan.encode().unwrap());
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = sample().encode().unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(
                BootPlan::decode(&damaged).is_err(),
                "bit {bit} of byte {at} was flipped and the plan accepted"
            );
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample().encode().unwrap();
    for len in 0..bytes.len() {
        assert!(BootPlan::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
}

/// Decodes `bytes` after giving them the length and checksum that they need to
/// reach the field checks.
fn decode_resealed(mut bytes: Vec<u8>) -> Result<BootPlan, PlanError> {
    let body = bytes.len() - 4;
    let total = u32::try_from(bytes.len()).unwrap();
    bytes[12..16].copy_from_slice(&total.to_le_bytes());
    let checksum = iofs_source::crc32(0, &bytes[..body]);
    bytes[body..].copy_from_slice(&checksum.to_le_bytes());
    BootPlan::decode(&bytes)
}

#[test]
fn a_module_lies_inside_its_pack() {
    let outside = |packed: Packed| {
        let mut plan = sample();
        plan.modules[1].packed = Some(packed);
        plan.encode()
    };
    let good = Packed {
        pack: 1,
        offset: 0,
        len: 1000,
    };
    assert!(outside(good).is_ok());
    for bad in [
        Packed { pack: 2, ..good },
        Packed { offset: 1, ..good },
        Packed { len: 1001, ..good },
        Packed {
            offset: u32::MAX,
            len: 2,
            ..good
        },
    ] {
        assert!(outside(bad).is_err(), "{bad:?}");
        // The reader checks it by itself.
        let mut bytes = sample().encode().unwrap();
        let place = [1u8, 0, 100, 0, 0, 0, 0x84, 3, 0, 0];
        let at = bytes.windows(10).position(|run| run == place).unwrap();
        bytes[at..at + 2].copy_from_slice(&bad.pack.to_le_bytes());
        bytes[at + 2..at + 6].copy_from_slice(&bad.offset.to_le_bytes());
        bytes[at + 6..at + 10].copy_from_slice(&bad.len.to_le_bytes());
        let error = decode_resealed(bytes).unwrap_err();
        assert!(error.to_string().contains("place in a pack"), "{error}");
    }
    let mut plan = sample();
    plan.packs[0].size = MAX_PACK + 1;
    assert!(plan.encode().is_err());
}

#[test]
fn another_version_is_named() {
    let mut bytes = sample().encode().unwrap();
    bytes[8] = 9;
    let error = decode_resealed(bytes).unwrap_err();
    assert_eq!(error, PlanError::Version { found: 9 });
    assert!(error.to_string().contains("version 9"));
}

#[test]
fn a_forward_dependency_is_refused_on_both_sides() {
    let mut plan = sample();
    plan.modules[0].needs = vec![1];
    assert!(plan.encode().is_err());
    plan.modules[0].needs = vec![];
    plan.modules[1].needs = vec![0, 0];
    assert!(plan.encode().is_ok());
}

#[test]
fn every_way_to_authenticate_survives_the_round_trip() {
    for auth in [
        Auth::None,
        Auth::Sealed(RootHash::from_bytes(&[7; 32]).unwrap()),
        Auth::Sealed(RootHash::from_bytes(&[7; 64]).unwrap()),
    ] {
        let plan = BootPlan { auth, ..sample() };
        assert_eq!(BootPlan::decode(&plan.encode().unwrap()).unwrap(), plan);
    }
}

#[test]
fn a_plan_that_trusts_nobody_is_refused() {
    let refused = |auth: Auth, expected: &str| {
        let plan = BootPlan { auth, ..sample() };
        match plan.encode() {
            Err(PlanError::Value { field, .. }) => assert_eq!(field, expected),
            other => panic!("{other:?}"),
        }
    };
    refused(Auth::default(), "number of certificates");
    refused(
        Auth::Signed(Signed {
            certificates: vec![vec![0x30]; MAX_CERTIFICATES + 1],
            ..Signed::default()
        }),
        "number of certificates",
    );
    refused(
        Auth::Signed(Signed {
            certificates: vec![vec![0x30]],
            measure: Measure {
                pcr: 24,
                required: false,
            },
            ..Signed::default()
        }),
        "PCR",
    );
    // What no encoder writes: no certificate, and a root hash of 31 bytes.
    let plan = sample();
    let at = 16 + 2 + plan.product.len() + 2 + plan.kernel_release.len();
    for (kind, len) in [(2, 0), (1, 31)] {
        let mut bytes = sample().encode().unwrap();
        bytes[at] = kind;
        bytes[at + 1] = len;
        assert!(matches!(
            decode_resealed(bytes),
            Err(PlanError::Value {
                field: "number of certificates" | "root hash",
                ..
            })
        ));
    }
}

#[test]
fn a_module_cannot_leave_its_folder() {
    let mut plan = sample();
    plan.modules[0].file = "../init".into();
    let bytes = plan.encode().unwrap();
    assert!(matches!(
        BootPlan::decode(&bytes),
        Err(PlanError::Value {
            field: "module file",
            ..
        })
    ));
}

proptest! {
    #[test]
    fn resealed_garbage_never_panics(at in 16usize..200, byte: u8, cut in 0usize..40) {
        let mut bytes = sample().encode().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut);
        let _ = decode_resealed(bytes);
    }

    #[test]
    fn a_pattern_of_the_text_itself_matches(text in "[a-zA-Z0-9:,.]{0,40}") {
        prop_assert!(glob_match(text.as_bytes(), text.as_bytes()));
        prop_assert!(glob_match(b"*", text.as_bytes()));
    }

    #[test]
    fn globbing_never_panics(pattern in "[\\[\\]*?!^a-c\\\\-]{0,16}", text in "[a-c\\[\\]]{0,16}") {
        let _ = glob_match(pattern.as_bytes(), text.as_bytes());
    }
}

#[test]
fn globs_match_as_fnmatch_does() {
    // Each row was checked against fnmatch(3).
    for (pattern, text, expected) in [
        ("pci:v00001AF4d*sv*", "pci:v00001AF4d00001001sv00sd1", true),
        ("pci:v00001AF4d*sv*", "pci:v00001AF5d00001001sv00sd1", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("[0-9a]x", "5x", true),
        ("[0-9a]x", "ax", true),
        ("[0-9a]x", "bx", false),
        ("[!0-9]x", "5x", false),
        ("[!0-9]x", "bx", true),
        ("[]]", "]", true),
        ("[abc", "[abc", true),
        ("*a*b", "xxaxxb", true),
        ("*a*b", "xxaxxc", false),
        ("", "", true),
        ("", "a", false),
        ("a\\*", "a*", true),
        ("a\\*", "ab", false),
        ("**", "anything", true),
    ] {
        assert_eq!(
            glob_match(pattern.as_bytes(), text.as_bytes()),
            expected,
            "{pattern} against {text}"
        );
    }
}

#[test]
fn a_device_finds_its_modules() {
    let plan = sample();
    let found: Vec<u16> = plan.modules_for("virtio:d00000002v00001AF4").collect();
    assert_eq!(found, [1]);
    assert_eq!(plan.modules_for("virtio:d00000003v00001AF4").count(), 0);
    let found: Vec<u16> = plan.modules_for("acpi:PNP0A03:PNP0A08:").collect();
    assert_eq!(found, [0]);
    assert_eq!(plan.modules_for("nvme:v1").count(), 0);
    assert_eq!(plan.modules_for("").count(), 0);
}
