//! Which crate may depend on which, and which room of the engine may use which.

use crate::source::{Finding, code, files, hold};

/// The floors of the engine, lowest first; a room uses rooms of lower floors and of none above.
/// `docs/ARCHITECTURE.md` has the same table.
const FLOORS: &[&[&str]] = &[
    &["limits", "clock", "sync"],
    &["exchange"],
    &["registrar", "dataplane", "watchers", "snapshot"],
    &["net", "bpf"],
    &["config"],
    &["engine"],
    &["lib", "heartlined"],
];

/// Crates with folders of their own under `src`. The engine offers them under these names, and all
/// of its floors may use them; what they may use is a matter of their manifests.
const CRATES: [&str; 3] = ["wire", "region", "client"];

/// Of each crate the own crates that it may depend on. Crates that are not named here may use all
/// that are, and none may use them.
const LAYERS: &[(&str, &[&str])] = &[
    ("heartline-wire", &[]),
    ("heartline-region", &["heartline-wire"]),
    ("heartline-client", &["heartline-wire", "heartline-region"]),
    ("heartline", &["heartline-wire", "heartline-region"]),
    (
        "heartline-test-support",
        &["heartline", "heartline-wire", "heartline-region", "heartline-client"],
    ),
];

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The first names after a path prefix such as `crate::`: one, or those of a group in braces.
fn first_names(after: &str) -> Vec<&str> {
    fn name(text: &str) -> &str {
        let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        &text[..end.unwrap_or(text.len())]
    }
    let Some(group) = after.strip_prefix('{') else { return vec![name(after)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 1, 0);
    for (at, letter) in group.char_indices() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if depth == 0 || depth == 1 && letter == ',' {
            names.push(name(group[start..at].trim_start()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Uses of rooms that do not stand below, in a file of this room that lies so many modules deep.
fn uses_from_above(room: &str, depth: usize, text: &str) -> Vec<Finding> {
    let Some(own) = floor_of(room) else {
        return vec![(1, format!("the room {room} stands on no floor"))];
    };
    let code = code(text);
    let up = "super::".repeat(depth);
    let mut wrong = Vec::new();
    for prefix in ["crate::", &up].into_iter().filter(|prefix| !prefix.is_empty()) {
        for (at, _) in code.match_indices(prefix) {
            // The end of another word, or one more step up than there is.
            if code[..at]
                .ends_with(|letter: char| letter.is_alphanumeric() || "_:".contains(letter))
            {
                continue;
            }
            let names = first_names(&code[at + prefix.len()..]);
            for used in names.into_iter().filter(|&used| used != room) {
                if floor_of(used).is_some_and(|floor| floor >= own) {
                    let line = code[..at].matches('\n').count() + 1;
                    wrong.push((line, format!("{room} uses {used}")));
                }
            }
        }
    }
    wrong
}

/// Own crates in the dependencies of a manifest that its package may not have.
fn wrong_dependencies(manifest: &str) -> Vec<String> {
    let package = manifest
        .lines()
        .skip_while(|line| *line != "[package]")
        .find_map(|line| line.strip_prefix("name = "))
        .map_or("", |name| name.trim_matches('"'));
    let allowed = |used: &str| match LAYERS.iter().find(|(name, _)| *name == package) {
        Some((_, below)) => below.contains(&used),
        None => LAYERS.iter().any(|(name, _)| *name == used),
    };
    let (mut section, mut wrong) = ("", Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        // What tests are built with is no part of what is shipped.
        if section.ends_with("dev-dependencies") || !section.ends_with("dependencies") {
            continue;
        }
        let used = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if used.starts_with("heartline") && section != "workspace.dependencies" && !allowed(used) {
            wrong.push(format!("{package} depends on {used}"));
        }
    }
    wrong
}

#[test]
fn rooms_use_lower_floors_only() {
    hold(
        |source| source.room().is_some_and(|room| !CRATES.contains(&room)),
        |source| uses_from_above(source.room().unwrap(), source.depth(), &source.text),
    );
}

#[test]
fn crates_use_lower_layers_only() {
    let manifests = files("Cargo.toml");
    for (name, _) in LAYERS {
        let line = format!("name = \"{name}\"");
        assert!(manifests.iter().any(|manifest| manifest.text.contains(&line)), "no {name}");
    }
    let wrong: Vec<String> =
        manifests.iter().flat_map(|manifest| wrong_dependencies(&manifest.text)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_floors_may_be_used() {
        for text in [
            "use crate::clock::now;\nuse crate::wire::{Beat, Lease};",
            "use crate::{exchange::Peer, limits::{PORT, HEADER_BYTES}, registrar};",
            "use super::hold::Hold; use super::super::clock::now;",
            "// crate::engine does that\nlet text = \"crate::engine\";",
            "pub(crate) fn engine() {}",
            "a\n#[cfg(test)]\nmod tests {\n    use crate::engine::Engine;",
        ] {
            assert_eq!(uses_from_above("registrar", 2, text), [], "{text}");
        }
    }

    #[test]
    fn higher_floors_are_found_in_every_form() {
        for text in [
            "\nuse crate::engine::Engine;",
            "\nfn f() { crate::engine::run() }",
            "\nuse crate::{engine::Engine, wire::Beat};",
            "\nuse crate::{\n    clock::{self, Nanos},\n    engine,\n};",
            "\nuse crate::{limits, engine as other};",
            "\nuse super::super::engine::Engine;",
            "\nuse super::super::{clock, engine};",
        ] {
            let found = uses_from_above("registrar", 2, text);
            assert_eq!(found, [(2, "registrar uses engine".to_owned())], "{text}");
        }
        assert_eq!(uses_from_above("net", 1, "use super::bpf::Map;").len(), 1, "the same floor");
        assert_eq!(uses_from_above("cellar", 1, "").len(), 1, "no floor");
    }

    #[test]
    fn layers_are_read_from_manifests() {
        let manifest = |name: &str, section: &str, used: &str| {
            format!("[package]\nname = \"{name}\"\n\n[{section}]\n{used} = {{ path = \"..\" }}\n")
        };
        for (name, section, used) in [
            ("heartline-client", "dependencies", "heartline-wire"),
            ("heartline", "dev-dependencies", "heartline-client"),
            ("heartline", "dependencies", "libc"),
            ("heartline-loadtest", "dependencies", "heartline-client"),
        ] {
            let manifest = manifest(name, section, used);
            assert_eq!(wrong_dependencies(&manifest), [""; 0], "{manifest}");
        }
        for (name, section, used) in [
            ("heartline-wire", "dependencies", "heartline-region"),
            ("heartline-client", "dependencies", "heartline"),
            ("heartline", "dependencies", "heartline-client"),
            ("heartline", "target.'cfg(unix)'.dependencies", "heartline-client"),
            ("heartline", "build-dependencies", "heartline-fuzz"),
            ("heartline-fuzz", "dependencies", "heartline-loadtest"),
        ] {
            let manifest = manifest(name, section, used);
            assert_eq!(wrong_dependencies(&manifest).len(), 1, "{manifest}");
        }
        let short =
            "[package]\nname = \"heartline\"\n[dependencies]\nheartline-client.workspace = true";
        assert_eq!(wrong_dependencies(short).len(), 1);
    }
}
