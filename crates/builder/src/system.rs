//! What a root tree needs to be the image that stays: the operating system itself,
//! below a transient overlay.
//!
//! Only the staged copy is changed, and as little of it as makes a boot right: who
//! mounts the root, who the machine is, where systemd is stricter inside an initrd
//! than outside of it, what keeps the booted image's file.

use crate::error::{Error, ErrorKind, Result};
use crate::osrelease;
use crate::request::{PersistentVar, System};
use crate::stage::Stage;

/// Where systemd's units are.
const UNITS: &str = "usr/lib/systemd/system";

/// The name of our drop-ins.
const DROP_IN: &str = "10-initoverlayfs.conf";

/// What the next init and storage-init need to be there before anything is mounted.
const FOLDERS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Where an ESP or an XBOOTLDR partition is mounted.
const BOOT_MOUNTS: [&str; 3] = ["efi", "boot", "boot-efi"];

/// The greatest fstab or crypttab that is read, in bytes.
const MAX_TABLE: u64 = 1 << 20;

/// What an extension image has to be: systemd's own policy inside an initrd for those
/// of the ESP.
const POLICY: &str = "root=signed+absent:usr=signed+absent";

/// The services that merge extension images.
const MERGERS: [&str; 2] = ["systemd-sysext", "systemd-confext"];

/// The name of the volume of an encrypted /var.
const VAR_VOLUME: &str = "var";

/// The unit that keeps the booted image's file: a bind mount, read-only, of the file
/// over itself. What is a mount point cannot be removed, renamed or replaced. It
/// starts whenever the mount is there, also by hand (`Upholds=`), and is content
/// where the file is not on it. storage-init names the file.
const HOLD: &str = "\
# Keeps the file that this system runs from: a mount point cannot be removed.
[Unit]
Description=Hold the booted image's file below /%I
DefaultDependencies=no
BindsTo=%i.mount
After=%i.mount

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=IMAGE_FILE=/no-image-file
EnvironmentFile=-/run/initoverlayfs/image.env
ExecStart=-mount --bind -o ro \"/%I${IMAGE_FILE}\" \"/%I${IMAGE_FILE}\"
ExecStop=-umount \"/%I${IMAGE_FILE}\"
";

/// Refuses a tree that is no system.
pub(crate) fn check(stage: &Stage, inits: &[&str]) -> Result<()> {
    let refuse = |what: &str, hint: &str| {
        Err(Error::new(ErrorKind::Input, format!("the tree {what}")).hint(hint))
    };
    for path in ["etc/initrd-release", "usr/lib/initrd-release"] {
        if stage.exists(path)? {
            return refuse(
                &format!("has /{path}: it is an initrd, whose init looks for a root"),
                "Build it with --mode initrd, or give the tree of a system.",
            );
        }
    }
    let mut has_init = false;
    for init in inits {
        has_init |= stage.exists(init)?;
    }
    if !has_init {
        return refuse(
            &format!("has no init ({})", inits.join(", ")),
            "Install systemd (Debian: systemd-sysv) or another init into it.",
        );
    }
    for path in osrelease::PLACES {
        if stage.exists(path)? {
            return Ok(());
        }
    }
    refuse(
        "has no os-release: it does not say which system it is",
        "Give the whole tree of a system; Debian's base-files has the file.",
    )
}

/// Prepares the stage; returns what was changed, one sentence each.
pub(crate) fn adjust(stage: &Stage, system: &System) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for folder in FOLDERS {
        if !stage.exists(folder)? {
            stage.make_folder(folder)?;
            done.push(format!("/{folder} is made: it was missing"));
        }
    }
    // Empty, and not missing: that would be a first boot each time.
    if stage.read("etc/machine-id", 64)?.as_deref() != Some(b"") {
        stage.write("etc/machine-id", b"")?;
        done.push(
            "/etc/machine-id is empty, so that each machine gets one of its own at boot (name it \
             with systemd.machine_id= where it has to last)"
                .into(),
        );
    }
    let fstab = fstab(stage, system, &mut done)?;
    if stage.exists("usr/lib/systemd/systemd")? {
        extensions(stage, &mut done)?;
        hold(stage, &mut done)?;
        if !fstab.mounts_boot && !stage.exists("efi")? {
            stage.make_folder("efi")?;
            done.push(
                "/efi is made, where systemd-gpt-auto-generator mounts the ESP if /boot is in use"
                    .into(),
            );
        }
    }
    if let Some(var) = system.var.as_ref().filter(|var| var.encrypted) {
        crypttab(stage, var, &mut done)?;
    }
    Ok(done)
}

/// What is known of an fstab.
struct Fstab {
    /// Whether it mounts something below /boot or /efi.
    mounts_boot: bool,
}

/// The root is there already, and is an overlay: to remount or check the disk that an
/// fstab names for it would fail.
fn fstab(stage: &Stage, system: &System, done: &mut Vec<String>) -> Result<Fstab> {
    let old = stage.read("etc/fstab", MAX_TABLE)?.unwrap_or_default();
    let old = String::from_utf8_lossy(&old);
    let mut text = String::new();
    let mut changed = false;
    let mut mounts_boot = false;
    for line in old.lines() {
        let mut fields = line.split_ascii_whitespace();
        let device = fields.next().filter(|device| !device.starts_with('#'));
        let point = device.and_then(|_| fields.next());
        let why = match point {
            Some("/") => "the root is the image",
            Some("/var") if system.var.is_some() => "another /var was asked for",
            point => {
                mounts_boot |= point
                    .is_some_and(|point| point.starts_with("/boot") || point.starts_with("/efi"));
                text += line;
                text.push('\n');
                continue;
            }
        };
        changed = true;
        text += &format!("# initoverlayfs: {why}\n#{line}\n");
        done.push(format!(
            "/etc/fstab: the line of {} is a comment, since {why}",
            point.unwrap_or_default()
        ));
    }
    if let Some(var) = &system.var {
        check_source(&var.source)?;
        let device = match var.encrypted {
            true => format!("/dev/mapper/{VAR_VOLUME}"),
            false => var.source.clone(),
        };
        text += &format!("{device} /var auto defaults 0 2\n");
        changed = true;
        done.push(format!("/etc/fstab: /var is {device}"));
        if !stage.exists("var")? {
            stage.make_folder("var")?;
        }
    }
    if changed {
        stage.write("etc/fstab", text.as_bytes())?;
    }
    Ok(Fstab { mounts_boot })
}

/// The one systemd opens the volume, with the TPM, or asks for a passphrase as long as
/// none was enrolled.
fn crypttab(stage: &Stage, var: &PersistentVar, done: &mut Vec<String>) -> Result<()> {
    if !stage.exists("usr/lib/systemd/systemd-cryptsetup")? {
        return Err(Error::new(
            ErrorKind::Input,
            "the tree cannot open an encrypted /var: it has no systemd-cryptsetup",
        )
        .hint("Install it (Debian 13: systemd-cryptsetup), with the TPM's libraries (libtss2)."));
    }
    let old = stage.read("etc/crypttab", MAX_TABLE)?.unwrap_or_default();
    let mut text = String::new();
    for line in String::from_utf8_lossy(&old).lines() {
        if line.split_ascii_whitespace().next() == Some(VAR_VOLUME) {
            text += "# initoverlayfs: another /var was asked for\n#";
        }
        text += line;
        text.push('\n');
    }
    text += &format!("{VAR_VOLUME} {} none luks,tpm2-device=auto\n", var.source);
    stage.write("etc/crypttab", text.as_bytes())?;
    done.push(format!(
        "/etc/crypttab: {} is opened by the TPM, or by a passphrase until one is enrolled",
        var.source
    ));
    Ok(())
}

/// A device as fstab(5) names one, without anything that these tables would quote.
fn check_source(source: &str) -> Result<()> {
    let name = ["PARTLABEL=", "PARTUUID=", "LABEL=", "UUID="]
        .iter()
        .find_map(|tag| source.strip_prefix(tag));
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    match name {
        Some(name) if !name.is_empty() && name.bytes().all(good) => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Usage,
            format!("{source:?} names no partition for /var"),
        )
        .hint("Use PARTLABEL=, PARTUUID=, LABEL= or UUID=, with letters, digits and ._+- .")),
    }
}

/// systemd asks for signed extension images inside an initrd only. Where the program
/// knows no policies (before 254), none are merged.
fn extensions(stage: &Stage, done: &mut Vec<String>) -> Result<()> {
    for name in MERGERS {
        let unit = format!("{UNITS}/{name}.service");
        if !stage.exists(&unit)? {
            continue;
        }
        let program = stage.read(&format!("usr/bin/{name}"), 4 << 20)?;
        let program = program.unwrap_or_default();
        let knows = program
            .windows(b"image-policy".len())
            .any(|part| part == b"image-policy");
        let (text, sentence) = match knows {
            true => (
                format!(
                    "[Service]\nExecStart=\nExecStart={name} --image-policy={POLICY} refresh\n\
                     ExecReload=\nExecReload={name} --image-policy={POLICY} refresh\n"
                ),
                format!("{name}.service merges signed images only"),
            ),
            false => (
                "[Unit]\nConditionPathExists=!/\n".to_owned(),
                format!("{name}.service does nothing: its systemd knows no image policy"),
            ),
        };
        stage.write(&format!("{unit}.d/{DROP_IN}"), text.as_bytes())?;
        done.push(sentence);
    }
    Ok(())
}

fn hold(stage: &Stage, done: &mut Vec<String>) -> Result<()> {
    stage.write(
        &format!("{UNITS}/initoverlayfs-hold@.service"),
        HOLD.as_bytes(),
    )?;
    for mount in BOOT_MOUNTS {
        // An automount that expires waits for what is mounted below to go, and who
        // unmounts that waits for the automount.
        stage.write(
            &format!("{UNITS}/{mount}.automount.d/{DROP_IN}"),
            b"[Automount]\nTimeoutIdleSec=0\n",
        )?;
        stage.write(
            &format!("{UNITS}/{mount}.mount.d/{DROP_IN}"),
            format!("[Unit]\nUpholds=initoverlayfs-hold@{mount}.service\n").as_bytes(),
        )?;
    }
    done.push(
        "initoverlayfs-hold@.service keeps the image's file from being removed where its \
         partition is mounted on /efi, /boot or /boot/efi, and automounts there do not expire"
            .into(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_source;

    #[test]
    fn sources_are_tags_without_quoting() {
        for good in ["PARTLABEL=var", "UUID=1f0f5a7e-0d13", "LABEL=a_b.c"] {
            check_source(good).unwrap();
        }
        for bad in [
            "",
            "var",
            "/dev/vda3",
            "LABEL=",
            "LABEL=a b",
            "LABEL=a\nb",
            "ID=x",
        ] {
            assert!(check_source(bad).is_err(), "{bad:?}");
        }
    }
}
