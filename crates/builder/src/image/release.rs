//! What an image says of itself: product and version, in the format of
//! os-release(5), where a boot with a signed image looks first.

use crate::error::{Error, ErrorKind, Result};
use crate::stage::Stage;

/// Where it lies in the image.
pub(crate) const PATH: &str = "usr/lib/initoverlayfs/image-release";

/// Writes the file into the stage.
pub(crate) fn write(stage: &Stage, product: &str, version: &str) -> Result<()> {
    check("product", product)?;
    let mut text = format!("IMAGE_ID={}\n", quoted(product));
    if !version.is_empty() {
        check("version", version)?;
        text += &format!("IMAGE_VERSION={}\n", quoted(version));
    }
    stage.write(PATH, text.as_bytes())
}

/// Letters and digits stand as they are, all else in quotes. There is nothing in
/// it that would have to be escaped inside those.
fn quoted(value: &str) -> String {
    if value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}

fn check(what: &str, value: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~^-".contains(&byte);
    if !value.is_empty() && value.bytes().all(good) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("the image's {what} cannot be {value:?}"),
    )
    .hint("Use letters, digits and ._+~^- for it."))
}

#[cfg(test)]
mod tests {
    use super::{check, quoted};

    #[test]
    fn values_are_quoted_as_os_release_wants() {
        assert_eq!(quoted("debian"), "debian");
        assert_eq!(quoted("debian-13"), "\"debian-13\"");
        for bad in ["", "a b", "a\nID=b", "a\"", "a$b", "ä"] {
            assert!(check("product", bad).is_err(), "{bad:?}");
        }
        check("version", "6.12.1+deb13~rc^1-amd64").unwrap();
    }
}
