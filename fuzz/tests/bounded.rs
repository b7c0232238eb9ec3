//! Every target on its corpus and on seeded mutations of it. `HEARTLINE_FUZZ_SECONDS` runs each
//! target so long; without it a fixed number of inputs, always the same.
//!
//! What could go wrong: a panic in the gate takes a loop down, a damaged file takes the next engine
//! down, and any sender of datagrams can do it again.

use heartline_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Values at the edges of fields.
const EDGES: [u64; 8] = [0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX >> 1, u64::MAX];

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        let room = input.len() - at;
        match random.random_range(0..7) {
            0 if room > 0 => input[at] ^= 1 << random.random_range(0..8),
            1 if room > 0 => input[at] = random.random(),
            2 => {
                let width = [1, 2, 4, 8][random.random_range(0..4)].min(room);
                input[at..at + width]
                    .copy_from_slice(&EDGES[random.random_range(0..8)].to_le_bytes()[..width]);
            }
            3 => input.truncate(at),
            4 => {
                let more: Vec<u8> =
                    (0..random.random_range(1..40)).map(|_| random.random()).collect();
                input.splice(at..at, more);
            }
            5 => {
                let other = &others[random.random_range(0..others.len())];
                input.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
            _ => {
                let end = at + random.random_range(0..=room.min(64));
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
        }
    }
    input.truncate(20_000);
}

fn run((name, target): Target, inputs: u64) {
    let seconds = std::env::var("HEARTLINE_FUZZ_SECONDS")
        .ok()
        .map(|text| text.parse().expect("HEARTLINE_FUZZ_SECONDS is a number"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let corpus = corpus(name);
    let mut random = StdRng::seed_from_u64(1);
    let mut done = 0;
    let check = |input: &[u8]| {
        if catch_unwind(|| target(input)).is_err() {
            let path = std::env::temp_dir().join(format!("heartline-fuzz-{name}"));
            std::fs::write(&path, input).unwrap();
            panic!("{name} failed on {} bytes, kept as {}", input.len(), path.display());
        }
    };
    corpus.iter().for_each(|input| check(input));
    while until.map_or(done < inputs, |until| Instant::now() < until) {
        let mut input = corpus[random.random_range(0..corpus.len())].clone();
        mutate(&mut input, &corpus, &mut random);
        check(&input);
        done += 1;
    }
    println!("{name}: {} files and {done} mutations", corpus.len());
}

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.0 == name).unwrap()
}

#[test]
fn decode() {
    run(target("decode"), 300_000);
}

#[test]
fn dataplane() {
    run(target("dataplane"), 4000);
}

#[test]
fn follow() {
    run(target("follow"), 20_000);
}

#[test]
fn registrar() {
    run(target("registrar"), 4000);
}

#[test]
fn attach() {
    run(target("attach"), 4000);
}

#[test]
fn local() {
    run(target("local"), 100_000);
}

#[test]
fn config() {
    run(target("config"), 10_000);
}
