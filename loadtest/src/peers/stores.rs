//! Redis and memcached: a pipeline of commands over TCP, and their answers read back.

use super::{INSTANCES, Process, Server, connect, free_port, start, version};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Connections that have one command under way each, when commands go one at a time: as many as
/// redis-benchmark has by default.
const CONNECTIONS: usize = 50;

/// A server, connections to it, the commands in turn, and what one answer is.
struct Store {
    process: Process,
    version: String,
    streams: Vec<TcpStream>,
    commands: Vec<Vec<u8>>,
    answer: &'static [u8],
    at: usize,
}

fn key(number: u32) -> String {
    format!("svc-{}/i-{number}", number % 100)
}

/// Redis with persistence off (redis.io/docs: `save ""`, `appendonly no`).
pub(super) fn redis(cpu: usize) -> Result<Box<dyn Server>, String> {
    const INSTALL: &str = "apt-get install redis-server";
    let said = version("redis-server", "--version", INSTALL)?;
    let version = said.split(" sha").next().unwrap_or_default().replace("server v=", "");
    let port = free_port()?;
    let listen = ["--port", &port.to_string(), "--bind", "127.0.0.1"];
    let store = ["--save", "", "--appendonly", "no", "--dir", "/tmp"];
    let process = start(cpu, "redis-server", &[&listen[..], &store].concat(), INSTALL)?;
    let command = |number| {
        let (key, length) = (key(number), key(number).len());
        let set = format!("*5\r\n$3\r\nSET\r\n${length}\r\n{key}\r\n$1\r\n1\r\n");
        (set + "$2\r\nPX\r\n$5\r\n30000\r\n").into_bytes()
    };
    let streams = (0..CONNECTIONS).map(|_| connect(port)).collect::<Result<_, _>>()?;
    let commands = (0..INSTANCES).map(command).collect();
    Ok(Box::new(Store { process, version, streams, commands, answer: b"+OK\r\n", at: 0 }))
}

/// memcached with one thread.
pub(super) fn memcached(cpu: usize) -> Result<Box<dyn Server>, String> {
    const INSTALL: &str = "apt-get install memcached";
    let version = version("memcached", "-V", INSTALL)?;
    let port = free_port()?;
    // One thread, as there is one CPU; as root it wants to be told that root is meant.
    let arguments = ["-p", &port.to_string(), "-l", "127.0.0.1", "-t", "1", "-u", "root"];
    let process = start(cpu, "memcached", &arguments, INSTALL)?;
    let mut stream = connect(port)?;
    for number in 0..INSTANCES {
        let set = format!("set {} 0 30 1\r\n1\r\n", key(number));
        stream.write_all(set.as_bytes()).map_err(|error| error.to_string())?;
        expect(&mut stream, b"STORED\r\n", 1)?;
    }
    let touch = |number| format!("touch {} 30\r\n", key(number)).into_bytes();
    let commands = (0..INSTANCES).map(touch).collect();
    let streams = vec![stream];
    Ok(Box::new(Store { process, version, streams, commands, answer: b"TOUCHED\r\n", at: 0 }))
}

impl Server for Store {
    fn name(&self) -> &str {
        &self.version
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }

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
