//! Redis and memcached: a pipeline of commands over TCP, and their answers read back.

use super::{INSTANCES, Process, Server, connect, free_port, start, version};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Redis with persistence off (redis.io/docs: `save ""`, `appendonly no`).
pub(super) struct Redis {
    process: Process,
    pub(super) version: String,
    pipeline: Pipeline,
}

/// memcached with one thread.
pub(super) struct Memcached {
    process: Process,
    pub(super) version: String,
    pipeline: Pipeline,
}

/// Connections that have one command under way each, when commands go one at a time: as many as
/// redis-benchmark has by default.
const CONNECTIONS: usize = 50;

/// Connections, the commands in turn, and what one answer is.
struct Pipeline {
    streams: Vec<TcpStream>,
    commands: Vec<Vec<u8>>,
    answer: &'static [u8],
    at: usize,
}

impl Redis {
    pub(super) fn start(cpu: usize) -> Result<Self, String> {
        const INSTALL: &str = "apt-get install redis-server";
        let version = version("redis-server", "--version", INSTALL)?
            .split(" sha")
            .next()
            .unwrap_or_default()
            .replace("server v=", "");
        let port = free_port()?;
        let arguments = [
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
            "--dir",
            "/tmp",
        ];
        let process = start(cpu, "redis-server", &arguments, INSTALL)?;
        let command = |number| {
            let key = format!("svc-{}/i-{number}", number % 100);
            format!(
                "*5\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$1\r\n1\r\n$2\r\nPX\r\n$5\r\n30000\r\n",
                key.len()
            )
            .into_bytes()
        };
        let streams = (0..CONNECTIONS).map(|_| connect(port)).collect::<Result<_, _>>()?;
        let pipeline = Pipeline {
            streams,
            commands: (0..INSTANCES).map(command).collect(),
            answer: b"+OK\r\n",
            at: 0,
        };
        Ok(Self { process, version, pipeline })
    }
}

impl Memcached {
    pub(super) fn start(cpu: usize) -> Result<Self, String> {
        const INSTALL: &str = "apt-get install memcached";
        let version = version("memcached", "-V", INSTALL)?;
        let port = free_port()?;
        // One thread, as there is one CPU; as root it wants to be told that root is meant.
        let process = start(
            cpu,
            "memcached",
            &["-p", &port.to_string(), "-l", "127.0.0.1", "-t", "1", "-u", "root"],
            INSTALL,
        )?;
        let key = |number| format!("svc-{}/i-{number}", number % 100);
        let mut stream = connect(port)?;
        for number in 0..INSTANCES {
            let set = format!("set {} 0 30 1\r\n1\r\n", key(number));
            stream.write_all(set.as_bytes()).map_err(|error| error.to_string())?;
            expect(&mut stream, b"STORED\r\n", 1)?;
        }
        let commands = (0..INSTANCES)
            .map(|number| format!("touch {} 30\r\n", key(number)).into_bytes())
            .collect();
        Ok(Self {
            process,
            version,
            pipeline: Pipeline { streams: vec![stream], commands, answer: b"TOUCHED\r\n", at: 0 },
        })
    }
}

impl Server for Redis {
    fn load(&mut self, time: Duration, batch: usize) -> Result<u64, String> {
        self.pipeline.load(time, batch)
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

impl Server for Memcached {
    fn load(&mut self, time: Duration, batch: usize) -> Result<u64, String> {
        self.pipeline.load(time, batch)
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

impl Pipeline {
    /// One batch after the other, each written at once and its answers awaited; single commands on
    /// all connections at once.
    fn load(&mut self, time: Duration, batch: usize) -> Result<u64, String> {
        let connections = if batch == 1 { self.streams.len() } else { 1 };
        let (begin, mut done, mut buffer) = (Instant::now(), 0, Vec::new());
        while begin.elapsed() < time {
            for stream in &mut self.streams[..connections] {
                buffer.clear();
                for _ in 0..batch {
                    buffer.extend_from_slice(&self.commands[self.at]);
                    self.at = (self.at + 1) % self.commands.len();
                }
                stream.write_all(&buffer).map_err(|error| error.to_string())?;
            }
            for stream in &mut self.streams[..connections] {
                expect(stream, self.answer, batch)?;
                done += batch as u64;
            }
        }
        Ok(done)
    }
}

/// Reads so many answers, each of which must be this one.
fn expect(stream: &mut TcpStream, answer: &[u8], count: usize) -> Result<(), String> {
    let mut got = vec![0; answer.len() * count];
    stream.read_exact(&mut got).map_err(|error| error.to_string())?;
    match got.chunks(answer.len()).find(|chunk| *chunk != answer) {
        Some(other) => Err(format!("an unexpected answer: {}", String::from_utf8_lossy(other))),
        None => Ok(()),
    }
}
