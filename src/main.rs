//! heartlined: the engine as a daemon. Exit codes: 0 fine, 1 failed, 2 wrong usage.

use clap::Parser;
use heartline::{Config, Engine, Options};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::PathBuf;
use std::process::ExitCode;

/// The heartline engine: UDP heartbeats in, who is alive out.
///
/// Flags win over environment variables (HEARTLINE_ and the flag's name), these over the file, the file over the defaults.
#[derive(Parser)]
#[command(name = "heartlined", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// TOML file with the same names as the flags
    #[arg(long, value_name = "FILE", env = "HEARTLINE_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration, say what it comes to, and exit
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match configure(&arguments) {
        Ok(config) => config,
        Err(reason) => {
            eprintln!("heartlined: {reason}");
            return ExitCode::from(2);
        }
    };
    if arguments.check_config {
        println!("{config:#?}");
        return ExitCode::SUCCESS;
    }
    match serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("heartlined: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn configure(arguments: &Arguments) -> Result<Config, String> {
    if let Some((unknown, _)) = std::env::vars_os()
        .find(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("HEARTLINE_") && !Options::VARIABLES.contains(&name)))
    {
        return Err(format!("environment: {unknown:?} is not a setting; known are {}", Options::VARIABLES.join(", ")));
    }
    let file = match &arguments.config {
        Some(path) => Options::from_file(path).map_err(|error| error.to_string())?,
        None => Options::default(),
    };
    arguments.options.clone().or(file).check().map_err(|error| error.to_string())
}

fn serve(config: &Config) -> Result<(), String> {
    // Before the threads: a signal that comes while the engine starts stops it in order, too.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| format!("catching signals: {error}"))?;
    let engine = Engine::start(config).map_err(|error| error.to_string())?;
    let listen: Vec<String> = engine.addresses().iter().map(|address| format!("udp://{address}")).collect();
    println!(
        "heartlined {} ready: {}, {} loops on CPUs {:?}, capacity {} leases, {:.1} MiB memory, {:.1} MiB receive queue a socket{}",
        env!("CARGO_PKG_VERSION"),
        listen.join(" "),
        engine.cores().len(),
        engine.cores(),
        config.capacity,
        engine.memory_bytes() as f64 / f64::from(1 << 20),
        engine.receive_queue_bytes() as f64 / f64::from(1 << 20),
        if engine.coalesces() { ", GRO" } else { "" },
    );
    // The kernel doubles what it is asked for, to cover its own bookkeeping (socket(7)).
    if engine.receive_queue_bytes() / 2 < config.receive_buffer {
        eprintln!(
            "heartlined: the kernel granted receive buffers of {} of {} bytes; run with CAP_NET_ADMIN or raise net.core.rmem_max",
            engine.receive_queue_bytes() / 2,
            config.receive_buffer
        );
    }
    signals.forever().next();
    engine.join();
    Ok(())
}
