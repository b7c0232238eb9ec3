//! What bounds any engine here: the kernel's receive path, an echo, its timer, and memory. Each as
//! small as it can be.

use crate::machine;
use crate::report::histogram;
use hdrhistogram::Histogram;
use heartline::internals::exchange::{Replies, Requester};
use heartline::internals::limits::{
    DOZE_MESSAGES_MIN, DOZE_NS, FRAME_BYTES_MAX, GROUP_BEATS, HEADER_BYTES, RECEIVE_BATCH,
    RECEIVE_QUEUE_BYTES_DEFAULT,
};
use heartline::internals::net::{ReceiveBatch, SendBatch, Socket, bind_group};
use heartline_region::Tally;
use heartline_region::prefetch;
use heartline_wire::{Header, Kind, Status};
use memmap2::{Advice, MmapMut};
use mio::unix::SourceFd;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use rustix::thread::set_current_timer_slack;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::hint::black_box;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// What a [`Responder`] does with what it receives, always with the engine's socket, batches and
/// buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Counts and forgets; epoll wakes it for whatever comes.
    Sink,
    /// The same, but sleeps for a set time after each receive that brought several, as an engine
    /// that dozes.
    DozingSink,
    /// Answers what is no beat with a reply of so many bytes.
    Echo(usize),
}

/// A thread that receives, and does little else.
pub(crate) struct Responder {
    /// Where it listens.
    pub(crate) target: SocketAddr,
    shared: Arc<Counts>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    datagrams: AtomicU64,
    tid: AtomicU32,
}

impl Responder {
    /// Starts one on a CPU.
    pub(crate) fn start(cpu: usize, floor: Floor) -> Result<Self, String> {
        let mut group = bind_group(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            1,
            RECEIVE_QUEUE_BYTES_DEFAULT,
            &mut Vec::new(),
        )
        .map_err(|error| error.to_string())?;
        let target = group[0].local_addr().map_err(|error| error.to_string())?;
        let shared = Arc::new(Counts::default());
        let counts = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            machine::pin(cpu);
            counts.tid.store(machine::thread_id(), Relaxed);
            respond(&mut group, floor, &counts)
        });
        while shared.tid.load(Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { target, shared, thread: Some(thread) })
    }

    /// Datagrams that it has received, and the CPU time that it has used, in nanoseconds.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.datagrams.load(Relaxed), machine::thread_cpu_ns(self.shared.tid.load(Relaxed)))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        // One last datagram wakes the thread, so that it sees the flag.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[0], self.target));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Poll, recvmmsg, count, answer with sendmmsg.
fn respond(sockets: &mut [Socket], floor: Floor, counts: &Counts) -> std::io::Result<()> {
    let mut poll = mio::Poll::new()?;
    let fd = sockets[0].as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), mio::Token(0), mio::Interest::READABLE)?;
    let (mut events, mut batch) = (mio::Events::with_capacity(1), ReceiveBatch::default());
    let (mut replies, mut send, mut tally) =
        (Replies::default(), SendBatch::default(), Tally::default());
    let body = [0; FRAME_BYTES_MAX];
    let mut datagrams = 0;
    if floor == Floor::DozingSink {
        set_current_timer_slack(NonZeroU64::new(1))?;
    }
    while !counts.stop.load(Relaxed) {
        let received = batch.receive(&sockets[0])?;
        for message in batch.messages(0) {
            match floor {
                Floor::Sink | Floor::DozingSink => {
                    datagrams += message.bytes.len().div_ceil(message.segment.max(1)).max(1) as u64
                }
                Floor::Echo(length) => {
                    for bytes in message.datagrams() {
                        datagrams += 1;
                        let Ok((header, _)) = Header::ref_from_prefix(bytes) else { continue };
                        if header.kind != Kind::Beat as u8 {
                            let to = Requester {
                                peer: message.peer,
                                tag: header.tag,
                                budget: FRAME_BYTES_MAX as u16,
                            };
                            let kind = Kind::from_u8(header.kind).unwrap_or(Kind::Discover);
                            let reply = Header::reply(kind, Status::Ok, 0, header.tag);
                            replies.put(&to, reply, &[&body[..length - HEADER_BYTES]]);
                            if replies.is_full() {
                                send.send(&mut replies, sockets, &mut tally);
                            }
                        }
                    }
                }
            }
        }
        if !replies.is_empty() {
            send.send(&mut replies, sockets, &mut tally);
        }
        counts.datagrams.store(datagrams, Relaxed);
        if received == RECEIVE_BATCH {
            continue;
        }
        if floor == Floor::DozingSink && received as u64 >= DOZE_MESSAGES_MIN {
            let _ = rustix::event::poll(
                &mut [],
                Some(&Timespec { tv_sec: 0, tv_nsec: DOZE_NS as i64 }),
            );
        } else {
            let _ = poll.poll(&mut events, None);
        }
    }
    Ok(())
}

/// Sends a datagram to each address, in calls of so many, every `gap`, so many times, from a thread
/// on a CPU. Returns how many the kernel took, and the thread's CPU time in nanoseconds.
pub(crate) fn bare_sends(
    cpu: usize,
    addresses: &[SocketAddr],
    datagram: &[u8],
    batch: usize,
    (rounds, gap): (u32, Duration),
) -> Result<(u64, u64), String> {
    machine::pin(cpu);
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let addresses: Vec<SocketAddrAny> =
        addresses.iter().map(|&address| SocketAddrAny::from(address)).collect();
    let slices = [IoSlice::new(datagram)];
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        addresses.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<MMsgHdr<'_>> = addresses
        .iter()
        .zip(&mut controls)
        .map(|(address, control)| MMsgHdr::new_with_addr(address, &slices, control))
        .collect();
    let (begin, cpu_before, mut sent) = (Instant::now(), machine::own_cpu_ns(), 0);
    for round in 0..rounds {
        std::thread::sleep((gap * round).saturating_sub(begin.elapsed()));
        for batch in messages.chunks_mut(batch) {
            let taken = sendmmsg(&socket, batch, SendFlags::empty());
            sent += taken.map_err(|error| error.to_string())? as u64;
        }
    }
    Ok((sent, machine::own_cpu_ns() - cpu_before))
}

/// How late a bare `timerfd` wakes a thread on a CPU: nanoseconds after each of the times that lie
/// [`TIMER_NS`] apart, whether or not it was awake for the one before.
pub(crate) fn timer_lateness(cpu: usize, time: Duration) -> Result<Histogram<u64>, String> {
    machine::pinned(cpu, || timer_loop(time).map_err(|error| error.to_string()))
}

fn timer_loop(time: Duration) -> std::io::Result<Histogram<u64>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty())?;
    let mut lateness = histogram();
    let mut at = heartline::internals::clock::now();
    let end = at + time.as_nanos() as u64;
    while at < end {
        at += TIMER_NS;
        let value =
            Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        rustix::io::read(&timer, &mut [0; 8])?;
        let now = heartline::internals::clock::now();
        let _ = lateness.record(now.saturating_sub(at));
        // A thread that sleeps through a time is late for it.
        while at + TIMER_NS <= now {
            at += TIMER_NS;
            let _ = lateness.record(now - at);
        }
    }
    Ok(lateness)
}

/// A millisecond and a bit, so that the times fall differently into the kernel's ticks.
const TIMER_NS: u64 = 1_037_000;

/// Words of a line as large as a heart line.
const LINE_WORDS: usize = 8;

/// An array of lines to store to at random.
pub(crate) struct LineWalk {
    memory: MmapMut,
    order: Vec<u32>,
    random: SmallRng,
}

impl LineWalk {
    /// As many lines as a heart file for so many leases has, each touched once; on huge pages where
    /// that is asked for and the kernel has them.
    pub(crate) fn new(lines: usize, huge: bool) -> Result<Self, String> {
        let mut memory =
            MmapMut::map_anon(lines * LINE_WORDS * 8).map_err(|error| error.to_string())?;
        // Advice: without huge pages the walk takes the longer.
        let _ = memory.advise(if huge { Advice::HugePage } else { Advice::NoHugePage });
        memory.fill(1);
        Ok(Self { memory, order: vec![0; 1 << 21], random: SmallRng::seed_from_u64(3) })
    }

    /// Nanoseconds a store: random lines, prefetched in groups as the engine does or not.
    pub(crate) fn walk(&mut self, prefetched: bool) -> f64 {
        let lines = (self.memory.len() / (LINE_WORDS * 8)) as u32;
        // Another order each time: lines that were stored to before may still be in a cache.
        self.order.iter_mut().for_each(|at| *at = self.random.random_range(0..lines));
        let words: &[AtomicU64] =
            <[AtomicU64]>::mut_from_bytes(&mut self.memory).expect("a mapping is aligned");
        let line = |at: u32| &words[at as usize * LINE_WORDS];
        let begin = Instant::now();
        for group in self.order.chunks(GROUP_BEATS) {
            if prefetched {
                group.iter().for_each(|&at| prefetch(line(at)));
            }
            group.iter().for_each(|&at| line(at).store(u64::from(at), Relaxed));
        }
        black_box(words);
        begin.elapsed().as_nanos() as f64 / self.order.len() as f64
    }
}
