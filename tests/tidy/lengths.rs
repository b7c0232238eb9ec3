//! How long files, functions and lines grow.

use crate::source::{Finding, blanked, hold};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 75;
const COLUMNS_MAX: usize = 100;

fn long_file(text: &str) -> Vec<Finding> {
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX { vec![(1, format!("a file of {lines} lines"))] } else { Vec::new() }
}

/// Functions from the line of their `fn` to the line of their last brace.
fn long_functions(text: &str) -> Vec<Finding> {
    let code = blanked(text, true);
    let mut wrong = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_word =
            !code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        if !is_word {
            continue;
        }
        let name = code[at + 3..].split(['(', '<', ' ']).next().unwrap_or_default();
        let (mut parentheses, mut braces, mut end) = (0_i32, 0_i32, None);
        for (offset, letter) in code[at..].char_indices() {
            match letter {
                '(' | '[' => parentheses += 1,
                ')' | ']' => parentheses -= 1,
                // A declaration, without a body.
                ';' if braces == 0 && parentheses == 0 => break,
                '{' => braces += 1,
                '}' => {
                    braces -= 1;
                    if braces <= 0 {
                        end = Some(at + offset);
                        break;
                    }
                }
                _ => {}
            }
        }
        let Some(end) = end else { continue };
        let lines = code[at..end].matches('\n').count() + 1;
        if lines > FUNCTION_LINES_MAX {
            let line = code[..at].matches('\n').count() + 1;
            wrong.push((line, format!("{name} has {lines} lines")));
        }
    }
    wrong
}

/// A line may be longer than the others if all of it is a literal: a text that is broken reads no
/// better.
fn long_lines(text: &str) -> Vec<Finding> {
    let code = blanked(text, false);
    let lines = text.lines().zip(code.lines()).enumerate();
    let long = lines.filter(|(_, (line, _))| line.chars().count() > COLUMNS_MAX);
    let wrong = long.filter(|(_, (_, code))| {
        let code = code.trim().trim_start_matches(['b', 'r', '#']);
        !code.chars().all(|letter| "\"#,;)} ".contains(letter))
    });
    wrong.map(|(at, (line, _))| (at + 1, format!("{} columns", line.chars().count()))).collect()
}

#[test]
fn no_file_outgrows_its_room() {
    hold(|_| true, |source| long_file(&source.text));
}

#[test]
fn functions_fit_a_screen() {
    hold(|_| true, |source| long_functions(&source.text));
}

#[test]
fn lines_fit_a_screen() {
    hold(|_| true, |source| long_lines(&source.text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_file_is_no_longer() {
        assert_eq!(long_file(&"\n".repeat(FILE_LINES_MAX)), []);
        assert_eq!(long_file(&"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn functions_are_measured_from_name_to_brace() {
        let function =
            |head: &str, lines: usize| format!("\n{head} {{{}}}", "\n".repeat(lines - 1));
        for head in [
            "fn f()",
            "    pub(crate) async unsafe fn f<T: Fn(u8) -> u8>(a: [u8; 2]) -> [u8; 4]",
            "fn f()\nwhere\n    u8: Into<u8>,\n",
        ] {
            let head_lines = head.matches('\n').count();
            let longest = function(head, FUNCTION_LINES_MAX - head_lines);
            let longer = function(head, FUNCTION_LINES_MAX + 1 - head_lines);
            assert_eq!(long_functions(&longest), [], "{head}");
            let found = long_functions(&longer);
            assert_eq!(found, [(2, format!("f has {} lines", FUNCTION_LINES_MAX + 1))], "{head}");
        }
        let inside = format!("fn f() {{\n    if true {{ \"}}\" }}\n{}}}", "\n".repeat(80));
        assert_eq!(long_functions(&inside).len(), 1, "braces inside, and one in a text");
        let declared = format!("trait T {{\n    fn f();\n{}}}", "\n".repeat(80));
        assert_eq!(long_functions(&declared), [], "no body");
    }

    #[test]
    fn only_a_literal_is_longer_than_a_line() {
        let long = "x".repeat(COLUMNS_MAX);
        let fitting = "x".repeat(COLUMNS_MAX - 4);
        for text in [
            format!("    {fitting}"),
            format!("    \"{long}\","),
            format!("    r#\"{long}\"#)"),
            format!("let a = \"x \\\n    {long}\";"),
        ] {
            assert_eq!(long_lines(&text), [], "{text}");
        }
        for text in [
            format!("    {fitting};"),
            format!("    // {long}"),
            format!("    let a = \"{long}\";"),
            format!("    \"{long}\".len()"),
        ] {
            assert_eq!(long_lines(&text).len(), 1, "{text}");
        }
    }
}
