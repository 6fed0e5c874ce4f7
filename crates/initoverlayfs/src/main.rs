//! The `initoverlayfs` program; see the library for all of it.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    initoverlayfs::main()
}
