//! Where an image's files come from: initramfs files, root trees, generators.

pub(crate) mod decode;
pub(crate) mod generator;
pub(crate) mod segments;
