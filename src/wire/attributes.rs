//! The attributes that an instance carries: tags and `key=value` pairs, each behind a length byte.

use crate::limits::ATTRIBUTES_BYTES_MAX;

/// Why entries can't be put together to attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributesError {
    /// An entry is longer than its length byte can say.
    #[error("an attribute is longer than 255 bytes")]
    Entry,
    /// All entries together are longer than [`ATTRIBUTES_BYTES_MAX`].
    #[error("the attributes are longer than {ATTRIBUTES_BYTES_MAX} bytes together")]
    Whole,
}

/// Puts entries together to the tail of a frame. What is in an entry is for [`check_attributes`] to
/// judge.
///
/// # Errors
/// [`AttributesError`]: an entry or all of them are too long.
pub fn encode_attributes(
    entries: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> Result<Vec<u8>, AttributesError> {
    let mut tail = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        tail.push(u8::try_from(entry.len()).map_err(|_| AttributesError::Entry)?);
        tail.extend_from_slice(entry);
    }
    if tail.len() <= ATTRIBUTES_BYTES_MAX { Ok(tail) } else { Err(AttributesError::Whole) }
}

/// Whether a tail is a sequence of entries: a length byte of at least 1, then so many bytes of
/// UTF-8 without control characters. An entry is a tag, or `key=value` with a key of at least one
/// byte.
pub fn check_attributes(tail: &[u8]) -> bool {
    let mut entries = AttributeEntries::new(tail);
    entries.by_ref().all(|entry| {
        !entry.is_empty()
            && entry[0] != b'='
            && str::from_utf8(entry).is_ok_and(|text| !text.chars().any(char::is_control))
    }) && entries.0.is_empty()
}

/// Whether the tail has this tag.
pub fn has_tag(tail: &[u8], tag: &[u8]) -> bool {
    AttributeEntries::new(tail).any(|entry| entry == tag)
}

/// The entries of a tail, without their length bytes; stops in front of one that is cut short.
#[derive(Clone, Copy, Debug)]
pub struct AttributeEntries<'a>(&'a [u8]);

impl<'a> AttributeEntries<'a> {
    /// The entries of this tail.
    pub fn new(tail: &'a [u8]) -> Self {
        Self(tail)
    }
}

impl<'a> Iterator for AttributeEntries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        let (entry, rest) = rest.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_whole_entries() {
        assert!(check_attributes(b""));
        assert!(check_attributes(b"\x06canary\x08rack=b12"));
        assert!(!check_attributes(b"\x07canary"), "cut short");
        assert!(!check_attributes(b"\x00"), "empty entry");
        assert!(!check_attributes(b"\x02=a"), "no key");
        assert!(!check_attributes(b"\x02a\x07"), "control character");
        assert!(!check_attributes(b"\x01\xFF"), "not UTF-8");
    }

    #[test]
    fn tags_match_whole_entries_only() {
        let tail = b"\x06canary\x08rack=b12";
        assert!(has_tag(tail, b"canary"));
        assert!(has_tag(tail, b"rack=b12"));
        assert!(!has_tag(tail, b"rack"));
        assert!(!has_tag(tail, b"canar"));
    }

    #[test]
    fn entries_come_back_as_they_were_put_in() {
        let tail = encode_attributes(["canary", "rack=b12"]).unwrap();
        assert_eq!(tail, b"\x06canary\x08rack=b12");
        assert!(AttributeEntries::new(&tail).eq([&b"canary"[..], b"rack=b12"]));
        assert_eq!(encode_attributes(["x".repeat(256)]), Err(AttributesError::Entry));
        assert_eq!(encode_attributes(vec!["x".repeat(255); 2]).map(|tail| tail.len()), Ok(512));
        let longer = ["x".repeat(255), "x".repeat(255), "x".into()];
        assert_eq!(encode_attributes(longer), Err(AttributesError::Whole));
    }
}
