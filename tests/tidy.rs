//! The house rules, kept by a test: which room may use which, where `unsafe` may be and how, how
//! long things grow, what is left over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floors, lowest first; a room uses rooms of lower floors and of none above.
/// `docs/ARCHITECTURE.md` has the same table.
const FLOORS: [&[&str]; 8] = [
    &["limits", "clock", "sync"],
    &["wire"],
    &["region", "exchange"],
    &["registrar", "dataplane", "snapshot"],
    &["net"],
    &["config"],
    &["engine", "client"],
    &["lib", "heartlined"],
];
/// Longest file and longest function, in lines.
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 100;
/// Rooms that may have `unsafe`.
const UNSAFE_ROOMS: [&str; 2] = ["net", "region"];

fn files(under: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(under)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push((path.clone(), std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no source under {under}");
    found
}

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The code of a file in front of its tests, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    code.lines().enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap_or("")))
}

#[test]
fn rooms_use_lower_floors_only() {
    let floors: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor)))
        .collect();
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let own = room(&path);
        let own_floor =
            *floors.get(own.as_str()).unwrap_or_else(|| panic!("{own} stands on no floor"));
        for (line, code) in code(&text) {
            for used in code.split("crate::").skip(1) {
                let used: String = used
                    .chars()
                    .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
                    .collect();
                if let Some(&floor) = floors.get(used.as_str())
                    && used != own
                    && floor >= own_floor
                {
                    wrong.push(format!("{}:{line} uses {used}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_stays_in_its_rooms_with_a_reason() {
    let mut wrong = Vec::new();
    for (path, text) in files("src").into_iter().chain(files("loadtest/src")) {
        let allowed = path.starts_with(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
            && UNSAFE_ROOMS.contains(&room(&path).as_str());
        let lines: Vec<&str> = text.lines().collect();
        for (line, code) in code(&text) {
            if !code
                .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                .any(|word| word == "unsafe")
            {
                continue;
            }
            let reason = lines[line.saturating_sub(8)..line]
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !allowed || !reason {
                wrong.push(format!("{}:{line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe outside {UNSAFE_ROOMS:?} or without a reason: {wrong:#?}");
}

#[test]
fn nothing_outgrows_its_room() {
    let mut wrong = Vec::new();
    for (path, text) in
        ["src", "tests", "loadtest/src", "benches", "examples", "fuzz"].into_iter().flat_map(files)
    {
        let length = text.lines().count();
        if length > FILE_LINES_MAX {
            wrong.push(format!("{}: {length} lines", path.display()));
        }
        // rustfmt closes a function with a brace at the indentation of its first line.
        let mut open: Option<(usize, usize, String)> = None;
        for (at, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let trimmed = line.trim_start();
            if open.is_none()
                && (trimmed.starts_with("fn ")
                    || trimmed.contains(" fn ")
                        && ["pub", "const", "unsafe"].iter().any(|word| trimmed.starts_with(word)))
                && !line.ends_with(';')
            {
                open = Some((at, indent, trimmed.to_owned()));
            } else if let Some((start, depth, name)) = &open
                && indent == *depth
                && trimmed == "}"
            {
                if at - start >= FUNCTION_LINES_MAX {
                    wrong.push(format!(
                        "{}:{}: {} lines: {name}",
                        path.display(),
                        start + 1,
                        at - start
                    ));
                }
                open = None;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_over() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("unimpl", "emented!"),
        concat!("to", "do!("),
        concat!("#[ig", "nore"),
    ];
    let mut wrong = Vec::new();
    for (path, text) in
        ["src", "tests", "loadtest/src", "benches", "examples", "fuzz"].into_iter().flat_map(files)
    {
        for (at, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                wrong.push(format!("{}:{}: {line}", path.display(), at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A layout whose offsets are not asserted moves without anybody noticing. The first field and
/// reserved ones need none.
#[test]
fn every_layout_is_asserted() {
    let mut wrong = Vec::new();
    for (path, text) in files("src")
        .into_iter()
        .filter(|(path, _)| matches!(room(path).as_str(), "wire" | "region" | "snapshot"))
    {
        let lines: Vec<&str> = text.lines().collect();
        for at in (0..lines.len()).filter(|&at| lines[at].starts_with("#[repr(C")) {
            let Some(start) = (at..lines.len()).find(|&line| lines[line].contains("struct "))
            else {
                continue;
            };
            let name: String = lines[start]
                .split("struct ")
                .nth(1)
                .unwrap_or("")
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect();
            if !text.contains(&format!("size_of::<{name}>() =="))
                && !text.contains(&format!("size_of::<{name}>() <="))
            {
                wrong.push(format!("{}:{}: the size of {name}", path.display(), at + 1));
            }
            let body =
                lines[start + 1..].iter().take_while(|line| **line != "}").map(|line| line.trim());
            let fields = body
                .filter(|line| !line.starts_with("//"))
                .filter_map(|line| line.split_once(": "));
            let names = fields.map(|(field, _)| field.rsplit(' ').next().unwrap_or(""));
            for field in names.skip(1).filter(|field| !field.starts_with("reserved")) {
                if !text.contains(&format!("offset_of!({name}, {field}) ==")) {
                    wrong.push(format!(
                        "{}:{}: the offset of {field} in {name}",
                        path.display(),
                        at + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not asserted: {wrong:#?}");
}

/// What can be used from outside says what it is for. A module says it in its own file.
#[test]
fn public_items_have_docs() {
    let items = [
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
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        if !text.starts_with("//!") {
            wrong.push(format!("{}:1: no word on what the file is for", path.display()));
        }
        let lines: Vec<&str> = text.lines().collect();
        for (line, code) in code(&text) {
            let Some(item) = code.trim_start().strip_prefix("pub ") else { continue };
            if !items.iter().any(|start| item.starts_with(start)) {
                continue;
            }
            // The doc comment stands above the attributes, which may take several lines.
            let mut above = lines[..line - 1].iter().rev().map(|line| line.trim());
            let first = above.find(|line| {
                !(line.starts_with("#[")
                    || line.ends_with(")]")
                    || line.ends_with(',')
                    || line.starts_with("reason ="))
            });
            if !first.is_some_and(|line| line.starts_with("///")) {
                wrong.push(format!("{}:{line}: {}", path.display(), item.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "without docs: {wrong:#?}");
}

/// Nothing that decides may read a clock that can be set: then no step of it can end a lease. And
/// lock-free code takes its atomics from where the model checker can stand in for them.
#[test]
fn clocks_and_atomics_come_from_one_place() {
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let own = room(&path);
        for (line, code) in code(&text) {
            let wall = ["SystemTime", "ClockId::Realtime", "CLOCK_REALTIME"]
                .iter()
                .any(|clock| code.contains(clock));
            let reads = code.contains("Instant::now") && own != "client"
                || code.contains("clock_gettime") && own != "clock";
            let types =
                code.contains("sync::atomic::Atomic") || code.contains("sync::atomic::{Atomic");
            let checked =
                own == "region" && !path.ends_with("mapping.rs") && !path.ends_with("sync.rs")
                    || path.ends_with("rendezvous.rs");
            if wall || reads || types && checked {
                wrong.push(format!("{}:{line}: {}", path.display(), code.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A planted bug whose patch does not apply any more plants nothing: `tests/planted/run` would stop
/// at it, but who runs that every day?
#[test]
fn planted_bugs_still_apply() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |arguments: &[&str]| {
        std::process::Command::new("git").args(arguments).current_dir(root).output()
    };
    if !git(&["rev-parse", "--show-toplevel"]).is_ok_and(|output| output.status.success()) {
        println!("skipped: git and its repository are needed to try patches");
        return;
    }
    let (mut rings, mut wrong) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(root.join("tests/planted")).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "patch") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").to_owned()
        };
        *rings.entry(field("Ring: ")).or_insert(0) += 1;
        let complete = ["Bug: ", "Ring: ", "Run: "].iter().all(|name| !field(name).is_empty());
        let applies = git(&["apply", "--check", path.to_str().unwrap()]).unwrap();
        if !complete || !applies.status.success() {
            wrong.push(format!("{}: {}", path.display(), String::from_utf8_lossy(&applies.stderr)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rings.values().sum::<u32>() >= 25, "{rings:?}");
}
