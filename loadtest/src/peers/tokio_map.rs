//! A server as one writes it with tokio: `UdpSocket`, `recv_from`, a `Mutex<HashMap>`, and a task
//! that looks for the silent.

use super::{INSTANCES, Process, Server};
use crate::bed::spawn;
use crate::population::{DEPTH, open_socket, send_all};
use heartline::limits::FRAME_BYTES_MAX;
use heartline::wire::{Beat, Header, Kind, Request};
use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The server; it ends with its standard input.
pub(super) fn serve() -> io::Result<()> {
    std::thread::spawn(|| {
        let _ = io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(receive())
}

async fn receive() -> io::Result<()> {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM.nonblocking(), None)?;
    socket.set_recv_buffer_size(16 << 20)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let socket = tokio::net::UdpSocket::from_std(socket.into())?;
    println!("{}", socket.local_addr()?);
    let seen: Arc<Mutex<HashMap<u64, (Instant, u32)>>> = Arc::default();
    let silent = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            silent
                .lock()
                .expect("nobody panics with it")
                .retain(|_, (at, _)| at.elapsed() < Duration::from_secs(30));
        }
    });
    tokio::spawn(async move {
        let (mut buffer, mut taken) = ([0; FRAME_BYTES_MAX], 0_u64);
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            match Request::decode(&buffer[..length]) {
                Ok(Request::Beat(_, beats)) => {
                    let mut seen = seen.lock().expect("nobody panics with it");
                    for beat in beats {
                        seen.insert(
                            u64::from(beat.lease.slot.get()),
                            (Instant::now(), beat.sequence.get()),
                        );
                    }
                    taken += beats.len() as u64;
                }
                // Whatever else: how many it has taken.
                _ => drop(socket.send_to(&taken.to_le_bytes(), from).await?),
            }
        }
    })
    .await?
}

pub(super) struct Tokio {
    process: Process,
    socket: UdpSocket,
    frames: Vec<Vec<u8>>,
    at: usize,
}

impl Tokio {
    pub(super) fn start(cpu: usize) -> Result<Self, String> {
        let (child, target) = spawn(cpu, &["tokio-server"])?;
        let socket = open_socket(target).map_err(|error| error.to_string())?;
        let frame = |slot: u32| {
            let mut beat = Beat { sequence: U32::new(1), ..Beat::new_zeroed() };
            beat.lease.slot = U32::new(slot);
            beat.lease.generation = U32::new(1);
            [
                Header { count: U16::new(1), ..Header::request(Kind::Beat, 0) }.as_bytes(),
                beat.as_bytes(),
            ]
            .concat()
        };
        Ok(Self {
            process: Process(child),
            socket,
            frames: (0..INSTANCES).map(frame).collect(),
            at: 0,
        })
    }

    fn taken(&self) -> Result<u64, String> {
        let mut buffer = [0; 8];
        while self.socket.recv(&mut buffer).is_ok() {}
        for _ in 0..100 {
            let _ = self.socket.send(b"?");
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_millis(100) {
                if self.socket.recv(&mut buffer).is_ok() {
                    return Ok(u64::from_le_bytes(buffer));
                }
            }
        }
        Err("the tokio server does not answer".into())
    }
}

impl Server for Tokio {
    fn load(&mut self, time: Duration, _: usize) -> Result<u64, String> {
        let before = self.taken()?;
        let begin = Instant::now();
        while begin.elapsed() < time {
            let end = (self.at + DEPTH).min(self.frames.len());
            send_all(&self.socket, &self.frames[self.at..end])
                .map_err(|error| error.to_string())?;
            self.at = end % self.frames.len();
        }
        Ok(self.taken()? - before)
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }
}
