//! heartlined: the engine as a daemon. Exit codes: 0 fine, 1 failed, 2 wrong usage.

mod manager;
mod options;
mod serve;
mod signals;
mod text;

use heartline::upgrade;
use heartline::upgrade::{BindError, close_strays};
use heartline::{Config, Engine, StartError};
use heartline_region::RegionError;
use options::{Options, in_flags};
use signals::Signals;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    warn_of_unknown_variables();
    let config = options.config().map_err(Failure::Usage);
    let result = config.and_then(|config| {
        if options.is_check() { Ok(say(&text::file(&config))?) } else { run(&config, &options) }
    });
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
        let reason = in_flags(&error.to_string());
        if error.is_usage() { Self::Usage(reason) } else { Self::Failed(reason) }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Bind(error) => error.into(),
            StartError::StateInUse(_) => {
                Self::Failed(in_flags(&format!("{error}, or let --replace take over from it")))
            }
            _ => Self::Failed(in_flags(&error.to_string())),
        }
    }
}

/// Container platforms set such variables for services of this name, so they are no error; but a
/// misspelt setting should not go unseen.
fn warn_of_unknown_variables() {
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("HEARTLINE_") && !options::is_variable(name))
        {
            eprintln!(
                "heartlined: the environment variable {} is not a setting and is ignored",
                name.display()
            );
        }
    }
}

fn say(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {error}"))
}

fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    // First of all: descriptors that were promised and are not there would be taken by what is
    // opened next.
    let mut inherited = manager::sockets().map_err(|error| {
        format!("sockets of the service manager, descriptors from 3 on (LISTEN_FDS): {error}")
    })?;
    let strays = close_strays(&mut inherited, &config.listen)?;
    if !strays.is_empty() {
        eprintln!(
            "heartlined: sockets in the service manager's store that are none of --listen are \
             closed: {strays:?}"
        );
        manager::empty_store(&strays);
    }
    // Before the engine: a signal that comes while it starts stops it in order, too.
    let (signals, stop) = Signals::catch().map_err(|error| format!("catching signals: {error}"))?;
    let builder = Engine::builder(config).cancelled(&stop).inherited(inherited);
    let started = if options.replaces() { upgrade::replace(builder) } else { builder.start() };
    let mut engine = match started {
        Err(StartError::Region(RegionError::Cancelled)) => return Ok(()),
        started => started?,
    };
    // The engine runs, also when this line can't be written.
    let _ = say(&ready(config, &engine));
    for notice in engine.notices() {
        eprintln!("heartlined: {}", in_flags(notice));
    }
    if let Some(failures) = engine.take_failures() {
        std::thread::spawn(move || {
            failures.for_each(|failure| eprintln!("heartlined: {}", in_flags(&failure)));
        });
    }
    // The kernel counts its own bookkeeping, too, and doubles what it is asked for (socket(7)).
    if engine.receive_queue_bytes() / 2 < config.receive_buffer {
        eprintln!(
            "heartlined: the kernel granted receive buffers of {} of {} bytes; run with \
             CAP_NET_ADMIN or raise net.core.rmem_max",
            engine.receive_queue_bytes() / 2,
            config.receive_buffer
        );
    }
    Ok(serve::serve(engine, signals, || options.config())?)
}

fn ready(config: &Config, engine: &Engine) -> String {
    let listen: Vec<String> =
        engine.addresses().iter().map(|address| format!("udp://{address}")).collect();
    format!(
        "heartlined {} ready: {}, {} loops on CPUs {:?}, capacity {} leases, {:.1} MiB memory, \
         {:.1} MiB receive buffer a socket{}{}\n",
        env!("CARGO_PKG_VERSION"),
        listen.join(" "),
        engine.cores().len(),
        engine.cores(),
        config.capacity,
        engine.memory_bytes() as f64 / f64::from(1 << 20),
        engine.receive_queue_bytes() as f64 / f64::from(2 << 20),
        if engine.coalesces() { ", GRO" } else { "" },
        match engine.resumed() {
            0 => String::new(),
            1 => ", 1 lease goes on".into(),
            leases => format!(", {leases} leases go on"),
        },
    )
}
