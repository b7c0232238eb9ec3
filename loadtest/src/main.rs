//! heartline-loadtest loads an engine, and compares it with floors and peers. Exit codes: 0 fine, 1
//! failed, 2 wrong usage.

mod agents;
mod bed;
mod cost;
mod crowd;
mod drive;
mod floors;
mod goals;
mod lab;
mod machine;
mod mortal;
#[cfg(feature = "peers")]
mod peers;
#[cfg(not(feature = "peers"))]
#[path = "no_peers.rs"]
mod peers;
mod population;
mod report;
mod scenarios;
mod socket;
mod target;

use clap::{Parser, Subcommand};
use scenarios::{detect, flood, live, massacre, memory, restart, traffic};
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
    Detect(detect::Options),
    /// All but one in a hundred fall silent at once
    Massacre(massacre::Options),
    /// Fill heartlined, kill it, replace it, stop it, start it from its snapshot, and take the time
    /// of each
    Restart(restart::Options),
    /// An engine's parts without sockets: beats applied, names looked up and inserted, in memory
    Memory(memory::Options),
    /// Floors: a bare recvmmsg loop, an echo, a timer, stores to random lines
    Floors(scenarios::floors::Options),
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
    /// An agent that ends with its standard input
    #[command(hide = true)]
    Agent(agents::AgentOptions),
    /// An instance that dies with its process
    #[command(hide = true)]
    Mortal(mortal::MortalOptions),
    /// The tokio server of the peer, that ends with its standard input
    #[command(hide = true)]
    TokioServer,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().scenario {
        Scenario::Live(options) => live::run(&options),
        Scenario::Flood(options) => flood::run(&options),
        Scenario::Discover(options) => traffic::run(traffic::DISCOVER, &options),
        Scenario::Mixed(options) => traffic::run(traffic::MIXED, &options),
        Scenario::Churn(options) => traffic::run(traffic::CHURN, &options),
        Scenario::Soak(options) => traffic::run(traffic::SOAK, &options),
        Scenario::Detect(options) => detect::run(&options),
        Scenario::Massacre(options) => massacre::run(&options),
        Scenario::Restart(options) => restart::run(&options),
        Scenario::Memory(options) => memory::run(&options),
        Scenario::Floors(options) => scenarios::floors::run(&options),
        Scenario::Redis(options) => peers::run("redis", &options),
        Scenario::Memcached(options) => peers::run("memcached", &options),
        Scenario::Etcd(options) => peers::run("etcd", &options),
        Scenario::NodeJson(options) => peers::run("node-json", &options),
        Scenario::TokioMap(options) => peers::run("tokio-map", &options),
        Scenario::Goals(options) => goals::run(&options),
        Scenario::Engine(options) => bed::serve(options),
        Scenario::Agent(options) => agents::serve(&options),
        Scenario::Mortal(options) => mortal::serve(&options),
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
