//! A planted bug whose patch does not apply any more plants nothing: `tests/planted/run` would stop
//! at it, but nobody runs that every day.

use crate::source::{files, top};
use std::collections::BTreeMap;

/// The value of a field at the head of a patch.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

/// The fields that a patch does not have.
fn missing_fields(text: &str) -> Vec<&'static str> {
    ["Bug: ", "Ring: ", "Run: "].into_iter().filter(|name| field(text, name).is_empty()).collect()
}

#[test]
fn planted_bugs_still_apply() {
    let git = |arguments: &[&str]| {
        std::process::Command::new("git").args(arguments).current_dir(top()).output()
    };
    if !git(&["rev-parse", "--show-toplevel"]).is_ok_and(|output| output.status.success()) {
        println!("skipped: git and its repository are needed to try patches");
        return;
    }
    let (mut rings, mut wrong) = (BTreeMap::<String, u32>::new(), Vec::new());
    for patch in files(".patch").iter().filter(|patch| patch.path.starts_with("tests/planted/")) {
        *rings.entry(field(&patch.text, "Ring: ").to_owned()).or_default() += 1;
        let applies = git(&["apply", "--check", &patch.path]).unwrap();
        let missing = missing_fields(&patch.text);
        if !missing.is_empty() || !applies.status.success() {
            let said = String::from_utf8_lossy(&applies.stderr);
            wrong.push(format!("{}: without {missing:?}, {said}", patch.path));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rings.values().sum::<u32>() >= 25, "{rings:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_fields_are_needed() {
        assert_eq!(missing_fields("Bug: a\nRing: b\nRun: c\n"), [""; 0]);
        assert_eq!(missing_fields("Bug: a\nRun: \n"), ["Ring: ", "Run: "]);
    }
}
