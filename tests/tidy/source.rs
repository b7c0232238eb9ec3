//! The files that rules look at, and a view of them without texts and comments.

use std::path::{Path, PathBuf};

/// One file of Rust.
pub(crate) struct Source {
    /// Path from the top of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What a rule has against a file: the line, from 1, and the reason.
pub(crate) type Finding = (usize, String);

pub(crate) fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below the top whose names end so; built and hidden ones left out.
pub(crate) fn files(ending: &str) -> Vec<Source> {
    let (mut found, mut folders) = (Vec::new(), vec![top()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if name.ends_with(ending) {
                let inside = path.strip_prefix(top()).unwrap().to_str().unwrap();
                let text = std::fs::read_to_string(&path).unwrap();
                found.push(Source { path: inside.to_owned(), text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// All of Rust.
pub(crate) fn sources() -> Vec<Source> {
    let found = files(".rs");
    let manifest = std::fs::read_to_string(top().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find(|line| line.starts_with("members = [")).unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 5, "{members:?}");
    for folder in members.into_iter().chain(["src", "tests", "benches", "examples"]) {
        let has = |source: &Source| Path::new(&source.path).starts_with(folder);
        assert!(found.iter().any(has), "no source under {folder}");
    }
    found
}

/// Applies a rule to all files that it is meant for; nothing may be found.
pub(crate) fn hold(meant: impl Fn(&Source) -> bool, rule: impl Fn(&Source) -> Vec<Finding>) {
    let (mut looked, mut wrong) = (0, Vec::new());
    for source in sources().iter().filter(|source| meant(source)) {
        looked += 1;
        let found = rule(source).into_iter();
        wrong.extend(found.map(|(line, reason)| format!("{}:{line}: {reason}", source.path)));
    }
    assert!(looked > 0, "the rule is meant for no file");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

impl Source {
    /// The parts of its path.
    fn parts(&self) -> Vec<&str> {
        self.path.trim_end_matches(".rs").split('/').collect()
    }

    /// The room under `src` that it belongs to; `None` elsewhere.
    pub(crate) fn room(&self) -> Option<&str> {
        let parts = self.parts();
        (parts[0] == "src").then(|| parts[1])
    }

    /// How many modules it lies below the root of its crate under `src`.
    pub(crate) fn depth(&self) -> usize {
        let parts = self.parts();
        parts.len() - 1 - usize::from(matches!(parts.last(), Some(&("mod" | "lib" | "main"))))
    }
}

/// The text in front of its tests, without comments and the contents of texts. Lines stay lines.
pub(crate) fn code(text: &str) -> String {
    let blank = blanked(text, true);
    blank.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

/// The text with blanks for the contents of its literals, and for its comments, too, if wanted.
pub(crate) fn blanked(text: &str, comments: bool) -> String {
    let mut blank = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (bytes, hidden) = match piece(rest) {
            Some((bytes, Piece::Comment)) => (bytes, comments.then_some((0, 0))),
            Some((bytes, Piece::Literal(open, close))) => (bytes, Some((open, close))),
            None => (letter.len_utf8(), None),
        };
        let (piece, after) = rest.split_at(bytes);
        rest = after;
        match hidden {
            None => blank.push_str(piece),
            Some((open, close)) => {
                let inside = &piece[open..piece.len() - close];
                blank.push_str(&piece[..open]);
                blank.extend(inside.chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
                blank.push_str(&piece[piece.len() - close..]);
            }
        }
    }
    blank
}

enum Piece {
    Comment,
    /// Bytes of what opens and closes it.
    Literal(usize, usize),
}

/// Bytes of the comment or literal that a text begins with.
fn piece(text: &str) -> Option<(usize, Piece)> {
    if text.starts_with("//") {
        return Some((text.find('\n').unwrap_or(text.len()), Piece::Comment));
    }
    if text.starts_with("/*") {
        return Some((text.find("*/").map_or(text.len(), |at| at + 2), Piece::Comment));
    }
    if let Some(inside) = text.strip_prefix('\'') {
        // A lifetime has no second quotation mark where a character has one.
        let bytes = match inside.strip_prefix('\\') {
            Some(escaped) => 2 + escaped.get(1..)?.find('\'')?,
            None => inside.chars().next()?.len_utf8(),
        };
        let closes = inside.get(bytes..)?.starts_with('\'');
        return closes.then_some((bytes + 2, Piece::Literal(1, 1)));
    }
    if let Some(raw) = text.strip_prefix("r") {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            let inside = text[open..].find(&close)?;
            return Some((open + inside + close.len(), Piece::Literal(open, close.len())));
        }
    }
    let inside = text.strip_prefix('"')?;
    let mut escaped = false;
    let close = inside.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    Some((close + 2, Piece::Literal(1, 1)))
}

/// Words of a line of code.
pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_comments_are_blanked() {
        let text = "let a = \"x // \\\" y\"; // z\nlet b = 'c' as &'static str; r#\"\"q\"\"#";
        let blank = "let a = \"         \";     \nlet b = ' ' as &'static str; r#\"   \"#";
        assert_eq!(blanked(text, true), blank);
        assert!(blanked(text, false).contains("// z"));
        assert_eq!(blanked("'\\n' '\\'' '\\u{7F}' a", true), "'  ' '  ' '      ' a");
        assert_eq!(code("a\n#[cfg(test)]\nmod tests {"), "a\n");
    }

    #[test]
    fn rooms_and_depths_come_from_paths() {
        let source = |path: &str| Source { path: path.to_owned(), text: String::new() };
        assert_eq!(source("src/net/send.rs").room(), Some("net"));
        assert_eq!(source("src/clock.rs").room(), Some("clock"));
        assert_eq!(source("tests/tidy/main.rs").room(), None);
        for (path, depth) in
            [("src/lib.rs", 0), ("src/clock.rs", 1), ("src/net/mod.rs", 1), ("src/net/send.rs", 2)]
        {
            assert_eq!(source(path).depth(), depth, "{path}");
        }
    }
}
