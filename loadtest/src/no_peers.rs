//! Where peers are not compiled, their goals and subcommands say so.

use crate::lab::Lab;
use crate::report::{Goal, Outputs};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Pairs of runs for each ratio
    #[arg(long)]
    pairs: Option<u32>,
    #[command(flatten)]
    outputs: Outputs,
}

fn missing<T>() -> Result<T, String> {
    Err("compiled without peers; build with --features peers".into())
}

pub(crate) fn run(_: &str, _: &Options) -> Result<(), String> {
    missing()
}

pub(crate) fn stores(_: &mut Lab) -> Result<Vec<Goal>, String> {
    missing()
}

pub(crate) fn datagram_servers(_: &mut Lab) -> Result<Vec<Goal>, String> {
    missing()
}

pub(crate) fn tokio_server() -> Result<(), String> {
    missing()
}
