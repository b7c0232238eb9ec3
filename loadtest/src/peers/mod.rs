//! Other servers at the same work: they accept beats and know which instances are silent. Each runs
//! on the engine's CPU with its persistence off, and counts by the second of its CPU time.

mod datagrams;
mod etcd;
mod stores;

pub(crate) use datagrams::serve as tokio_server;

use crate::bed::Bed;
use crate::cost::engine_cost;
use crate::lab::Lab;
use crate::machine;
use crate::population::{Beats, Wanted, register};
use crate::report::{Goal, Outputs};
use clap::Args;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long each run of a pair takes.
const RUN: Duration = Duration::from_millis(700);
/// Instances that beat.
const INSTANCES: u32 = 10_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Pairs of runs for each ratio
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
    #[command(flatten)]
    outputs: Outputs,
}

/// A server under load. It ends with this value.
trait Server: Send {
    /// Name and version.
    fn name(&self) -> &str;
    /// Beats for a time, in batches of so many; returns how many the server said it took, or is
    /// known to have taken.
    fn load(&mut self, time: Duration, batch: usize) -> Result<u64, String>;
    /// Its process.
    fn pid(&self) -> u32;
}

/// A peer, and what it is measured at.
struct Peer {
    id: &'static str,
    start: fn(cpu: usize) -> Result<Box<dyn Server>, String>,
    /// Its work for a beat; beats in one of its messages, and in one of our datagrams; the goal.
    matches: &'static [(&'static str, usize, usize, f64)],
    gives: &'static str,
}

const PEERS: [(&str, Peer); 5] = [
    (
        "redis",
        Peer {
            id: "P1",
            start: stores::redis,
            matches: &[
                ("SET PX, 64 in a pipeline", 64, 50, 50.0),
                ("SET PX, 50 connections with one command each", 1, 1, 10.0),
            ],
            gives: "replication, persistence (off here), any data, authentication",
        },
    ),
    (
        "memcached",
        Peer {
            id: "P2",
            start: stores::memcached,
            matches: &[("touch, 50 in a pipeline", 50, 50, 20.0)],
            gives: "any data, eviction; expiry is noticed when a key is read",
        },
    ),
    (
        "etcd",
        Peer {
            id: "P3",
            start: etcd::start,
            matches: &[("lease keep-alive, 50 under way", 50, 50, 500.0)],
            gives: "consensus, durability, transactions, watches, authentication",
        },
    ),
    // The second goals of P4 and P5 are ours with 50 beats a datagram beside theirs with one: such
    // registries and servers are written that way.
    (
        "node-json",
        Peer {
            id: "P4",
            start: datagrams::node_json,
            matches: &[
                ("JSON beats into a Map, one a datagram", 1, 1, 2.0),
                ("JSON beats into a Map, one a datagram, beside ours with 50", 1, 50, 50.0),
            ],
            gives: "beats that a person can read",
        },
    ),
    (
        "tokio-map",
        Peer {
            id: "P5",
            start: datagrams::tokio_map,
            matches: &[
                ("beats into a Mutex<HashMap>, one a datagram", 1, 1, 1.3),
                ("beats into a Mutex<HashMap>, one a datagram, beside ours with 50", 1, 50, 20.0),
            ],
            gives: "nothing more; a hundred lines to write",
        },
    ),
];

/// A process of ours, killed and waited for when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One peer alone.
pub(crate) fn run(name: &str, options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin(format!("heartline beside {name}"))?;
    let peer = PEERS.iter().find(|peer| peer.0 == name).ok_or("there is no such peer")?;
    report.goals = compete(&Lab::new(options.pairs)?, &peer.1)?;
    options.outputs.finish(report)
}

/// P1, P2, P3: stores with expiry.
pub(crate) fn stores(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    Ok(all(lab, &PEERS[..3]))
}

/// P4, P5: servers of the same datagrams.
pub(crate) fn datagram_servers(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    Ok(all(lab, &PEERS[3..]))
}

/// Those that are not installed are left out, and it is said how to install them.
fn all(lab: &Lab, peers: &[(&str, Peer)]) -> Vec<Goal> {
    let goals = peers.iter().flat_map(|(_, peer)| {
        compete(lab, peer).unwrap_or_else(|reason| {
            eprintln!("heartline-loadtest: not measured: {reason}");
            Vec::new()
        })
    });
    goals.collect()
}

/// Ours and a peer in turns.
fn compete(lab: &Lab, peer: &Peer) -> Result<Vec<Goal>, String> {
    let mut server = (peer.start)(lab.engine_cpu)?;
    let mut bed = Bed::start(16_384, lab.engine_cpu, &[])?;
    let leases = register(&mut bed, &Wanted::new(INSTANCES, 100, "peer"))?;
    let mut beats = Beats::new(bed.target, leases, 1)?;
    let name = server.name().to_owned();
    let mut goals = Vec::new();
    for &(what, theirs, ours, goal) in peer.matches {
        beats.set_batch(ours);
        let pairs = lab.pairs(
            &mut (&mut beats, &mut server),
            |(beats, _)| engine_cost(&mut bed, beats).map(|cost| cost.beats_per_second),
            |(_, server)| per_cpu_second(&mut ***server, theirs),
        )?;
        let what = format!("beats a CPU second / {what}");
        let goal = Goal::ratio(peer.id, what, "", &pairs, goal).at_least().against(name.clone());
        let note = format!("gives what heartline does not: {}", peer.gives);
        goals.push(Goal { peer: Some(name.clone()), ..goal }.note(note));
    }
    Ok(goals)
}

fn per_cpu_second(server: &mut dyn Server, batch: usize) -> Result<f64, String> {
    let before = machine::process_cpu_ns(server.pid());
    let beats = server.load(RUN, batch)?;
    Ok(beats as f64 / ((machine::process_cpu_ns(server.pid()) - before) as f64 / 1e9))
}

/// Starts a program on a CPU, with nothing of ours in its environment but the path.
fn start(cpu: usize, program: &str, arguments: &[&str], install: &str) -> Result<Process, String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    match machine::pinned(cpu, || command.spawn()) {
        Ok(child) => Ok(Process(child)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("{program} is not installed; {install}"))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// What a program says of its version, on one line.
fn version(program: &str, argument: &str, install: &str) -> Result<String, String> {
    match Command::new(program).arg(argument).output() {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()),
        Err(_) => Err(format!("{program} is not installed; {install}")),
    }
}

/// The first line that a program prints.
fn first_line(process: &mut Process) -> Result<String, String> {
    let mut line = String::new();
    let output = process.0.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
    Ok(line.trim().to_owned())
}

/// A port without a listener.
fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| error.to_string())
}

/// Connects once the server listens.
fn connect(port: u16) -> Result<TcpStream, String> {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                return Ok(stream);
            }
            Err(error) if begin.elapsed() > Duration::from_secs(10) => {
                return Err(error.to_string());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
