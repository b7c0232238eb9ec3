//! The attributes that an instance carries: tags and `key=value` pairs, each behind a length byte.

/// Whether a tail is a sequence of entries: a length byte of at least 1, then so many bytes of
/// UTF-8 without control characters. An entry is a tag, or `key=value` with a key of at least one
/// byte.
pub fn check_attributes(tail: &[u8]) -> bool {
    let mut entries = Entries(tail);
    entries.by_ref().all(|entry| {
        !entry.is_empty()
            && entry[0] != b'='
            && str::from_utf8(entry).is_ok_and(|text| !text.chars().any(char::is_control))
    }) && entries.0.is_empty()
}

/// Whether the tail has this tag.
pub fn has_tag(tail: &[u8], tag: &[u8]) -> bool {
    Entries(tail).any(|entry| entry == tag)
}

/// The entries of a tail; stops in front of one that is cut short.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
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
}
