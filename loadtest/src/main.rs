//! heartline-loadtest: load for an engine, and what became of it. Exit codes: 0 fine, 1 failed, 2 wrong usage.

mod compare;
mod live;
mod machine;
mod restart;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Load generator for heartline.
#[derive(Parser)]
#[command(name = "heartline-loadtest", version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Register instances, beat them on schedule, let some die, and see when the engine finds out
    Live(live::Options),
    /// Engine CPU time for each datagram and beat beside a bare recvmmsg sink, in interleaved pairs
    Compare(compare::Options),
    /// Fill heartlined, kill it, replace it, stop it, start it from its snapshot, and take the time of each
    Restart(restart::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().scenario {
        Scenario::Live(options) => live::run(&options),
        Scenario::Compare(options) => compare::run(&options),
        Scenario::Restart(options) => restart::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("heartline-loadtest: {reason}");
            ExitCode::FAILURE
        }
    }
}
