//! What can be used from outside says what it is for. A module says it in its own file.

use crate::source::{Finding, code, hold};

const ITEMS: [&str; 10] = [
    "fn ",
    "struct ",
    "enum ",
    "trait ",
    "type ",
    "const ",
    "static ",
    "unsafe fn ",
    "const fn ",
    "unsafe trait ",
];

fn without_docs(text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let code = code(text);
    let items = code.lines().enumerate().filter(|(_, line)| {
        let item = line.trim_start().strip_prefix("pub ");
        item.is_some_and(|item| ITEMS.iter().any(|start| item.starts_with(start)))
    });
    let wrong = items.filter(|&(at, _)| {
        // The doc comment stands above the attributes, which may take several lines.
        let mut above = lines[..at].iter().rev().map(|line| line.trim());
        let first = above.find(|line| {
            !(line.starts_with("#[")
                || line.ends_with(")]")
                || line.ends_with(',')
                || line.starts_with("reason ="))
        });
        !first.is_some_and(|line| line.starts_with("///"))
    });
    wrong.map(|(at, line)| (at + 1, format!("no doc comment: {}", line.trim()))).collect()
}

/// Nearly every file says at its head what it is for.
fn without_head(text: &str) -> Vec<Finding> {
    let has = text.starts_with("//!") || text.starts_with("#![no_main]");
    if has { Vec::new() } else { vec![(1, "no word on what the file is for".to_owned())] }
}

#[test]
fn files_say_what_they_are_for() {
    hold(|_| true, |source| without_head(&source.text));
}

#[test]
fn public_items_have_docs() {
    let meant = |path: &str| path.starts_with("src/") || path.starts_with("tests/support/");
    hold(|source| meant(&source.path), |source| without_docs(&source.text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doc_comments_stand_above_attributes() {
        for text in [
            "/// Ends.\npub fn end() {}",
            "/// Ends.\n#[must_use]\n#[allow(\n    clippy::x,\n    reason = \"y\"\n)]\npub fn end() {}",
            "pub(crate) fn end() {}\npub use a::b;\npub mod c;",
        ] {
            assert_eq!(without_docs(text), [], "{text}");
        }
        for text in
            ["pub fn end() {}", "// Ends.\npub const END: u8 = 1;", "#[inline]\npub fn end() {}"]
        {
            assert_eq!(without_docs(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_head_is_needed() {
        assert_eq!(without_head("//! The end.\n"), []);
        assert_eq!(without_head("use a::b;\n").len(), 1);
    }
}
