//! Images that are the system: what they are told of the boot, and what of that
//! which nobody has proven they get.

use iofs_cpio::NewEntry;
use libtest_mimic::Failed;

use builder::{Auth, Stage};

use crate::Test;
use crate::appended::{append, archive};
use crate::support::{Boot, FILE, Ground, on_esp, partition_at};
use crate::volumes;
use builder::Selector;
use vmtest::disk::Partition;

pub(crate) const TESTS: &[Test] = &[
    Test::new("a_system_knows_its_disk_and_its_file", told),
    Test::new("a_system_gets_only_what_proves_itself", proven_alone),
    Test::new("a_system_gets_nothing_of_an_extra_that_is_a_link", linked),
];

/// Encrypted with host's and TPM's key, and with an empty one, which anybody has:
/// systemd's id of the sort in base64, and what follows does not matter here.
const KEYED: &str = "k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAADAAAABAAAAC1lFmb\n";
const EMPTY_KEY: &str = "BYRp2vb1QySABUnaD46i+yAAAAABAAAADAAAABAAAAC1lFmb\n";

const STORE: &str = "/run/credstore.encrypted";

/// The proven image as the system, in its file on the ESP.
fn system(ground: &Ground) -> Boot<'_> {
    let image = ground.proven();
    let mut boot = Boot::trusting(ground, image, image.sealed(), &[on_esp()]);
    boot.esp_with(&image.path, volumes::fat32);
    boot.mini.stage = Stage::System;
    boot
}

fn told(ground: &Ground) -> Result<(), Failed> {
    let mut boot = system(ground);
    boot.words("testinit.link=/run/systemd/volatile-root");
    boot.words("testinit.cat=/sys/class/block/ubda1/dev");
    boot.words("testinit.cat=/run/initoverlayfs/image.env");
    boot.words("testinit.cat=/run/initoverlayfs/boot.json");
    let seen = boot.succeeds();
    let number = seen.fact("/sys/class/block/ubda1/dev");
    assert_eq!(
        seen.fact("/run/systemd/volatile-root"),
        format!("/dev/block/{number}")
    );
    assert_eq!(
        seen.fact("/run/initoverlayfs/image.env"),
        format!("IMAGE_FILE={FILE}")
    );
    assert!(
        seen.facts("/run/initoverlayfs/boot.json")
            .concat()
            .contains("\"mode\":\"stay\"")
    );

    // A partition is held by being in use; there is no file to name.
    let mut candidate = partition_at("partition", Selector::PartUuid(crate::support::FIRST));
    candidate.expect = ground.image().expect;
    let mut boot = Boot::new(ground, &[candidate]);
    boot.disk(&[Partition::root(crate::support::FIRST, &ground.image().path).unwrap()]);
    boot.mini.auth = Auth::None;
    boot.mini.stage = Stage::System;
    boot.words("testinit.link=/run/systemd/volatile-root testinit.list=/run/initoverlayfs");
    let seen = boot.succeeds();
    assert!(
        seen.fact("/run/systemd/volatile-root")
            .starts_with("/dev/block/98:")
    );
    assert!(
        !seen
            .facts("/run/initoverlayfs")
            .contains(&"image.env".to_owned())
    );
    Ok(())
}

fn proven_alone(ground: &Ground) -> Result<(), Failed> {
    let mut boot = system(ground);
    let files: [(&str, &[u8]); 9] = [
        (".extra/credentials/good.cred", KEYED.as_bytes()),
        (".extra/credentials/plain.cred", b"secret\n"),
        (".extra/credentials/passwd.hashed", KEYED.as_bytes()),
        (".extra/global_credentials/empty.cred", EMPTY_KEY.as_bytes()),
        (".extra/global_credentials/global.cred", KEYED.as_bytes()),
        // The one of the UKI itself goes first.
        (".extra/global_credentials/good.cred", KEYED.as_bytes()),
        (".extra/sysext/evil.raw", b"an extension\n"),
        (".extra/tpm2-pcr-signature.json", b"{}\n"),
        (".extra/tpm2-pcr-public-key.pem", b"somebody's\n"),
    ];
    let mut entries = vec![NewEntry::directory(".extra", 0o555)];
    for folder in ["credentials", "global_credentials", "sysext"] {
        let path = format!(".extra/{folder}");
        entries.push(NewEntry::directory(path.leak() as &str, 0o555));
    }
    for (path, bytes) in files {
        entries.push(NewEntry::file(path, 0o444, bytes));
    }
    entries.push(NewEntry::symlink(
        ".extra/credentials/link.cred",
        "good.cred",
    ));
    append(&mut boot, vec![archive(&entries)]);
    boot.words(&format!("testinit.list={STORE} testinit.list=/"));
    boot.words(&format!(
        "testinit.cat={STORE}/good testinit.list=/run/systemd"
    ));
    boot.words("testinit.cat=/run/initoverlayfs/.extra/sysext/evil.raw");
    let seen = boot.succeeds();
    assert_eq!(seen.facts(STORE), ["global", "good"]);
    assert_eq!(seen.fact(&format!("{STORE}/good")), KEYED.trim());
    assert!(!seen.facts("/").contains(&".extra".to_owned()));
    let mut systemd = seen.facts("/run/systemd");
    systemd.sort();
    assert_eq!(systemd, ["tpm2-pcr-signature.json", "volatile-root"]);
    assert_eq!(
        seen.fact("/run/initoverlayfs/.extra/sysext/evil.raw"),
        "an extension"
    );
    for (path, why) in [
        (
            "credentials/plain.cred",
            "it is not encrypted for this machine",
        ),
        ("credentials/link.cred", "it is no file"),
        ("credentials/passwd.hashed", "this is no name of one"),
        ("global_credentials/empty.cred", "it is not encrypted"),
        ("global_credentials/good.cred", "there is one of that name"),
    ] {
        seen.expects(&format!("left out the credential /.extra/{path}: {why}"));
    }
    Ok(())
}

fn linked(ground: &Ground) -> Result<(), Failed> {
    let mut boot = system(ground);
    let entries = [
        NewEntry::directory(".extra", 0o555),
        NewEntry::symlink(".extra/credentials", "/initoverlayfs"),
    ];
    append(&mut boot, vec![archive(&entries)]);
    let seen = boot.words("testinit.list=/run").succeeds();
    assert!(
        !seen
            .facts("/run")
            .contains(&"credstore.encrypted".to_owned())
    );
    Ok(())
}
