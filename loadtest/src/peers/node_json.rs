//! A Node.js server: JSON beats over UDP into a `Map`, looked through every second.

use super::{INSTANCES, Process, Server, first_line, start, version};
use crate::population::{DEPTH, open_socket, send_all};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// One beat or an array of beats in a datagram; how many it has taken is answered to whatever is no
/// JSON.
const PROGRAM: &str = r#"
const seen = new Map();
let taken = 0;
const socket = require('dgram').createSocket({ type: 'udp4', recvBufferSize: 4194304 });
const take = (beat) => { seen.set(beat.service + '/' + beat.instance, { at: Date.now(), ttl: beat.ttl, load: beat.load }); taken += 1; };
socket.on('message', (message, from) => {
  if (message[0] === 63) return socket.send(String(taken), from.port, from.address);
  const beats = JSON.parse(message);
  if (Array.isArray(beats)) beats.forEach(take); else take(beats);
});
setInterval(() => { const now = Date.now(); for (const [key, beat] of seen) if (now - beat.at > beat.ttl) seen.delete(key); }, 1000);
process.stdin.on('end', () => process.exit()).resume();
socket.bind(0, '127.0.0.1', () => console.log(socket.address().port));
"#;

pub(super) struct Node {
    process: Process,
    pub(super) version: String,
    socket: UdpSocket,
    beats: Vec<String>,
    at: usize,
}

impl Node {
    pub(super) fn start(cpu: usize) -> Result<Self, String> {
        const INSTALL: &str = "apt-get install nodejs";
        let version = format!("Node.js {}", version("node", "--version", INSTALL)?);
        let mut process = start(cpu, "node", &["-e", PROGRAM], INSTALL)?;
        let port: u16 =
            first_line(&mut process)?.parse().map_err(|_| "node did not say its port")?;
        let socket =
            open_socket(([127, 0, 0, 1], port).into()).map_err(|error| error.to_string())?;
        let beat = |number| {
            format!(
                r#"{{"service":"svc-{}","instance":"i-{number}","ttl":30000,"load":7,"sequence":12345}}"#,
                number % 100
            )
        };
        Ok(Self { process, version, socket, beats: (0..INSTANCES).map(beat).collect(), at: 0 })
    }

    /// What it has taken so far; asked again until it answers, since questions wait behind beats
    /// and may be lost with them.
    fn taken(&self) -> Result<u64, String> {
        let mut buffer = [0; 64];
        while self.socket.recv(&mut buffer).is_ok() {}
        for _ in 0..100 {
            let _ = self.socket.send(b"?");
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_millis(100) {
                if let Ok(length) = self.socket.recv(&mut buffer) {
                    return String::from_utf8_lossy(&buffer[..length])
                        .parse()
                        .map_err(|_| "node answered no number".into());
                }
            }
        }
        Err("node does not answer".into())
    }
}

impl Server for Node {
    fn load(&mut self, time: Duration, batch: usize) -> Result<u64, String> {
        let before = self.taken()?;
        let begin = Instant::now();
        while begin.elapsed() < time {
            let frames: Vec<String> = (0..DEPTH)
                .map(|_| {
                    let first = if self.at + batch > self.beats.len() { 0 } else { self.at };
                    self.at = first + batch;
                    let beats = &self.beats[first..first + batch];
                    if batch == 1 { beats[0].clone() } else { format!("[{}]", beats.join(",")) }
                })
                .collect();
            send_all(&self.socket, &frames).map_err(|error| error.to_string())?;
        }
        Ok(self.taken()? - before)
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }
}
