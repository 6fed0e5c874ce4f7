use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::Absent;

fn alias(pattern: &str, module: u16) -> Alias {
    Alias {
        pattern: pattern.into(),
        module,
    }
}

/// What a table answers, by trying every pattern.
fn naive(aliases: &[Alias], modalias: &str) -> Vec<u16> {
    let mut found: Vec<&Alias> = aliases
        .iter()
        .filter(|alias| glob_match(alias.pattern.as_bytes(), modalias.as_bytes()))
        .collect();
    found.sort_by_key(|alias| literal_len(alias.pattern.as_bytes()));
    found.iter().map(|alias| alias.module).collect()
}

fn real() -> Vec<Alias> {
    vec![
        alias("acpi*:PNP0A03:*", 0),
        alias("pci:v*d*sv*sd*bc01sc06i01*", 1),
        alias("pci:v00008086d00002922sv*sd*bc*sc*i*", 1),
        alias("pci:v00008086d0000292[23]sv*sd*bc*sc*i*", 2),
        alias("pci:v00008086*", 3),
        alias("pci:v00008086*", 2),
        alias("of:N*T*Cbrcm,sdhci", 4),
        alias("of:N*T*Cbrcm,sdhciC*", 4),
        alias("platform:dwc3", 5),
        alias("scsi:t-0x00*", 6),
        alias("*", 7),
        alias("", 8),
        alias("odd\\*name", 9),
    ]
}

#[test]
fn a_device_finds_its_drivers_in_order() {
    let table = AliasTable::build(&real()).unwrap();
    let ahci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
    assert_eq!(table.matches(ahci), [7, 1, 3, 2, 2, 1]);
    assert_eq!(table.matches("acpi:PNP0A03:PNP0A08:"), [7, 0]);
    assert_eq!(table.matches("platform:dwc3"), [7, 5]);
    assert_eq!(table.matches("platform:dwc"), [7]);
    assert_eq!(table.matches("platform:dwc33"), [7]);
    assert_eq!(table.matches(""), [7, 8]);
    assert_eq!(table.matches("odd*name"), [7, 9]);
    assert_eq!(table.matches("odd\\*name"), [7]);
    for alias in real() {
        let modalias = alias.pattern.replace('*', "0");
        assert_eq!(table.matches(&modalias), naive(&real(), &modalias));
    }
}

#[test]
fn a_table_gives_back_what_it_was_made_of() {
    let table = AliasTable::build(&real()).unwrap();
    assert_eq!(table.len(), real().len());
    let (mut ours, mut given) = (table.aliases(), real());
    ours.sort();
    given.sort();
    assert_eq!(ours, given);
    assert_eq!(AliasTable::build(&table.aliases()).unwrap(), table);
    assert_eq!(AliasTable::from_bytes(table.to_bytes(), 10), Ok(table));
    let empty = AliasTable::build(&[]).unwrap();
    assert_eq!(empty, AliasTable::default());
    assert!(empty.is_empty() && empty.matches("pci:").is_empty() && empty.aliases().is_empty());
}

#[test]
fn what_no_builder_writes_is_refused() {
    let table = AliasTable::build(&real()).unwrap();
    let bytes = table.to_bytes();
    assert!(AliasTable::from_bytes(bytes, 9).is_err(), "target 9 of 9");
    for len in 1..bytes.len() {
        assert!(AliasTable::from_bytes(&bytes[..len], 10).is_err(), "{len}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(AliasTable::from_bytes(&longer, 10).is_err());
    let long = alias(&"a".repeat(MAX_PATTERN + 1), 0);
    assert_eq!(AliasTable::build(&[long]), Err(AliasError::TooLong));
    let many = vec![alias("a", 0); MAX_PATTERNS + 1];
    assert_eq!(AliasTable::build(&many), Err(AliasError::TooLong));
    // As deep as it can be: each pattern is the beginning of the next.
    let deep: Vec<Alias> = (0..MAX_PATTERN)
        .map(|len| alias(&"a".repeat(len), 0))
        .collect();
    let deep = AliasTable::build(&deep).unwrap();
    assert!(AliasTable::from_bytes(deep.to_bytes(), 1).is_ok());
    assert_eq!(deep.matches(&"a".repeat(4095)), [0]);
}

#[test]
fn absent_drivers_by_name() {
    let absent = Absent {
        modules: ["ahci", "sdhci", "nvme"].map(String::from).into(),
        aliases: AliasTable::build(&[
            alias("pci:v*d*sv*sd*bc01sc08i02*", 2),
            alias("pci:v0000144D*", 2),
            alias("pci:v0000144Dd*bc01*", 0),
        ])
        .unwrap(),
    };
    let bytes = absent.encode().unwrap();
    assert_eq!(Absent::decode(&bytes).as_ref(), Ok(&absent));
    let nvme = "pci:v0000144Dd0000A804sv0sd0bc01sc08i02";
    assert_eq!(absent.modules_for(nvme), ["nvme", "ahci"]);
    assert!(absent.modules_for("pci:v1").is_empty());
    for len in 0..bytes.len() {
        // What ends after the names has no aliases.
        let cut = Absent::decode(&bytes[..len]);
        assert!(cut.is_err() || cut.unwrap().aliases.is_empty(), "{len}");
    }
    let named = |name: &str| Absent {
        modules: vec![name.into()],
        ..Absent::default()
    };
    assert!(Absent::decode(&named("").encode().unwrap()).is_err());
    assert!(named(&"x".repeat(256)).encode().is_err());
    assert!(AbsentErrorText::all().iter().all(|text| !text.is_empty()));
}

/// Every message can be shown.
struct AbsentErrorText;

impl AbsentErrorText {
    fn all() -> Vec<String> {
        use crate::AbsentError::{Aliases, Magic, Name, TooLong};
        let errors = [Magic, Name { at: 3 }, Aliases(AliasError::TooLong), TooLong];
        errors.iter().map(ToString::to_string).collect()
    }
}

fn pattern() -> impl Strategy<Value = String> {
    "[ab:*?\\[\\]!\\\\0-]{0,10}"
}

proptest! {
    #[test]
    fn a_table_answers_as_trying_every_pattern_does(
        patterns in prop::collection::vec(pattern(), 0..40),
        texts in prop::collection::vec("[ab:0*-]{0,12}", 1..20),
    ) {
        let aliases: Vec<Alias> = patterns
            .iter()
            .zip(0..)
            .map(|(pattern, module)| alias(pattern, module))
            .collect();
        let table = AliasTable::build(&aliases).unwrap();
        prop_assert_eq!(
            AliasTable::from_bytes(table.to_bytes(), aliases.len()),
            Ok(table.clone())
        );
        for text in &texts {
            prop_assert_eq!(table.matches(text), naive(&aliases, text));
        }
    }

    #[test]
    fn damaged_tables_are_refused_or_answer(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        second in any::<prop::sample::Index>(),
    ) {
        let mut bytes = AliasTable::build(&real()).unwrap().to_bytes().to_vec();
        let (at, second) = (at.index(bytes.len()), second.index(bytes.len()));
        bytes[at] = byte;
        bytes[second] = bytes[second].wrapping_add(1);
        if let Ok(table) = AliasTable::from_bytes(&bytes, 10) {
            let _ = table.matches("pci:v00008086d00002922sv0sd0bc01sc06i01");
            prop_assert_eq!(table.aliases().len(), table.len());
        }
        Absent::decode(&[b"IOFSABSE\0\0", &bytes[..]].concat()).ok();
    }

    #[test]
    fn any_bytes_are_refused_or_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(table) = AliasTable::from_bytes(&bytes, usize::MAX) {
            let _ = table.matches("pci:v1");
            let _ = table.aliases();
        }
        Absent::decode(&bytes).ok();
    }
}
