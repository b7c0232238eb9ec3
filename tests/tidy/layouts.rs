//! A layout whose offsets are not asserted moves without anybody noticing.

use crate::source::{Finding, hold};

/// Sizes and offsets of structures with a fixed layout that no assertion states. The first field
/// and reserved ones need none.
fn not_asserted(text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let mut wrong = Vec::new();
    for at in (0..lines.len()).filter(|&at| lines[at].starts_with("#[repr(C")) {
        let Some(start) = (at..lines.len()).find(|&line| lines[line].contains("struct ")) else {
            continue;
        };
        let name = lines[start].split("struct ").nth(1).unwrap_or_default();
        let name: String = name.chars().take_while(char::is_ascii_alphanumeric).collect();
        let size = format!("size_of::<{name}>()");
        if !text.contains(&format!("{size} ==")) && !text.contains(&format!("{size} <=")) {
            wrong.push((at + 1, format!("the size of {name} is not asserted")));
        }
        let body = lines[start + 1..].iter().take_while(|line| **line != "}");
        let fields = body.map(|line| line.trim()).filter(|line| !line.starts_with("//"));
        let names = fields
            .filter_map(|line| line.split_once(": "))
            .map(|(field, _)| field.rsplit(' ').next().unwrap_or_default());
        for field in names.skip(1).filter(|field| !field.starts_with("reserved")) {
            if !text.contains(&format!("offset_of!({name}, {field}) ==")) {
                wrong.push((at + 1, format!("the offset of {field} in {name} is not asserted")));
            }
        }
    }
    wrong
}

#[test]
fn every_layout_is_asserted() {
    hold(
        |source| matches!(source.room(), Some("wire" | "region" | "snapshot")),
        |source| not_asserted(&source.text),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: &str = "#[repr(C)]\npub struct Pair {\n    /// One.\n    pub one: u32,\n    \
                          pub two: u32,\n    reserved: [u8; 8],\n}\n";

    #[test]
    fn size_and_offsets_are_needed() {
        let size = "assert!(size_of::<Pair>() == 16);\n";
        let offset = "assert!(offset_of!(Pair, two) == 4);\n";
        assert_eq!(not_asserted(&[LAYOUT, size, offset].concat()), []);
        assert_eq!(not_asserted(&[LAYOUT, size].concat()).len(), 1);
        assert_eq!(not_asserted(&[LAYOUT, offset].concat()).len(), 1);
        assert_eq!(not_asserted("pub struct Pair {\n    one: u32,\n}\n"), [], "no fixed layout");
    }
}
