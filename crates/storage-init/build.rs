//! Links the binaries without libc and its start files, as static programs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=discard.ld");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/discard.ld");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{script}");
    // --build-id is left out by the linker flag: the same source gives the same
    // bytes. -z noseparate-code saves two pages of padding between segments.
    for argument in [
        "-nostartfiles",
        "-nodefaultlibs",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--gc-sections",
        "-Wl,-z,noseparate-code",
        "-Wl,--no-eh-frame-hdr",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
