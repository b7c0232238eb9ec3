//! heartline-loadtest: load for an engine, what became of it, and how it compares. Exit codes: 0
//! fine, 1 failed, 2 wrong usage.

mod bed;
mod drive;
mod floors;
mod goals;
mod machine;
mod peers;
mod population;
mod report;
mod scenarios;
mod target;

use clap::{Parser, Subcommand};
use scenarios::{flood, live, massacre, restart, single, traffic};
use std::process::ExitCode;

/// Load generator and measuring instrument for heartline.
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
    /// Search the highest rate of beats at which none is lost
    Flood(flood::Options),
    /// Ask for endpoints at a rate, and take the time of the answers
    Discover(traffic::Options),
    /// Beats, questions and registrations side by side
    Mixed(traffic::Options),
    /// Instances that come and go at a rate
    Churn(traffic::Options),
    /// The mixture for half an hour, with snapshots
    Soak(traffic::Options),
    /// How late the engine finds the dead of a population, beside a bare timer
    Detect(single::DetectOptions),
    /// All but one in a hundred fall silent at once
    Massacre(massacre::Options),
    /// Fill heartlined, kill it, replace it, stop it, start it from its snapshot, and take the time
    /// of each
    Restart(restart::Options),
    /// Floor: CPU time of a bare recvmmsg loop for each datagram
    Sink(single::FloorOptions),
    /// Floor: round trips to a bare loop that answers
    Echo(single::FloorOptions),
    /// Floor: how late a timerfd wakes a thread
    Timer(single::FloorOptions),
    /// Floor: stores to random lines of an array
    Linewalk(single::FloorOptions),
    /// Peer: Redis, SET with an expiry
    Redis(peers::Options),
    /// Peer: memcached, touch
    Memcached(peers::Options),
    /// Peer: etcd, lease keep-alive
    Etcd(peers::Options),
    /// Peer: a Node.js server that keeps JSON beats in a Map
    NodeJson(peers::Options),
    /// Peer: a tokio server that keeps beats in a locked HashMap
    TokioMap(peers::Options),
    /// Everything of docs/PERFORMANCE.md: goal, ours, floor, ratio, met or not
    Goals(goals::Options),
    /// An engine that ends with its standard input
    #[command(hide = true)]
    Engine(bed::EngineOptions),
    /// The tokio server of the peer, that ends with its standard input
    #[command(hide = true)]
    TokioServer,
}

/// The command that ran, for reports.
pub(crate) fn command_line() -> String {
    std::env::args().skip(1).fold("heartline-loadtest".to_owned(), |line, word| line + " " + &word)
}

fn main() -> ExitCode {
    let result = match Arguments::parse().scenario {
        Scenario::Live(options) => live::run(&options),
        Scenario::Flood(options) => flood::run(&options),
        Scenario::Discover(options) => traffic::run(traffic::DISCOVER, &options),
        Scenario::Mixed(options) => traffic::run(traffic::MIXED, &options),
        Scenario::Churn(options) => traffic::run(traffic::CHURN, &options),
        Scenario::Soak(options) => traffic::run(traffic::SOAK, &options),
        Scenario::Detect(options) => single::detect(&options),
        Scenario::Massacre(options) => massacre::run(&options),
        Scenario::Restart(options) => restart::run(&options),
        Scenario::Sink(options) => single::sink(&options),
        Scenario::Echo(options) => single::echo(&options),
        Scenario::Timer(options) => single::timer(&options),
        Scenario::Linewalk(options) => single::linewalk(&options),
        Scenario::Redis(options) => peers::run("redis", &options),
        Scenario::Memcached(options) => peers::run("memcached", &options),
        Scenario::Etcd(options) => peers::run("etcd", &options),
        Scenario::NodeJson(options) => peers::run("node-json", &options),
        Scenario::TokioMap(options) => peers::run("tokio-map", &options),
        Scenario::Goals(options) => goals::run(&options),
        Scenario::Engine(options) => bed::serve(options),
        Scenario::TokioServer => peers::tokio_server(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("heartline-loadtest: {reason}");
            ExitCode::FAILURE
        }
    }
}
