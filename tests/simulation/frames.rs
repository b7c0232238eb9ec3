//! The wire format as `docs/PROTOCOL.md` states it, read byte by byte: what the oracle understands
//! of a frame.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(crate) fn ip_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes[at..at + 16].try_into().unwrap()
}

/// A text field as its bytes. Section 2.
pub(crate) fn text_at(bytes: &[u8], at: usize) -> Vec<u8> {
    bytes[at + 1..at + 1 + usize::from(bytes[at])].to_vec()
}

fn is_text(field: &[u8]) -> bool {
    let length = usize::from(field[0]);
    length < field.len() && field[1 + length..].iter().all(|&byte| byte == 0)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// The kind of a well-formed request. Section 9.
pub(crate) fn request_kind(b: &[u8]) -> Option<u8> {
    if b.len() < 16
        || b.len() > 1232
        || &b[..2] != b"HL"
        || b[2] != 1
        || !(1..=11).contains(&b[3])
        || b[7] != 0
    {
        return None;
    }
    let (kind, count) = (b[3], usize::from(u16_at(b, 4)));
    if kind == 3 {
        let right = b[6] <= 1 && (1..=50).contains(&count) && b.len() == 16 + 24 * count;
        return (right && (0..count).all(|beat| u16_at(b, 16 + 24 * beat + 22) <= 3))
            .then_some(kind);
    }
    if b[6] != 0 || count != 0 {
        return None;
    }
    let right = match kind {
        1 => b.len() >= 64 && is_zero(&b[16..]),
        2 => {
            b.len() >= 232
                && b.len() == 232 + usize::from(u16_at(b, 64))
                && is_zero(&b[67..72])
                && is_text(&b[72..104])
                && is_text(&b[104..168])
                && is_text(&b[168..232])
        }
        4 => b.len() >= 48 && b.len() == 48 + usize::from(u16_at(b, 38)) && u16_at(b, 32) <= 15,
        5 => b.len() == 32,
        6 => b.len() >= 160 && is_text(&b[32..96]) && is_text(&b[96..160]) && is_zero(&b[160..]),
        7 => b.len() >= 32 && is_zero(&b[30..]),
        8 => b.len() >= 120 && is_text(&b[56..88]) && is_text(&b[88..120]) && is_zero(&b[120..]),
        9 => b.len() >= 32 && is_zero(&b[24..]),
        10 => b.len() == 56,
        _ => b.len() == 40 && is_zero(&b[36..]),
    };
    right.then_some(kind)
}

/// The entries of an attribute tail; `None` when it is malformed. Section 2.
pub(crate) fn attributes(mut tail: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while let Some((&length, rest)) = tail.split_first() {
        let entry = rest.get(..usize::from(length))?;
        let text = std::str::from_utf8(entry).ok()?;
        if entry.is_empty() || entry[0] == b'=' || text.chars().any(|letter| letter.is_control()) {
            return None;
        }
        entries.push(entry.to_vec());
        tail = &rest[usize::from(length)..];
    }
    Some(entries)
}

/// Whether a name or zone consists of visible ASCII.
pub(crate) fn is_visible(text: &[u8]) -> bool {
    text.iter().all(|byte| (0x21..=0x7E).contains(byte))
}

/// FNV-1a, the service id. Section 2.
pub(crate) fn service_id(name: &[u8]) -> u64 {
    name.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
