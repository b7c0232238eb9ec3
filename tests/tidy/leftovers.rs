//! What must not be left over: notes of work to do, and tests that never run.

use crate::source::{Finding, hold};

/// Put together, so that this file has none of them.
const MARKS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("unimpl", "emented!"),
    concat!("to", "do!("),
    concat!("#[ig", "nore"),
];

fn left_over(text: &str) -> Vec<Finding> {
    let lines = text.lines().enumerate();
    let marked = lines.filter(|(_, line)| MARKS.iter().any(|mark| line.contains(mark)));
    marked.map(|(at, line)| (at + 1, line.trim().to_owned())).collect()
}

#[test]
fn nothing_is_left_over() {
    hold(|_| true, |source| left_over(&source.text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_code_and_comments() {
        assert_eq!(left_over("// what is to do\nlet ignore = 1;"), []);
        for mark in MARKS {
            assert_eq!(left_over(&format!("a\n// {mark} later")).len(), 1, "{mark}");
        }
    }
}
