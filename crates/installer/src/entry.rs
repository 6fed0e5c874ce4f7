//! The boot entry's text and name.

use iofs_bls::{Entry, EntryName};

use crate::error::{ErrorKind, InstallError};

/// What an entry says.
pub(crate) struct Content<'a> {
    pub(crate) title: &'a str,
    pub(crate) version: &'a str,
    pub(crate) sort_key: &'a str,
    pub(crate) machine_id: Option<&'a str>,
    pub(crate) linux: &'a str,
    pub(crate) initrd: &'a str,
    pub(crate) options: &'a str,
}

/// The entry's file.
pub(crate) fn text(content: &Content<'_>) -> Result<String, InstallError> {
    let entry = Entry {
        title: Some(content.title.into()),
        version: Some(content.version.into()),
        machine_id: content.machine_id.map(str::to_ascii_lowercase),
        sort_key: Some(content.sort_key.into()),
        linux: Some(content.linux.into()),
        initrd: vec![content.initrd.into()],
        options: match content.options {
            "" => Vec::new(),
            options => vec![options.into()],
        },
        ..Entry::default()
    };
    entry.write().map_err(|e| {
        InstallError::new(ErrorKind::Invalid, "the boot entry cannot be written").with_source(e)
    })
}

/// The file name of the entry `id`, which has no boot counter.
pub(crate) fn file_name(id: &str) -> Result<String, InstallError> {
    let name = EntryName::new(id, None).map_err(|e| {
        InstallError::new(
            ErrorKind::Invalid,
            format!("{id} cannot be the name of a boot entry"),
        )
        .with_source(e)
        .with_hint("build with another --version")
    })?;
    Ok(name.to_string())
}

/// The file name of the UKI that is the entry `id`.
pub(crate) fn uki_name(id: &str) -> Result<String, InstallError> {
    // The same characters, the same length.
    file_name(id)?;
    Ok(format!("{id}.efi"))
}

/// Whether a UKI of that name is the entry `id`, with a boot counter or not.
pub(crate) fn is_uki(file_name: &str, id: &str) -> bool {
    let Some(stem) = file_name.strip_suffix(".efi") else {
        return false;
    };
    let counter = |text: &str| {
        let counts = text.strip_prefix('+')?;
        let digits = |byte: u8| byte.is_ascii_digit() || byte == b'-';
        (!counts.is_empty() && counts.bytes().all(digits)).then_some(())
    };
    stem.strip_prefix(id)
        .is_some_and(|rest| rest.is_empty() || counter(rest).is_some())
}

/// Whether a file of that name is the entry `id`, counted or not.
pub(crate) fn is_entry(file_name: &str, id: &str) -> bool {
    EntryName::parse(file_name).is_ok_and(|name| name.id() == id)
}
