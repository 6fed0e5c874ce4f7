use super::*;
use alloc::string::{String, ToString};
use alloc::vec;
use iofs_plan::OnFailure;
use proptest::prelude::*;

/// `(line, parameters, words for init)`, worked out from `next_arg`.
type Case = (
    &'static str,
    &'static [(&'static str, Option<&'static str>)],
    &'static [&'static str],
);

const CASES: &[Case] = &[
    ("", &[], &[]),
    ("  \t\n", &[], &[]),
    ("quiet", &[("quiet", None)], &[]),
    (
        " root=/dev/vda1  ro\n",
        &[("root", Some("/dev/vda1")), ("ro", None)],
        &[],
    ),
    ("a=", &[("a", Some(""))], &[]),
    ("a=b=c", &[("a", Some("b=c"))], &[]),
    // An `=` in first place does not count: its offset 0 means "none yet".
    ("=a", &[("=a", None)], &[]),
    ("=a=b", &[("=a", Some("b"))], &[]),
    ("a=\"b c\"", &[("a", Some("b c"))], &[]),
    ("a=\"b\" c", &[("a", Some("b")), ("c", None)], &[]),
    // The opening quote goes; the inner one is not the last byte, and stays.
    ("a=\"b c\"d e", &[("a", Some("b c\"d")), ("e", None)], &[]),
    // A quote that opens neither parameter nor value quotes, and stays.
    ("a=b\"c d\"", &[("a", Some("b\"c d\""))], &[]),
    ("a\"b c\"=d", &[("a\"b c\"", Some("d"))], &[]),
    ("a\"=\"b", &[("a\"", Some("b"))], &[]),
    ("\"a=b c\"", &[("a", Some("b c"))], &[]),
    ("\"a b\" c", &[("a b", None), ("c", None)], &[]),
    ("\"a b=c\" d", &[("a b", Some("c")), ("d", None)], &[]),
    // The value's quote closes the parameter's, so the space separates.
    ("\"a=\"b c\" d", &[("a", Some("b")), ("c\" d", None)], &[]),
    ("\"a=\"b\"", &[("a", Some("b"))], &[]),
    ("\"a\"=b", &[("a\"", Some("b"))], &[]),
    // Unbalanced: the rest of the line is one parameter.
    ("a=\"b c", &[("a", Some("b c"))], &[]),
    ("\"a b", &[("a b", None)], &[]),
    ("a b\" c d", &[("a", None), ("b\" c d", None)], &[]),
    ("a=\"", &[("a", Some(""))], &[]),
    ("a=\"\"", &[("a", Some(""))], &[]),
    ("a=\"\"\"", &[("a", Some("\""))], &[]),
    ("\"", &[("", None)], &[]),
    ("\"\"", &[("", None)], &[]),
    ("\"\" a", &[("", None), ("a", None)], &[]),
    ("\"a=\"", &[("a", Some(""))], &[]),
    (
        "a\tb\nc\x0bd",
        &[("a", None), ("b", None), ("c", None), ("d", None)],
        &[],
    ),
    ("a\0b", &[("a", None)], &[]),
    // A module parameter of init and everything else after `--` is init's.
    ("a -- b c=d", &[("a", None)], &["b", "c=d"]),
    ("a -- b=\"c d\" \"e f\"", &[("a", None)], &["b=c d", "e f"]),
    ("a \"--\" b", &[("a", None)], &["b"]),
    ("a --", &[("a", None)], &[]),
    ("--=x b", &[("--", Some("x")), ("b", None)], &[]),
    ("--a b", &[("--a", None), ("b", None)], &[]),
    ("__ b", &[("__", None), ("b", None)], &[]),
    ("-- a -- b", &[], &["a"]),
];

#[test]
fn lines_are_split_as_the_kernel_splits_them() {
    for &(line, params, init) in CASES {
        let parsed = Cmdline::parse(line);
        let expected: Vec<_> = params
            .iter()
            .map(|&(name, value)| Param {
                name: name.as_bytes(),
                value: value.map(str::as_bytes),
            })
            .collect();
        assert_eq!(parsed.iter().collect::<Vec<_>>(), expected, "{line:?}");
        let words: Vec<_> = init.iter().map(|word| word.as_bytes()).collect();
        assert_eq!(parsed.init_args(), words, "{line:?}");
    }
}

#[test]
fn a_latin_1_space_separates_even_inside_utf_8() {
    let parsed = Cmdline::parse("a=\u{e0}b");
    let params: Vec<_> = parsed.iter().collect();
    assert_eq!(params.len(), 2);
    assert_eq!(params[0].value, Some(&[0xc3][..]));
    assert_eq!(params[0].value_str(), None);
    assert_eq!(params[1].name, b"b");
}

#[test]
fn names_are_compared_with_dashes_as_underscores() {
    let parsed = Cmdline::parse("dm-mod.create=1 dm_mod.create=2 dm_mod.createx=3 DM_mod.create=4");
    assert_eq!(parsed.get("dm-mod.create").unwrap().value_str(), Some("2"));
    assert_eq!(parsed.all("dm_mod.create").count(), 2);
    assert_eq!(parsed.get("dm_mod"), None);
}

fn overrides(line: &str) -> (Overrides, Vec<String>) {
    let (overrides, warnings) = Overrides::from_cmdline(&Cmdline::parse(line));
    (overrides, warnings.iter().map(Warning::to_string).collect())
}

#[test]
fn every_key_is_obeyed() {
    let (got, warnings) = overrides(
        "quiet initoverlayfs.image=esp initoverlayfs.timeout=30 initoverlayfs.on-failure=halt \
         initoverlayfs.failure_wait=0 initoverlayfs.hint=sd-mod,ahci initoverlayfs.prefetch=off \
         initoverlayfs.workers=1 \
         initoverlayfs.profile=record initoverlayfs.mode=direct initoverlayfs.debug",
    );
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        got,
        Overrides {
            image: Some("esp".into()),
            device_timeout_ms: Some(30_000),
            on_failure: Some(OnFailure::Halt),
            failure_wait_ms: Some(0),
            hint: vec!["sd_mod".into(), "ahci".into()],
            workers: Some(1),
            prefetch: Some(false),
            record: Some(Record::Best),
            mode: Some(Mode::Direct),
            debug: true,
        }
    );
}

#[test]
fn the_last_good_value_holds() {
    let (got, warnings) = overrides(
        "initoverlayfs.timeout=5 initoverlayfs.timeout=600 initoverlayfs.timeout=601 \
         initoverlayfs.debug initoverlayfs.debug=no",
    );
    assert_eq!(got.device_timeout_ms, Some(600_000));
    assert!(!got.debug);
    assert_eq!(
        warnings,
        [
            "initoverlayfs.timeout=\"601\" on the kernel command line is ignored: the value must \
          be 1 to 600 seconds"
        ]
    );
}

#[test]
fn what_is_not_allowed_is_named_and_changes_nothing() {
    let cases = [
        ("timeout=0", "\"0\"", "1 to 600 seconds"),
        ("timeout=+5", "\"+5\"", "1 to 600 seconds"),
        ("timeout=99999999999", "\"99999999999\"", "1 to 600 seconds"),
        ("timeout", "needs a value", "1 to 600 seconds"),
        ("timeout=", "\"\"", "1 to 600 seconds"),
        ("failure_wait=601", "\"601\"", "0 to 600 seconds"),
        (
            "on_failure=explode",
            "\"explode\"",
            "reboot, poweroff or halt",
        ),
        ("on_failure", "needs a value", "reboot, poweroff or halt"),
        ("image=", "\"\"", "candidates"),
        ("hint", "needs a value", "names of kernel modules"),
        ("hint=a/b", "a/b", "names of kernel modules"),
        (
            "hint=a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q",
            "a,b",
            "16 at most",
        ),
        ("mode=stay", "\"stay\"", "initrd or direct"),
        ("debug=maybe", "\"maybe\"", "yes or no"),
        ("tiemout=5", "initoverlayfs.tiemout", "not known"),
        ("=5", "initoverlayfs.", "not known"),
        (
            "auth=none",
            "initoverlayfs.auth=none",
            "never on the command line",
        ),
        ("auth", "initoverlayfs.auth=", "never on the command line"),
    ];
    for (key, seen, allowed) in cases {
        let (got, warnings) = overrides(&alloc::format!("initoverlayfs.{key}"));
        assert_eq!(got, Overrides::default(), "{key}");
        assert_eq!(warnings.len(), 1, "{key}");
        assert!(warnings[0].contains(seen), "{key}: {}", warnings[0]);
        assert!(warnings[0].contains(allowed), "{key}: {}", warnings[0]);
    }
}

#[test]
fn only_kernel_parameters_count() {
    let (got, warnings) = overrides("initoverlayfsx.debug -- initoverlayfs.debug initoverlayfs.x");
    assert_eq!(got, Overrides::default());
    assert!(warnings.is_empty());
}

#[test]
fn control_characters_do_not_reach_the_console() {
    let line = b"initoverlayfs.image=\"\" initoverlayfs.\x1b[2J=\xff";
    let (_, warnings) = Overrides::from_cmdline(&Cmdline::parse(&line[..]));
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|w| !w.to_string().contains('\x1b')));
}

proptest! {
    /// What is neither quote, space nor NUL comes back as it was.
    #[test]
    fn plain_parameters_round_trip(
        params in prop::collection::vec(
            ("[a-z_.]{1,8}", prop::option::of("[a-z0-9=/.,:]{0,12}")), 0..12)
    ) {
        let line = params.iter().map(|(name, value)| match value {
            Some(value) => alloc::format!("{name}=\"{value}\" "),
            None => alloc::format!("\"{name}\" "),
        }).collect::<String>();
        let parsed = Cmdline::parse(&line);
        let got: Vec<_> = parsed.iter()
            .map(|p| (String::from_utf8(p.name.to_vec()).unwrap(),
                      p.value_str().map(String::from)))
            .collect();
        prop_assert_eq!(got, params);
    }

    /// Any bytes are a command line, and no parameter holds a byte that the
    /// line does not.
    #[test]
    fn any_bytes_parse(line in prop::collection::vec(
        prop::sample::select(b"ab=\" -_.\0\n\xa0\xff".to_vec()), 0..64))
    {
        let parsed = Cmdline::parse(&line);
        let total: usize = parsed.iter()
            .map(|p| p.name.len() + p.value.map_or(0, <[u8]>::len))
            .chain(parsed.init_args().iter().map(|word| word.len()))
            .sum();
        prop_assert!(total <= line.len());
        let _ = Overrides::from_cmdline(&parsed);
    }

    /// The kernel's C, followed byte by byte with its in-place edits, agrees.
    #[test]
    fn the_kernel_algorithm_agrees(line in prop::collection::vec(
        prop::sample::select(b"ab=\" -".to_vec()), 0..24))
    {
        let mut words = vec![];
        let mut rest = skip_spaces(&line).to_vec();
        while !rest.is_empty() {
            let (name, value, after) = model(rest);
            words.push((name, value));
            rest = after;
        }
        let mut ours = vec![];
        let mut rest = skip_spaces(&line);
        while !rest.is_empty() {
            let (param, after) = next_arg(rest);
            ours.push((param.name.to_vec(), param.value.map(<[u8]>::to_vec)));
            rest = after;
        }
        prop_assert_eq!(ours, words);
    }
}

type Words = (Vec<u8>, Option<Vec<u8>>, Vec<u8>);

/// A model of `next_arg` that cuts strings by writing NULs into a buffer, as
/// the kernel does, so that it shares nothing with the slices above.
fn model(mut buffer: Vec<u8>) -> Words {
    buffer.push(0);
    let start = usize::from(buffer[0] == b'"');
    let args = &mut buffer[start..];
    let (mut in_quote, mut equals, mut i) = (start == 1, 0, 0);
    while args[i] != 0 && (in_quote || !is_space(args[i])) {
        if equals == 0 && args[i] == b'=' {
            equals = i;
        }
        in_quote ^= args[i] == b'"';
        i += 1;
    }
    let mut value = None;
    if equals != 0 {
        args[equals] = 0;
        value = Some(equals + 1);
        if args[equals + 1] == b'"' {
            value = Some(equals + 2);
            if args[i - 1] == b'"' {
                args[i - 1] = 0;
            }
        }
    }
    if start == 1 && i > 0 && args[i - 1] == b'"' {
        args[i - 1] = 0;
    }
    let after = if args[i] == 0 {
        vec![]
    } else {
        args[i] = 0;
        let rest = &args[i + 1..args.len() - 1];
        skip_spaces(rest).to_vec()
    };
    let string = |from: usize| -> Vec<u8> {
        args[from..]
            .iter()
            .copied()
            .take_while(|&b| b != 0)
            .collect()
    };
    (string(0), value.map(string), after)
}
