//! Other servers at the same work: accept a beat, know who is silent. Each on the engine's CPU,
//! with its persistence off, per second of its CPU time.

mod etcd;
mod node_json;
mod stores;
mod tokio_map;

use crate::bed::Bed;
use crate::goals::{Lab, engine_cost};
use crate::machine::{self, Machine, Steal};
use crate::population::{Beats, Wanted, register};
use crate::report::{Goal, Outputs, Report};
use clap::Args;
use std::cell::RefCell;
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
trait Server {
    /// Beats for a time, in batches of so many; returns how many the server said it took, or is
    /// known to have taken.
    fn load(&mut self, time: Duration, batch: usize) -> Result<u64, String>;
    /// Its process.
    fn pid(&self) -> u32;
}

/// What a peer is measured at.
struct Match {
    id: &'static str,
    /// Name and version.
    name: String,
    what: &'static str,
    /// Beats in one of its messages, and in one of our datagrams.
    batch: usize,
    ours: usize,
    goal: f64,
    gives: &'static str,
}

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
    options.outputs.check()?;
    let (engine_cpu, generator_cpu) = machine::two_cpus()?;
    let mut lab = Lab { engine_cpu, generator_cpu, pairs: options.pairs, charts: Vec::new() };
    let steal = Steal::read();
    let goals = match name {
        "redis" => redis(&mut lab)?,
        "memcached" => memcached(&mut lab)?,
        "etcd" => etcd(&mut lab)?,
        "node-json" => node_json(&mut lab)?,
        _ => tokio_map(&mut lab)?,
    };
    let (machine, command) = (Machine::read(&steal), crate::command_line());
    Report {
        title: format!("heartline beside {name}"),
        machine,
        command,
        rows: Vec::new(),
        goals,
        charts: Vec::new(),
    }
    .finish(&options.outputs)
}

/// P1, P2, P3: stores with expiry. Those that are not installed are left out, and it is said how to
/// install them.
pub(crate) fn stores(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    Ok([redis(lab), memcached(lab), etcd(lab)].into_iter().flat_map(or_say).collect())
}

/// P4, P5: servers of the same datagrams.
pub(crate) fn datagram_servers(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    Ok([node_json(lab), tokio_map(lab)].into_iter().flat_map(or_say).collect())
}

fn or_say(goals: Result<Vec<Goal>, String>) -> Vec<Goal> {
    goals.unwrap_or_else(|reason| {
        eprintln!("heartline-loadtest: not measured: {reason}");
        Vec::new()
    })
}

fn redis(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let server = stores::Redis::start(lab.engine_cpu)?;
    let gives = "replication, persistence (off here), any data, authentication";
    let with = |what, batch, goal| Match {
        id: "P1",
        name: server.version.clone(),
        what,
        batch,
        ours: batch.min(50),
        goal,
        gives,
    };
    let matches = [
        with("SET PX, 64 in a pipeline", 64, 50.0),
        with("SET PX, 50 connections with one command each", 1, 10.0),
    ];
    compete(lab, server, &matches)
}

fn memcached(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let server = stores::Memcached::start(lab.engine_cpu)?;
    let gives = "any data, eviction; expiry is noticed when a key is read";
    let matches = [Match {
        id: "P2",
        name: server.version.clone(),
        what: "touch, 50 in a pipeline",
        batch: 50,
        ours: 50,
        goal: 20.0,
        gives,
    }];
    compete(lab, server, &matches)
}

fn etcd(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let server = etcd::Etcd::start(lab.engine_cpu)?;
    let gives = "consensus, durability, transactions, watches, authentication";
    let name = server.version.clone();
    let matches = [Match {
        id: "P3",
        name,
        what: "lease keep-alive, 50 under way",
        batch: 50,
        ours: 50,
        goal: 500.0,
        gives,
    }];
    compete(lab, server, &matches)
}

fn node_json(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let server = node_json::Node::start(lab.engine_cpu)?;
    let gives = "beats that a person can read";
    let with = |what, batch, goal| Match {
        id: "P4",
        name: server.version.clone(),
        what,
        batch,
        ours: batch,
        goal,
        gives,
    };
    // As for tokio: the second goal is ours with 50 beats a datagram beside theirs with one, as
    // such registries speak.
    let matches = [
        with("JSON beats into a Map, one a datagram", 1, 2.0),
        Match {
            ours: 50,
            ..with("JSON beats into a Map, one a datagram, beside ours with 50", 1, 50.0)
        },
    ];
    compete(lab, server, &matches)
}

fn tokio_map(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let server = tokio_map::Tokio::start(lab.engine_cpu)?;
    let gives = "nothing more; a hundred lines to write";
    let with = |what, batch, goal| Match {
        id: "P5",
        name: "tokio 1".into(),
        what,
        batch,
        ours: batch,
        goal,
        gives,
    };
    // The second goal is ours with 50 beats a datagram beside theirs with one, as such a server is
    // written.
    let matches = [
        with("beats into a Mutex<HashMap>, one a datagram", 1, 1.3),
        Match {
            ours: 50,
            ..with("beats into a Mutex<HashMap>, one a datagram, beside ours with 50", 1, 20.0)
        },
    ];
    compete(lab, server, &matches)
}

pub(crate) fn tokio_server() -> Result<(), String> {
    tokio_map::serve().map_err(|error| error.to_string())
}

/// Ours and a peer in turns.
fn compete(
    lab: &mut Lab,
    server: impl Server + Send,
    matches: &[Match],
) -> Result<Vec<Goal>, String> {
    let mut bed = Bed::start(16_384, lab.engine_cpu, &[])?;
    let wanted = Wanted {
        instances: INSTANCES,
        services: 100,
        ttl: Duration::from_secs(3600),
        prefix: "peer",
    };
    let leases = register(&mut bed, &wanted)?;
    let beats = RefCell::new(Beats::new(bed.target, leases, 1)?);
    let (server, cpu) = (RefCell::new(server), lab.generator_cpu);
    let mut goals = Vec::new();
    for one in matches {
        beats.borrow_mut().set_batch(one.ours);
        let pairs = lab.pairs(
            || {
                let beats = &mut *beats.borrow_mut();
                machine::pinned(cpu, || engine_cost(&mut bed, beats, RUN))
                    .map(|cost| cost.beats_per_second)
            },
            || {
                let server = &mut *server.borrow_mut();
                machine::pinned(cpu, || per_cpu_second(server, one.batch))
            },
        )?;
        let what = format!("beats a CPU second / {}", one.what);
        let goal =
            Goal::ratio(one.id, what, "", &pairs, one.goal).at_least().against(one.name.clone());
        goals.push(
            Goal { peer: Some(one.name.clone()), ..goal }
                .note(format!("gives what heartline does not: {}", one.gives)),
        );
    }
    Ok(goals)
}

fn per_cpu_second(server: &mut impl Server, batch: usize) -> Result<f64, String> {
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

/// A port that nobody listens on now.
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
