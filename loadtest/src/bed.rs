//! An engine to measure: one in a process of its own, or one elsewhere.

use crate::machine;
use heartline::Config;
use heartline_client::{ClientError, Session, Stat, Stats};
use heartline_region::Place;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The engine under test. A process of our own ends with this value, or with this program, whatever
/// ends it.
pub(crate) struct Bed {
    /// Where it listens.
    pub(crate) target: SocketAddr,
    child: Option<Child>,
    session: Session,
    /// Its memory files, which go with it.
    state: Option<PathBuf>,
}

/// The engine's counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    stats: Stats,
    /// When the engine was asked, and when it had answered.
    asked: Instant,
    answered: Instant,
}

impl Counters {
    /// One of them.
    pub(crate) fn get(&self, stat: Stat) -> u64 {
        self.stats.get(stat)
    }

    /// Whether the engine was started again in between; then its counters began anew.
    pub(crate) fn restarted_since(&self, before: &Self) -> bool {
        u128::from(self.get(Stat::UptimeNs)) < (self.asked - before.answered).as_nanos()
    }

    /// How much one of them has grown since, or since the engine was started again.
    pub(crate) fn since(&self, before: &Self, stat: Stat) -> u64 {
        let before = if self.restarted_since(before) { 0 } else { before.get(stat) };
        self.get(stat).saturating_sub(before)
    }
}

/// The settings of an engine to measure.
#[derive(clap::Args)]
pub(crate) struct EngineOptions {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    capacity: u32,
    #[arg(long)]
    cores: usize,
    /// A directory for the memory files; without it memory has no name
    #[arg(long)]
    state: Option<PathBuf>,
    /// A snapshot file, or off
    #[arg(long)]
    snapshot: PathBuf,
    /// On or off
    #[arg(long, default_value = "on")]
    hold: String,
}

/// What `heartline-loadtest engine` is: an engine that ends when its standard input does.
pub(crate) fn serve(options: EngineOptions) -> Result<(), String> {
    let config = Config {
        listen: vec![options.listen],
        capacity: options.capacity,
        cores: Some(vec![options.cores]),
        state: options.state.map_or(Place::Scratch, Place::Directory),
        snapshot: Some(options.snapshot).filter(|path| path != "off"),
        hold: options.hold != "off",
        ..Config::default()
    };
    let engine = heartline::Engine::start(&config).map_err(|error| error.to_string())?;
    println!("{}", engine.addresses()[0]);
    let _ = std::io::stdin().read(&mut [0]);
    engine.join();
    Ok(())
}

/// A program of ours that prints one thing, its address for example, and ends when its standard
/// input does.
pub(crate) fn spawn<T: FromStr>(cpu: usize, arguments: &[&str]) -> Result<(Child, T), String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = machine::pinned(cpu, || command.spawn()).map_err(|error| error.to_string())?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped"))
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    match line.trim().parse() {
        Ok(printed) => Ok((child, printed)),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("{} did not start", arguments.join(" ")))
        }
    }
}

impl Bed {
    /// Starts an engine with room for `capacity` leases on a CPU.
    pub(crate) fn start(capacity: u32, cpu: usize, more: &[&str]) -> Result<Self, String> {
        let (capacity, cpu_text) = (capacity.max(1024).to_string(), cpu.to_string());
        let mut arguments = vec![
            "engine",
            "--listen",
            "127.0.0.1:0",
            "--capacity",
            &capacity,
            "--cores",
            &cpu_text,
        ];
        // Only memory that has a name has a snapshot.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = format!(
            "/dev/shm/heartline-loadtest-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let state = more.contains(&"--snapshot").then(|| PathBuf::from(&place));
        arguments.extend(if state.is_some() { ["--state", &place] } else { ["--snapshot", "off"] });
        arguments.extend(more);
        let (child, target) = spawn(cpu, &arguments)?;
        Self::connect(target, Some(child), state)
    }

    /// An engine that runs already.
    pub(crate) fn elsewhere(target: SocketAddr) -> Result<Self, String> {
        Self::connect(target, None, None)
    }

    fn connect(
        target: SocketAddr,
        child: Option<Child>,
        state: Option<PathBuf>,
    ) -> Result<Self, String> {
        let mut session = Session::connect(target).map_err(|error| error.to_string())?;
        // An engine that is not there is not waited for as long as a busy one.
        session.set_patience(Duration::from_millis(100));
        let mut bed = Self { target, child, session, state };
        bed.session.hello().map_err(|error| format!("{error}; is an engine there?"))?;
        bed.session.set_patience(Duration::from_secs(5));
        bed.counters()?;
        Ok(bed)
    }

    /// Its counters now. What was sent to it before is in them.
    pub(crate) fn counters(&mut self) -> Result<Counters, String> {
        // Longer than the engine keeps a reading of its CPU time.
        std::thread::sleep(Duration::from_millis(12));
        let asked = Instant::now();
        let stats = self.session.stats().map_err(|error| self.explain(&error))?;
        Ok(Counters { stats, asked, answered: Instant::now() })
    }

    /// The session that asks for the counters.
    pub(crate) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Its process, if it is ours.
    pub(crate) fn pid(&self) -> Result<u32, String> {
        self.child
            .as_ref()
            .map(Child::id)
            .ok_or_else(|| "this takes an engine of our own: leave --target away".into())
    }

    /// The directory of its memory files, if they have one.
    pub(crate) fn state(&self) -> Result<&Path, String> {
        self.state.as_deref().ok_or_else(|| "this engine's memory has no name".into())
    }

    fn explain(&self, error: &ClientError) -> String {
        format!("{}: {error}", self.target)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
            let _ = child.wait();
        }
        if let Some(state) = &self.state {
            let _ = std::fs::remove_dir_all(state);
        }
    }
}
