//! Servers of beats over UDP. A Node.js one keeps JSON beats in a `Map`, looked through every
//! second. One as one writes it with tokio has `UdpSocket`, `recv_from`, a `Mutex<HashMap>`, and a
//! task that looks for the silent.

use super::{INSTANCES, Process, Server, first_line, start, version};
use crate::bed::spawn;
use crate::socket::{DEPTH, open_socket, receive, send_all};
use heartline::internals::limits::FRAME_BYTES_MAX;
use heartline_wire::{Beat, Header, Kind, Request};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// A server that answers a question mark with how many beats it has taken, in decimal digits.
struct Datagrams {
    process: Process,
    version: String,
    socket: UdpSocket,
    /// One beat each.
    frames: Vec<Vec<u8>>,
    at: usize,
}

impl Datagrams {
    fn connect(
        process: Process,
        version: String,
        target: SocketAddr,
        frame: impl Fn(u32) -> Vec<u8>,
    ) -> Result<Box<dyn Server>, String> {
        let (socket, frames) = (open_socket(target)?, (0..INSTANCES).map(frame).collect());
        Ok(Box::new(Self { process, version, socket, frames, at: 0 }))
    }

    /// What it has taken so far; asked again until it answers, since questions wait behind beats
    /// and may be lost with them.
    fn taken(&self) -> Result<u64, String> {
        let mut buffer = [0; 64];
        while receive(&self.socket, &mut buffer)?.is_some() {}
        for _ in 0..100 {
            send_all(&self.socket, &[b"?"])?;
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_millis(100) {
                if let Some(length) = receive(&self.socket, &mut buffer)? {
                    let answer = String::from_utf8_lossy(&buffer[..length]);
                    return answer.parse().map_err(|_| "the server answered no number".into());
                }
            }
        }
        Err("the server does not answer".into())
    }
}

impl Server for Datagrams {
    fn name(&self) -> &str {
        &self.version
    }

    fn load(&mut self, time: Duration, _: usize) -> Result<u64, String> {
        let before = self.taken()?;
        let begin = Instant::now();
        while begin.elapsed() < time {
            let end = (self.at + DEPTH).min(self.frames.len());
            send_all(&self.socket, &self.frames[self.at..end])?;
            self.at = end % self.frames.len();
        }
        Ok(self.taken()? - before)
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// One beat or an array of beats in a datagram; a question mark is answered with how many it took.
const PROGRAM: &str = r#"
const seen = new Map();
let taken = 0;
const socket = require('dgram').createSocket({ type: 'udp4', recvBufferSize: 4194304 });
const take = (beat) => {
  seen.set(beat.service + '/' + beat.instance, { at: Date.now(), ttl: beat.ttl, load: beat.load });
  taken += 1;
};
socket.on('message', (message, from) => {
  if (message[0] === 63) return socket.send(String(taken), from.port, from.address);
  const beats = JSON.parse(message);
  if (Array.isArray(beats)) beats.forEach(take); else take(beats);
});
setInterval(() => {
  const now = Date.now();
  for (const [key, beat] of seen) if (now - beat.at > beat.ttl) seen.delete(key);
}, 1000);
process.stdin.on('end', () => process.exit()).resume();
socket.bind(0, '127.0.0.1', () => console.log(socket.address().port));
"#;

pub(super) fn node_json(cpu: usize) -> Result<Box<dyn Server>, String> {
    const INSTALL: &str = "apt-get install nodejs";
    let version = format!("Node.js {}", version("node", "--version", INSTALL)?);
    let mut process = start(cpu, "node", &["-e", PROGRAM], INSTALL)?;
    let port: u16 = first_line(&mut process)?.parse().map_err(|_| "node did not say its port")?;
    Datagrams::connect(process, version, ([127, 0, 0, 1], port).into(), |number| {
        let (service, instance) = (format!("svc-{}", number % 100), format!("i-{number}"));
        let names = format!(r#""service":"{service}","instance":"{instance}""#);
        format!(r#"{{{names},"ttl":30000,"load":7,"sequence":12345}}"#).into_bytes()
    })
}

pub(super) fn tokio_map(cpu: usize) -> Result<Box<dyn Server>, String> {
    let (child, target) = spawn(cpu, &["tokio-server"])?;
    Datagrams::connect(Process(child), "tokio 1".into(), target, |slot| {
        let mut beat = Beat { sequence: U32::new(1), ..Beat::new_zeroed() };
        (beat.lease.slot, beat.lease.generation) = (U32::new(slot), U32::new(1));
        let header = Header { count: U16::new(1), ..Header::request(Kind::Beat, 0) };
        [header.as_bytes(), beat.as_bytes()].concat()
    })
}

/// The tokio server; it ends with its standard input.
pub(crate) fn serve() -> Result<(), String> {
    std::thread::spawn(|| {
        let _ = io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    runtime.and_then(|runtime| runtime.block_on(serve_forever())).map_err(|error| error.to_string())
}

async fn serve_forever() -> io::Result<()> {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM.nonblocking(), None)?;
    socket.set_recv_buffer_size(16 << 20)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let socket = tokio::net::UdpSocket::from_std(socket.into())?;
    println!("{}", socket.local_addr()?);
    let seen: Arc<Mutex<HashMap<u64, (Instant, u32)>>> = Arc::default();
    let silent = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            silent
                .lock()
                .expect("no thread panics with the lock")
                .retain(|_, (at, _)| at.elapsed() < Duration::from_secs(30));
        }
    });
    tokio::spawn(async move {
        let (mut buffer, mut taken) = ([0; FRAME_BYTES_MAX], 0_u64);
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            match Request::decode(&buffer[..length]) {
                Ok(Request::Beat(_, beats)) => {
                    let mut seen = seen.lock().expect("no thread panics with the lock");
                    for beat in beats {
                        let slot = u64::from(beat.lease.slot.get());
                        seen.insert(slot, (Instant::now(), beat.sequence.get()));
                    }
                    taken += beats.len() as u64;
                }
                // Whatever else: how many it has taken.
                _ => drop(socket.send_to(taken.to_string().as_bytes(), from).await?),
            }
        }
    })
    .await?
}
