//! Where `unsafe` may be, and that it says why it is sound.

use crate::source::{Finding, Source, blanked, hold, words};

/// Rooms that may have it.
const ROOMS: [&str; 2] = ["net", "region"];
/// So many lines above it the reason stands at most: a long one, and attributes.
const REASON_LINES: usize = 8;

/// Test programs play the system: a counting allocator, a disk that is cut off.
fn is_allowed(source: &Source) -> bool {
    match source.room() {
        Some(room) => ROOMS.contains(&room),
        None => source.path.starts_with("tests/") && !source.path.starts_with("tests/support/"),
    }
}

fn unsafe_without_reason(allowed: bool, text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let code = blanked(text, true);
    let uses = code.lines().enumerate().filter(|(_, line)| words(line).any(|w| w == "unsafe"));
    let wrong = uses.filter_map(|(at, _)| {
        let mut above = lines[at.saturating_sub(REASON_LINES)..=at].iter();
        if !allowed {
            Some((at + 1, format!("unsafe outside {ROOMS:?}")))
        } else if !above.any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
            Some((at + 1, "unsafe without a reason".to_owned()))
        } else {
            None
        }
    });
    wrong.collect()
}

#[test]
fn unsafe_stays_in_its_rooms_with_a_reason() {
    hold(|_| true, |source| unsafe_without_reason(is_allowed(source), &source.text));
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASONED: &str = "// SAFETY: the file was mapped above.\nlet byte = unsafe { *start };";

    #[test]
    fn a_reason_in_a_room_is_enough() {
        assert_eq!(unsafe_without_reason(true, REASONED), []);
        assert_eq!(
            unsafe_without_reason(true, "/// # Safety\n///\n/// It is.\nunsafe fn f() {}"),
            []
        );
        assert_eq!(unsafe_without_reason(false, "// unsafe\nlet unsafe_code = \"unsafe\";"), []);
    }

    #[test]
    fn no_reason_and_another_room_are_found() {
        assert_eq!(unsafe_without_reason(true, "let byte = unsafe { *start };").len(), 1);
        assert_eq!(
            unsafe_without_reason(false, REASONED),
            [(2, "unsafe outside [\"net\", \"region\"]".into())]
        );
        let far = format!("// SAFETY: far away.\n{}unsafe {{}}", "\n".repeat(REASON_LINES));
        assert_eq!(unsafe_without_reason(true, &far).len(), 1);
    }

    #[test]
    fn rooms_are_those_of_the_engine_and_of_tests() {
        let source = |path: &str| Source { path: path.to_owned(), text: String::new() };
        for path in ["src/net/send.rs", "src/region/mapping.rs", "tests/allocations.rs"] {
            assert!(is_allowed(&source(path)), "{path}");
        }
        for path in [
            "src/engine/mod.rs",
            "src/clock.rs",
            "loadtest/src/main.rs",
            "tests/support/src/lib.rs",
        ] {
            assert!(!is_allowed(&source(path)), "{path}");
        }
    }
}
