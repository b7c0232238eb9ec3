//! heartlined: the engine as a daemon. Exit codes: 0 fine, 1 failed, 2 wrong usage.

mod manager;

use clap::Parser;
use heartline::net::{BindError, close_strays};
use heartline::region::RegionError;
use heartline::{Config, ConfigError, Engine, Options, StartError};
use manager::Signals;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The heartline engine: UDP heartbeats in, who is alive out.
///
/// Flags win over environment variables (HEARTLINE_ and the flag's name), these over the file, the
/// file over the defaults.
#[derive(Parser)]
#[command(name = "heartlined", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// TOML file with the same names as the flags (dashes may be underscores)
    #[arg(long, value_name = "FILE", env = "HEARTLINE_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration, print it as a file, and exit
    #[arg(long)]
    check_config: bool,
    /// Take over from the engine that runs on the same --state: its sockets, its memory, and what
    /// waits in its queues
    #[arg(long)]
    replace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    warn_of_unknown_variables();
    let config = match configure(&arguments) {
        Ok(config) => config,
        Err(reason) => {
            eprintln!("heartlined: {reason}");
            return ExitCode::from(2);
        }
    };
    let result = if arguments.check_config {
        say(&config.to_file()).map_err(Failure::Failed)
    } else {
        serve(&config, &arguments)
    };
    let (code, reason) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(reason)) => (ExitCode::from(2), reason),
        Err(Failure::Failed(reason)) => (ExitCode::FAILURE, reason),
    };
    eprintln!("heartlined: {reason}");
    code
}

/// Why it ended, and with which exit code.
enum Failure {
    /// What it was given is wrong.
    Usage(String),
    /// Anything else.
    Failed(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        if error.is_usage() {
            Self::Usage(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// Container platforms set such variables for services of this name, so they are no error; but a
/// misspelt setting should not go unseen.
fn warn_of_unknown_variables() {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("HEARTLINE_") && !Options::VARIABLES.contains(&name)
        }) {
            eprintln!(
                "heartlined: the environment variable {} is not a setting and is ignored",
                name.display()
            );
        }
    }
}

fn configure(arguments: &Arguments) -> Result<Config, ConfigError> {
    let file = match &arguments.config {
        Some(path) => Options::from_file(path)?,
        None => Options::default(),
    };
    arguments.options.clone().or(file).check()
}

fn say(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {error}"))
}

fn serve(config: &Config, arguments: &Arguments) -> Result<(), Failure> {
    // First of all: descriptors that were promised and are not there would be taken by what is
    // opened next.
    let mut inherited = manager::sockets().map_err(|error| {
        format!("sockets of the service manager, descriptors from 3 on (LISTEN_FDS): {error}")
    })?;
    let strays = close_strays(&mut inherited, &config.listen)?;
    if !strays.is_empty() {
        eprintln!(
            "heartlined: sockets in the service manager's store that are none of --listen are closed: {strays:?}"
        );
        manager::empty_store(&strays);
    }
    // Before the engine: a signal that comes while it starts stops it in order, too.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| format!("catching signals: {error}"))?;
    }
    let signals = Signals::catch().map_err(|error| format!("catching signals: {error}"))?;
    let started = if arguments.replace {
        Engine::replace(config, inherited, &stop)
    } else {
        Engine::start_on(config, inherited, &stop)
    };
    let mut engine = match started {
        Ok(engine) => engine,
        Err(StartError::Region(RegionError::Cancelled)) => return Ok(()),
        Err(StartError::Bind(error)) => return Err(error.into()),
        Err(error) => return Err(error.to_string().into()),
    };
    // Who is not listening to this line still has a running engine.
    let _ = say(&ready(config, &engine));
    for notice in engine.notices() {
        eprintln!("heartlined: {notice}");
    }
    if let Some(failures) = engine.take_failures() {
        std::thread::spawn(move || {
            failures.iter().for_each(|failure| eprintln!("heartlined: {failure}"))
        });
    }
    // The kernel counts its own bookkeeping, too, and doubles what it is asked for (socket(7)).
    if engine.receive_queue_bytes() / 2 < config.receive_buffer {
        eprintln!(
            "heartlined: the kernel granted receive buffers of {} of {} bytes; run with CAP_NET_ADMIN or raise net.core.rmem_max",
            engine.receive_queue_bytes() / 2,
            config.receive_buffer
        );
    }
    Ok(manager::serve(engine, signals, || configure(arguments).map_err(|error| error.to_string()))?)
}

fn ready(config: &Config, engine: &Engine) -> String {
    let listen: Vec<String> =
        engine.addresses().iter().map(|address| format!("udp://{address}")).collect();
    format!(
        "heartlined {} ready: {}, {} loops on CPUs {:?}, capacity {} leases, {:.1} MiB memory, {:.1} MiB receive buffer a socket{}{}\n",
        env!("CARGO_PKG_VERSION"),
        listen.join(" "),
        engine.cores().len(),
        engine.cores(),
        config.capacity,
        engine.memory_bytes() as f64 / f64::from(1 << 20),
        engine.receive_queue_bytes() as f64 / f64::from(2 << 20),
        if engine.coalesces() { ", GRO" } else { "" },
        if engine.resumed() > 0 {
            format!(", {} leases go on", engine.resumed())
        } else {
            String::new()
        },
    )
}
