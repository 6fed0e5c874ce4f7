//! Links the program without libc and its start files, as a static one.

include!("../../freestanding/link.rs");
