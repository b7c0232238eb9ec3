//! Nothing that decides may read a clock that can be set: then no step of it can end a lease. And
//! lock-free code takes its atomics from where the model checker can stand in for them.

use crate::source::{Finding, Source, code, hold};

/// Clocks that can be set; no room may read them.
const WALL: [&str; 3] = ["SystemTime", "ClockId::Realtime", "CLOCK_REALTIME"];

/// Which ways a file has to the time and to atomics.
#[derive(Clone, Copy)]
struct Rights {
    /// May ask the kernel for the time.
    reads_clock: bool,
    /// May use what the standard library makes of it.
    has_instants: bool,
    /// May name atomics of the standard library.
    names_atomics: bool,
}

impl Rights {
    fn of(source: &Source) -> Self {
        let room = source.room().unwrap_or_default();
        let file = source.path.rsplit('/').next().unwrap_or_default();
        let is_model_checked = room == "region" || matches!(file, "rendezvous.rs" | "publish.rs");
        Self {
            reads_clock: room == "clock",
            has_instants: room == "client",
            names_atomics: !is_model_checked || matches!(file, "mapping.rs" | "sync.rs"),
        }
    }
}

fn wrong_sources(rights: Rights, text: &str) -> Vec<Finding> {
    let code = code(text);
    let wrong = code.lines().enumerate().filter(|(_, line)| {
        WALL.iter().any(|clock| line.contains(clock))
            || line.contains("Instant::now") && !rights.has_instants
            || line.contains("clock_gettime") && !rights.reads_clock
            || (line.contains("sync::atomic::Atomic") || line.contains("sync::atomic::{Atomic"))
                && !rights.names_atomics
    });
    wrong.map(|(at, line)| (at + 1, line.trim().to_owned())).collect()
}

#[test]
fn clocks_and_atomics_come_from_one_place() {
    hold(
        |source| source.room().is_some(),
        |source| wrong_sources(Rights::of(source), &source.text),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        wrong_sources(Rights::of(&source), text).len()
    }

    #[test]
    fn each_file_has_its_own_ways() {
        for (path, text) in [
            ("src/clock.rs", "clock_gettime(ClockId::Monotonic)"),
            ("src/client/session.rs", "Instant::now()"),
            ("src/engine/mod.rs", "use std::sync::atomic::AtomicBool;"),
            ("src/region/sync.rs", "pub use std::sync::atomic::AtomicU64;"),
            ("src/region/feed.rs", "use std::sync::atomic::Ordering;"),
            ("src/net/send.rs", "// SystemTime is none of ours"),
        ] {
            assert_eq!(found(path, text), 0, "{path}: {text}");
        }
        for (path, text) in [
            ("src/clock.rs", "clock_gettime(ClockId::Realtime)"),
            ("src/client/session.rs", "SystemTime::now()"),
            ("src/engine/mod.rs", "let start = Instant::now();"),
            ("src/net/send.rs", "clock_gettime(ClockId::Monotonic)"),
            ("src/region/feed.rs", "use std::sync::atomic::{AtomicU64, Ordering};"),
            ("src/engine/rendezvous.rs", "use std::sync::atomic::AtomicU64;"),
            ("src/client/resolver/publish.rs", "use std::sync::atomic::AtomicU64;"),
        ] {
            assert_eq!(found(path, text), 1, "{path}: {text}");
        }
    }
}
