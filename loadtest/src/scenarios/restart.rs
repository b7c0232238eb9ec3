//! What a restart costs: `heartlined` as a process of its own is filled, killed, stopped, replaced
//! and started again, and the time is taken.

use crate::bed::Bed;
use crate::machine;
use crate::population::{Wanted, register};
use crate::report::{Outputs, Row, median};
use clap::Args;
use heartline::internals::clock;
use heartline::internals::snapshot::{Disk, Reader, Sizes};
use heartline_region::{Geometry, Place, Region, Run};
use heartline_wire::{Beat, Header, Kind, Lease, header_flags};
use rustix::process::{Pid, Signal, kill_process};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Instances to register
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    instances: u32,
    /// Services they are of
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    services: u32,
    /// How often each thing is done
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The daemon [default: heartlined beside this program]
    #[arg(long)]
    program: Option<PathBuf>,
    /// Directory on a disk for the snapshot [default: the temporary directory]
    #[arg(long)]
    disk: Option<PathBuf>,
    #[command(flatten)]
    outputs: Outputs,
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin("restart")?;
    report.rows = of(options)?.rows;
    options.outputs.finish(report)
}

/// A million leases, everything done so often.
pub(crate) fn measure(rounds: u32) -> Result<Figures, String> {
    of(&Options {
        instances: 1_000_000,
        services: 1000,
        rounds,
        program: None,
        disk: None,
        outputs: Outputs::default(),
    })
}

/// What a run showed.
#[derive(Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
    /// From the start after a kill to being ready: median.
    pub(crate) ready_ms: f64,
    /// The longest time without an answer while one replaces another: median.
    pub(crate) silence_ms: f64,
    /// Loading a snapshot with a thread for each CPU, and reading as many bytes with one, in turns.
    pub(crate) loads_ms: Vec<(f64, f64)>,
    /// The same, both on one CPU.
    pub(crate) loads_on_one_ms: Vec<(f64, f64)>,
}

impl Figures {
    /// Adds a row; returns the median.
    fn add(&mut self, what: &str, times: &mut [f64]) -> f64 {
        let middle = median(times);
        self.rows.push(Row::new(what, middle, "ms"));
        self.rows.push(Row::new(
            format!("{what}, longest"),
            times.last().copied().unwrap_or(f64::NAN),
            "ms",
        ));
        middle
    }
}

fn of(options: &Options) -> Result<Figures, String> {
    let place = PathBuf::from(format!("/dev/shm/heartline-restart-{}", std::process::id()));
    let disk = options
        .disk
        .clone()
        .unwrap_or_else(std::env::temp_dir)
        .join(format!("heartline-restart-{}.snapshot", std::process::id()));
    let result =
        Restart::new(options, place.clone(), disk.clone()).and_then(|restart| restart.run());
    let _ = std::fs::remove_dir_all(place);
    let _ = std::fs::remove_file(disk);
    result.map_err(|error| error.to_string())
}

struct Restart<'a> {
    options: &'a Options,
    program: PathBuf,
    state: PathBuf,
    snapshot: PathBuf,
    cpu: usize,
    listen: SocketAddr,
}

/// A daemon that is ready.
struct Daemon {
    child: Child,
    ready_after: Duration,
    line: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Restart<'a> {
    fn new(
        options: &'a Options,
        state: PathBuf,
        snapshot: PathBuf,
    ) -> Result<Self, Box<dyn Error>> {
        let beside = std::env::current_exe()?.with_file_name("heartlined");
        let program = options.program.clone().unwrap_or(beside);
        if !program.exists() {
            return Err(format!(
                "{} is not there; build it with: cargo build --release --workspace",
                program.display()
            )
            .into());
        }
        let cpus = machine::cpus();
        let cpu = *cpus.first().ok_or("no CPU to run on")?;
        // The daemon listens on the same port in every round: below those that the kernel gives to
        // others meanwhile (`ip_local_port_range`).
        let free = |port: &u16| UdpSocket::bind(("127.0.0.1", *port)).is_ok();
        let from = 10_000 + (std::process::id() % 20_000) as u16;
        let listen =
            SocketAddr::from(([127, 0, 0, 1], (from..32_000).find(free).ok_or("no port is free")?));
        Ok(Self { options, program, state, snapshot, cpu, listen })
    }

    fn start(&self, more: &[&str]) -> Result<Daemon, Box<dyn Error>> {
        let begin = Instant::now();
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .arg("--state")
            .arg(&self.state)
            .arg("--snapshot")
            .arg(&self.snapshot)
            .args(more)
            .stdout(Stdio::piped());
        command.args(["--listen", &self.listen.to_string(), "--cores", &self.cpu.to_string()]);
        let mut child =
            command.args(["--capacity", &self.options.instances.max(1024).to_string()]).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        if line.is_empty() {
            return Err("the daemon did not start".into());
        }
        Ok(Daemon { child, ready_after: begin.elapsed(), line })
    }

    fn run(self) -> Result<Figures, Box<dyn Error>> {
        let mut figures = Figures::default();
        let mut daemon = self.start(&[])?;
        let begin = Instant::now();
        let (instances, services) = (self.options.instances, self.options.services);
        let wanted = Wanted::new(instances, services, "restart");
        let leases = apart(|| register(&mut Bed::elsewhere(self.listen)?, &wanted))??;
        figures.rows.push(Row::new(
            "registrations a second",
            f64::from(instances) / begin.elapsed().as_secs_f64(),
            "",
        ));
        let mut times = Vec::new();
        for _ in 0..self.options.rounds {
            daemon.child.kill()?;
            daemon.child.wait()?;
            daemon = self.start(&[])?;
            self.check(&daemon)?;
            times.push(ms(daemon.ready_after));
        }
        figures.ready_ms = figures.add("started after a kill, ready after", &mut times);
        let (mut silences, mut times) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            let (next, silence) = self.replace(daemon, &leases)?;
            self.check(&next)?;
            times.push(ms(next.ready_after));
            silences.push(ms(silence));
            daemon = next;
        }
        figures.silence_ms = figures.add("replaced: longest time without an answer", &mut silences);
        figures.add("replaced: new program ready after", &mut times);
        let mut times = Vec::new();
        let mut stops = Vec::new();
        for _ in 0..self.options.rounds {
            let begin = Instant::now();
            kill_process(Pid::from_child(&daemon.child), Signal::TERM)?;
            daemon.child.wait()?;
            stops.push(ms(begin.elapsed()));
            std::fs::remove_dir_all(&self.state)?;
            daemon = self.start(&[])?;
            self.check(&daemon)?;
            times.push(ms(daemon.ready_after));
        }
        figures.add("stopped, last snapshot included, after", &mut stops);
        figures.add("started from the snapshot, ready after", &mut times);
        drop(daemon);
        figures.loads_ms = self.load_beside_read(&mut figures, "")?;
        let on_one = machine::pinned(self.cpu, || {
            self.load_beside_read(&mut figures, ", on one CPU").map_err(|error| error.to_string())
        })?;
        figures.loads_on_one_ms = on_one;
        Ok(figures)
    }

    fn check(&self, daemon: &Daemon) -> Result<(), Box<dyn Error>> {
        let leases = format!("{} leases go on", self.options.instances);
        if daemon.line.contains(&leases) {
            Ok(())
        } else {
            Err(format!("leases were lost: {}", daemon.line).into())
        }
    }

    /// Replaces the daemon while a thread beats a thousand times a second and listens for the
    /// answers.
    fn replace(
        &self,
        mut old: Daemon,
        leases: &[Lease],
    ) -> Result<(Daemon, Duration), Box<dyn Error>> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let listening = scope.spawn(|| apart(|| longest_silence(self.listen, leases, &stop)));
            std::thread::sleep(Duration::from_millis(100));
            let next = self.start(&["--replace"]);
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Relaxed);
            let silence = listening.join().map_err(|_| "the listener failed")???;
            let next = next?;
            old.child.wait()?;
            Ok((next, silence))
        })
    }

    /// Loading the file into a region that is there, beside reading the same bytes with `read`, in
    /// interleaved pairs.
    fn load_beside_read(
        &self,
        figures: &mut Figures,
        place: &str,
    ) -> Result<Vec<(f64, f64)>, Box<dyn Error>> {
        let mut pairs = Vec::new();
        let file = File::open(&self.snapshot)?;
        let geometry = Geometry::new(
            self.options.instances.max(1024),
            heartline::internals::limits::ATTRIBUTES_BYTES_DEFAULT,
        );
        let half = Sizes::new(&geometry).file_bytes() / 2;
        for _ in 0..self.options.rounds {
            let (region, writer) = Region::create(
                &Place::Scratch,
                geometry.clone(),
                Run::default(),
                &AtomicBool::new(false),
            )?;
            let read = read_half(&file, half)?;
            let begin = Instant::now();
            let loaded =
                Reader::open(&file)?.load(&region, &writer, clock::now())?.ok_or("no edition")?;
            let load = begin.elapsed();
            if loaded.leases != self.options.instances {
                return Err(format!("{} leases are in the snapshot", loaded.leases).into());
            }
            pairs.push((ms(load), ms(read)));
        }
        figures.add(
            &format!("snapshot loaded into a region{place}, in"),
            &mut pairs.iter().map(|pair| pair.0).collect::<Vec<_>>(),
        );
        figures.add(
            &format!("as many bytes read{place}, in"),
            &mut pairs.iter().map(|pair| pair.1).collect::<Vec<_>>(),
        );
        let ratio = median(&mut pairs.iter().map(|pair| pair.0 / pair.1).collect::<Vec<_>>());
        figures.rows.push(Row::new(format!("ratio{place}"), ratio, ""));
        Ok(pairs)
    }
}

/// As many bytes as one half of the file has, a MiB at a time.
fn read_half(file: &File, bytes: u64) -> Result<Duration, Box<dyn Error>> {
    let mut buffer = vec![0; 1 << 20];
    let begin = Instant::now();
    for start in (0..bytes).step_by(buffer.len()) {
        let length = buffer.len().min((bytes - start) as usize);
        file.read_at(&mut buffer[..length], start)?;
    }
    Ok(begin.elapsed())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs work on a thread pinned to the last CPU; the daemon has the first. Children inherit the
/// CPUs of the thread that starts them, so only threads of their own are pinned.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, &'static str> {
    let pinned = || {
        machine::cpus().last().copied().inspect(|&cpu| machine::pin(cpu));
        work()
    };
    std::thread::scope(|scope| scope.spawn(pinned).join()).map_err(|_| "a thread failed")
}

/// Beats for one lease after another, a thousand times a second, and wants an answer each time.
fn longest_silence(
    target: SocketAddr,
    leases: &[Lease],
    stop: &AtomicBool,
) -> Result<Duration, std::io::Error> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    let (mut longest, mut last, mut buffer) = (Duration::ZERO, Instant::now(), [0; 2048]);
    // Sequences go on from round to round.
    let mut sequence = (clock::now() / clock::NANOS_PER_MS) as u32;
    while !stop.load(Relaxed) {
        sequence += 1;
        let beat = Beat {
            lease: leases[sequence as usize % leases.len()],
            sequence: U32::new(sequence),
            load: U16::ZERO,
            flags: U16::ZERO,
        };
        let mut header = Header::request(Kind::Beat, u64::from(sequence));
        (header.count, header.flags) = (U16::new(1), header_flags::ACK_WANTED);
        socket.send(&[header.as_bytes(), beat.as_bytes()].concat())?;
        std::thread::sleep(Duration::from_millis(1));
        while socket.recv(&mut buffer).is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    Ok(longest.max(last.elapsed()))
}
