//! `run-init` and `switch_root` for an init image: leave an overlay.
//!
//! initramfs-tools ends in klibc's or busybox's `run-init`, which empties the
//! root that it leaves, and so refuses one that is neither ramfs nor tmpfs. In
//! an init image the root is an overlay, and there is nothing to empty: pivoting
//! it away frees it, its image and its devices. Both programs' calls are
//! understood:
//!
//! ```text
//! run-init [-n] [-c CONSOLE] [-d CAPS] ROOT INIT [ARGS...]
//! switch_root [-c CONSOLE] ROOT INIT [ARGS...]
//! ```
//!
//! `-n` only checks. Dropping capabilities (`-d`) is refused: the next init
//! would run with more than was asked for.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use freestanding::Start;
use kernel_abi::kmsg::{self, Level};
use kernel_abi::{file, mount, process};

use crate::{boot_json, record};

/// The greatest record that is carried on, in bytes.
const MAX_RECORD: usize = 1 << 20;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Check only.
    pub dry_run: bool,
    /// The device that becomes the standard streams, seen from the new root.
    pub console: Option<String>,
    /// The new root.
    pub root: String,
    /// The init in it, and its arguments, the init's name first.
    pub init: Vec<CString>,
}

impl Request {
    /// Understands the arguments behind the program's own name.
    ///
    /// # Errors
    /// A sentence that says what is wrong with them.
    pub fn parse(args: &[CString]) -> Result<Self, String> {
        let mut request = Self::default();
        let mut rest = args.iter();
        let text = |arg: &CString| String::from(arg.to_string_lossy());
        loop {
            let arg = rest
                .next()
                .ok_or("usage: run-init [-n] [-c CONSOLE] ROOT INIT [ARGS...]")?;
            match arg.to_bytes() {
                b"-n" => request.dry_run = true,
                b"-c" => {
                    let console = rest.next().ok_or("-c needs a console")?;
                    request.console = Some(text(console));
                }
                b"-d" => {
                    let caps = rest.next().map(text).unwrap_or_default();
                    if !caps.is_empty() {
                        return Err(format!("dropping capabilities ({caps}) is not supported"));
                    }
                }
                option if option.first() == Some(&b'-') => {
                    return Err(format!("unknown option {}", text(arg)));
                }
                _ => {
                    request.root = text(arg);
                    break;
                }
            }
        }
        request.init = rest.cloned().collect();
        if request.init.is_empty() {
            return Err("no init is named".into());
        }
        Ok(request)
    }
}

/// The whole program.
pub fn main(start: &Start) -> ! {
    let request = match Request::parse(start.args.get(1..).unwrap_or(&[])) {
        Ok(request) => request,
        Err(why) => fail(&why),
    };
    if request.dry_run {
        let init = request.init.first().map(|init| init.to_string_lossy());
        let path = format!("{}{}", request.root, init.unwrap_or_default());
        match process::check_executable(&path) {
            Ok(()) => process::exit(0),
            Err(error) => fail(&format!("{error}")),
        }
    }
    fail(&switch(&request, start))
}

/// Switches and executes; returns why that failed.
fn switch(request: &Request, start: &Start) -> String {
    keep_records(&request.root);
    if let Err(error) = mount::chdir(&request.root) {
        return format!("{error}");
    }
    // A root that is the rootfs itself cannot be pivoted; then this is no init
    // image, but it still works as switch_root does.
    if let Err(error) = mount::pivot_to_root().or_else(|_| mount::move_to_root()) {
        return format!("{error}");
    }
    if let Some(console) = &request.console {
        let path = match console.starts_with('/') {
            true => console.clone(),
            false => file::join("/dev", console),
        };
        if let Err(error) = process::use_console(&path) {
            kmsg::write_line(Level::Warning, "run-init: ", &format!("{error}"));
        }
    }
    match request.init.first() {
        Some(init) => format!("{}", process::exec(init, &request.init, &start.env)),
        None => "no init is named".into(),
    }
}

/// Puts storage-init's records of the boot where the next system looks for them, if
/// the initramfs has hidden them behind a `/run` of its own. Nothing depends on it.
fn keep_records(root: &str) {
    let records = [
        (boot_json::PATH, boot_json::COPY),
        (record::RECORD, record::COPY),
    ];
    for (path, copy) in records {
        let path = format!("{root}{path}");
        if !file::exists(&path) {
            let _ = file::read(copy, MAX_RECORD).and_then(|text| boot_json::put(&path, &text));
        }
    }
}

fn fail(why: &str) -> ! {
    kmsg::write_line(Level::Error, "run-init: ", why);
    process::write_error(&format!("run-init: {why}\n"));
    process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, String> {
        let args: Vec<CString> = line.split(' ').map(|a| CString::new(a).unwrap()).collect();
        Request::parse(&args)
    }

    #[test]
    fn both_programs_calls_are_understood() {
        let request = parse("-c /dev/console /root /sbin/init single -x").unwrap();
        assert_eq!(request.console.as_deref(), Some("/dev/console"));
        assert_eq!(request.root, "/root");
        assert_eq!(
            request.init,
            [c"/sbin/init".into(), c"single".into(), CString::from(c"-x")]
        );
        assert!(!request.dry_run);
        assert!(parse("-n /root /sbin/init").unwrap().dry_run);
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        assert!(parse("-d cap_sys_admin /root /sbin/init").is_err());
        assert!(parse("-z /root /sbin/init").is_err());
        assert!(parse("/root").is_err());
        assert!(parse("-c").is_err());
        assert!(Request::parse(&[]).is_err());
    }
}
