//! A round of beats allocates nothing, however many leases beat.

use heartline_client::Instance;
use heartline_client::proto::{LinkId, Machine, Output};
use heartline_wire::time::{NANOS_PER_SECOND, Nanos, from_ms};
use heartline_wire::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

/// Counts all allocations; there is one test here, and one thread that does anything.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system allocator; counting touches an atomic only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LEASES: u32 = 5_000;

/// The bytes of the reply to a request, in a buffer: an engine that allocates nothing.
struct Echo {
    reply: [u8; 64],
    granted: u32,
}

impl Echo {
    fn answer(&mut self, frame: &[u8]) -> Option<usize> {
        match Request::decode(frame).unwrap() {
            Request::Hello(header) => {
                let mut welcome = Welcome::new_zeroed();
                (welcome.cookie, welcome.epoch) = (1.into(), 1.into());
                welcome.cookie_ms = 60_000.into();
                Some(self.compose(Kind::Hello, header, welcome.as_bytes()))
            }
            Request::Register(header, body, _) => {
                self.granted += 1;
                let mut granted = Granted::new_zeroed();
                granted.lease.slot = self.granted.into();
                granted.lease.generation = 1.into();
                (granted.epoch, granted.ttl_ms) = (1.into(), body.ttl_ms);
                (granted.interval_us, granted.phase_us) = (750_000.into(), 750_000.into());
                Some(self.compose(Kind::Register, header, granted.as_bytes()))
            }
            Request::Beat(header, beats) => {
                if header.flags & header_flags::ACK_WANTED == 0 {
                    return None;
                }
                let mut ack = Ack::new_zeroed();
                (ack.epoch, ack.accepted) = (1.into(), (beats.len() as u16).into());
                (ack.interval_us, ack.phase_us) = (750_000.into(), 700_000.into());
                Some(self.compose(Kind::Beat, header, ack.as_bytes()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn compose(&mut self, kind: Kind, to: &Header, body: &[u8]) -> usize {
        let header = Header { count: U16::ZERO, ..Header::reply(kind, Status::Ok, 0, to.tag) };
        self.reply[..16].copy_from_slice(header.as_bytes());
        self.reply[16..16 + body.len()].copy_from_slice(body);
        16 + body.len()
    }
}

fn run(machine: &mut Machine, echo: &mut Echo, from: Nanos, to: Nanos) -> u64 {
    let (mut now, mut beats) = (from, 0);
    while now < to {
        let answered = match machine.poll(now) {
            Output::Send { frame, .. } => {
                if frame[3] == Kind::Beat as u8 {
                    beats += u64::from(frame[4]);
                }
                echo.answer(frame)
            }
            Output::Open { link } => {
                machine.opened(now, link, IpAddr::V4(Ipv4Addr::LOCALHOST));
                None
            }
            Output::Wait { until } => {
                now = until;
                None
            }
            Output::Event(..) | Output::Resolve { .. } | Output::Granted { .. } => None,
        };
        if let Some(bytes) = answered {
            machine.receive(now, LinkId(0), &echo.reply[..bytes]);
        }
    }
    beats
}

#[test]
fn a_round_of_beats_allocates_nothing() {
    let mut machine = Machine::new(&["engine".into()], 1, [1, 2]);
    let mut echo = Echo { reply: [0; 64], granted: 0 };
    for number in 0..LEASES {
        machine.register(&Instance::new("s", 80).name(&format!("i{number}"))).unwrap();
    }
    let settled = 10 * NANOS_PER_SECOND;
    run(&mut machine, &mut echo, from_ms(1), settled);
    assert_eq!(echo.granted, LEASES);
    let before = ALLOCATIONS.load(Relaxed);
    let beats = run(&mut machine, &mut echo, settled, settled + 30 * NANOS_PER_SECOND);
    let after = ALLOCATIONS.load(Relaxed);
    assert!(beats >= u64::from(LEASES) * 39, "{beats} beats");
    assert_eq!(after - before, 0, "allocations in {beats} beats");
}
