use super::*;
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::ToString as _;
use proptest::prelude::*;

const ROOT: &str = "4392712ba01368efdf14b05c76f9e4df0d53664630b5d48632ed17a137f39076";
const PRINT: &str = "ABCDEF2ba01368efdf14b05c76f9e4df0d53664630b5d48632ed17a137f39076";

fn syntax(text: &str) -> (usize, &'static str) {
    match Signature::parse(text.as_bytes()) {
        Err(SignatureError::Json(JsonError::Syntax { offset, expected })) => (offset, expected),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn an_object_as_systemd_repart_writes_it() {
    let text = format!(
        "{{\"rootHash\":\"{ROOT}\",\"certificateFingerprint\":\"{PRINT}\",\"signature\":\"MIIB/w==\"}}"
    );
    let mut bytes = text.clone().into_bytes();
    bytes.resize(16384, 0);
    let signature = Signature::parse(&bytes).unwrap();
    assert_eq!(signature.root.to_string(), ROOT);
    assert_eq!(signature.fingerprint.unwrap()[..3], [0xab, 0xcd, 0xef]);
    assert_eq!(signature.pkcs7, [0x30, 0x82, 0x01, 0xff]);
    assert_eq!(Signature::read(&bytes), Ok(signature.clone()));

    let written = signature.encode();
    assert_eq!(written.len(), 4096);
    let lower = text.replace(PRINT, &PRINT.to_lowercase());
    assert_eq!(&written[..lower.len()], lower.as_bytes());
    assert!(written[lower.len()..].iter().all(|&byte| byte == 0));
}

#[test]
fn other_members_spaces_and_escapes_are_passed_over() {
    let text = format!(
        "\n{{ \"a\" : [ 1, -0.5e+3, true, false, null, {{ }}, [ ] , {{\"b\":\"\\u00e9\\ud83d\\ude00\\n\"}} ],\r\n\
         \t\"root\\u0048ash\": \"{ROOT}\", \"signature\":\"\\/\\/8=\" }} \n"
    );
    let signature = Signature::parse(text.as_bytes()).unwrap();
    assert_eq!(signature.pkcs7, [0xff, 0xff]);
    assert_eq!(signature.fingerprint, None);
}

#[test]
fn what_is_not_there_or_there_twice_is_named() {
    let parse = |text: &str| Signature::parse(text.as_bytes()).unwrap_err();
    let root = format!("\"rootHash\":\"{ROOT}\"");
    assert_eq!(parse(""), SignatureError::Empty);
    assert_eq!(parse("\0\0"), SignatureError::Empty);
    assert_eq!(parse("{}"), SignatureError::Missing { member: "rootHash" });
    assert_eq!(
        parse(&format!("{{{root}}}")),
        SignatureError::Missing {
            member: "signature"
        }
    );
    assert_eq!(
        parse(&format!("{{{root},{root}}}")),
        SignatureError::Twice { member: "rootHash" }
    );
    assert_eq!(
        parse("{\"rootHash\":\"00\",\"signature\":\"AA==\"}"),
        SignatureError::RootHash(RootHashError::Length { len: 1 })
    );
    for print in [
        "",
        "00",
        &ROOT[1..],
        &format!("{ROOT}00"),
        &ROOT.replace('4', "x"),
    ] {
        let text =
            format!("{{{root},\"certificateFingerprint\":\"{print}\",\"signature\":\"AA==\"}}");
        assert_eq!(parse(&text), SignatureError::Fingerprint, "{print}");
    }
    for base64 in ["", "A", "AA", "AA=", "AA==AA==", "A A=", "AB==", "*AAA"] {
        let text = format!("{{{root},\"signature\":\"{base64}\"}}");
        assert_eq!(parse(&text), SignatureError::Base64, "{base64}");
    }
    assert_eq!(parse("{}\0\0x"), SignatureError::Padding { offset: 4 });
    assert_eq!(parse(&" ".repeat(MAX_LEN + 1)), SignatureError::TooLong);
}

#[test]
fn what_is_not_json_is_refused_where_it_goes_wrong() {
    for (text, offset) in [
        ("[]", 0),
        ("{", 1),
        ("{}x", 2),
        ("{\"a\"}", 4),
        ("{\"a\":}", 5),
        ("{\"a\":1,}", 7),
        ("{\"a\":01}", 6),
        ("{\"a\":1.}", 7),
        ("{\"a\":-}", 6),
        ("{\"a\":1e}", 7),
        ("{\"a\":tru}", 5),
        ("{\"a\":[1 2]}", 8),
        ("{\"a\":\"\\x\"}", 7),
        ("{\"a\":\"\\u12g4\"}", 10),
        ("{\"a\":\"\\ud800\"}", 12),
        ("{\"a\":\"\\udc00\"}", 12),
        ("{\"a\":\"\\ud800\\u0041\"}", 18),
        ("{\"a\":\"\n\"}", 6),
        ("{\"a\":\"", 6),
        ("{\"rootHash\":1}", 12),
        ("{a:1}", 1),
    ] {
        assert_eq!(syntax(text).0, offset, "{text}");
    }
    assert_eq!(
        Signature::parse(b"{\"\xff\":1}"),
        Err(SignatureError::Json(JsonError::Utf8 { offset: 2 }))
    );
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        Signature::parse(text.as_bytes()).unwrap_err()
    };
    assert_eq!(nested(16), SignatureError::Missing { member: "rootHash" });
    assert_eq!(
        nested(17),
        SignatureError::Json(JsonError::Depth { offset: 21 })
    );
    assert!(matches!(nested(8000), SignatureError::Json(_)));
}

/// Whether the oracle takes a text as an object.
fn oracle(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(text).is_ok()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        root in prop::collection::vec(any::<u8>(), 32),
        fingerprint in any::<Option<[u8; 32]>>(),
        pkcs7 in prop::collection::vec(any::<u8>(), 1..3000),
    ) {
        let root = RootHash::from_bytes(&root).unwrap();
        let signature = Signature { root, fingerprint, pkcs7 };
        let written = signature.encode();
        prop_assert_eq!(written.len() % ALIGNMENT, 0);
        let text = written.split(|&byte| byte == 0).next().unwrap();
        prop_assert!(oracle(text));
        prop_assert_eq!(Signature::parse(&written), Ok(signature));
    }

    /// Where the grammar is concerned, serde_json and this parser agree.
    #[test]
    fn mutations_are_json_here_as_for_serde_json(
        at in prop::collection::vec((any::<prop::sample::Index>(), "[\\x20-\\x7e\u{e9}]"), 1..4),
    ) {
        let mut text = "{\"a\":[1,-2.5e3,true,null,{\"b\":\"\\n\\u0041\"}],\"c\":{\"d\":\"e\"}}".to_owned();
        for (index, with) in at {
            let at = index.index(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                text.replace_range(at..=at, &with);
            }
        }
        let json = !matches!(
            Signature::parse(text.as_bytes()),
            Err(SignatureError::Json(_))
        );
        // Numbers beyond f64 are JSON all the same.
        let range = serde_json::from_str::<serde_json::Value>(&text)
            .is_err_and(|error| error.to_string().contains("out of range"));
        prop_assert_eq!(json, oracle(text.as_bytes()) || range, "{}", text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), start in 0..4usize) {
        let mut text = Vec::from(["", "{", "{\"a\":", "{\"a\":\"\\u"][start].as_bytes());
        text.extend(bytes);
        let _ = Signature::parse(&text);
    }
}
