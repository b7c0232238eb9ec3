//! The files of a former engine, damaged.

use crate::Input;
use crossbeam::queue::ArrayQueue;
use heartline::internals::clock::{Moment, Span, from_ms};
use heartline::internals::dataplane::{Cookies, Datagram, Dataplane};
use heartline::internals::exchange::Replies;
use heartline::internals::registrar::{Observed, Registrar};
use heartline_region::{
    Choice, Geometry, Place, Record, Region, Run, ServiceNumber, View, boot_id,
};
use heartline_test_support::{peer, settings};
use heartline_wire::{
    Describe, Discover, Endpoint, Header, Kind, Label, Name, Services, Slot, StatsRequest,
    service_id,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of an event in the feed.
const EVENT_BYTES: usize = 64;
/// Pages from the one before the directory to the last one before the feed.
const TABLE_PAGES: usize = 11;

/// Files with a service and an instance, in which bytes are changed, or which are cut short:
/// attaching refuses them, or a reader of what they hold now gets an answer, right or wrong.
///
/// Each piece of the input is 6 bytes: which file and where (32 bits), and what is written there
/// (16 bits). The last odd piece cuts.
pub fn attach(data: &[u8]) {
    let directory = PathBuf::from(format!(
        "/dev/shm/heartline-fuzz-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&directory).expect("a directory on /dev/shm");
    prepare(&directory);
    let mut input = Input::new(data);
    while !input.is_empty() {
        let (place, value) = (input.number::<4>(), input.number::<2>() as u16);
        let path = directory.join(if place & 1 == 0 { "public" } else { "heart" });
        let file = File::options().write(true).open(path).expect("it was made above");
        let length = file.metadata().expect("it is there").len();
        if input.is_empty() && place & 2 != 0 {
            file.set_len(place >> 2).expect("tmpfs cuts files");
        } else if length > 2 {
            // Where something is: in the headers, or at the start of a page, for every table begins
            // with one.
            let first = if place & 1 == 0 { tables_begin() } else { 0 };
            let at = if place & 4 == 0 {
                (place >> 3) % 256
            } else {
                (first + (place >> 3 & 0xF) % 12) * 4096 + (place >> 8) % 512
            };
            file.write_all_at(&value.to_le_bytes(), at % (length - 1)).expect("tmpfs writes");
        }
    }
    // What the process of another user sees of it.
    look(&directory);
    if let Ok((region, writer)) = Region::attach(&directory, boot_id()) {
        let region = Arc::new(region);
        ask(&region);
        go_on(&region, writer);
        ask(&region);
    }
    std::fs::remove_dir_all(&directory).expect("it was made above");
}

/// A view refuses the files, or answers whatever it is asked.
fn look(directory: &Path) {
    let Ok(view) = View::open(directory) else { return };
    let _ = (view.hold(), view.services(), view.epoch(), view.instance("s", "s"));
    let mut number = 1_u64;
    let mut draw = || {
        number = number.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        number
    };
    if let Ok(Some(service)) = view.service("s") {
        let mut members = Vec::new();
        let _ = service.fill(&mut members);
        assert!(members.len() <= geometry().slots as usize);
        for choice in
            [Choice::Random, Choice::Weighted, Choice::Rendezvous(3), Choice::RoundRobin(u32::MAX)]
        {
            let _ = service.pick(choice, &mut draw);
        }
    }
    for after in [0, 7, u64::MAX] {
        let told = view.events(after).take(2 * geometry().events).count();
        assert!(told < 2 * geometry().events, "events without end");
    }
}

/// The page of the public file before the tables of services and members. Counters come before
/// them and the feed comes after them; both are long.
fn tables_begin() -> u64 {
    let geometry = geometry();
    let feed = geometry.public_bytes() - geometry.events * EVENT_BYTES;
    (feed / 4096 - TABLE_PAGES) as u64
}

fn geometry() -> Geometry {
    Geometry::new(16, 8)
}

fn prepare(directory: &Path) {
    for name in ["heart", "public"] {
        let _ = std::fs::remove_file(directory.join(name));
    }
    let place = Place::Directory(directory.to_owned());
    let run = Run { key: (1, 2), epoch: 3, boot: boot_id() };
    let (region, writer) =
        Region::create(&place, geometry(), run, &AtomicBool::new(false)).expect("room on /dev/shm");
    let (id, name) = (service_id("s"), Name::new("s").expect("a short name"));
    let entry = &region.directory()[0];
    entry.sequence().write(&writer, || {
        entry.set_name(&writer, Some(&name));
        let list = heartline_region::ListRef { offset: 0, order: 2 };
        entry.set_meta(
            &writer,
            heartline_region::ServiceMeta { id, revision: 1, listed: 1, total: 1, list },
        );
    });
    region.index_service(&writer, id, ServiceNumber::default()).expect("an empty index");
    let record = Record {
        service: ServiceNumber::default(),
        replaced_nonce: 0,
        source: [1; 16],
        zone: Label::EMPTY,
        instance: name,
    };
    region.records().write(&writer, Slot::default(), &record, b"\x03tag");
    region.endpoints()[0].set_place(&writer, ServiceNumber::default(), 0);
    region.lines()[0].lease_to(&writer, Moment::from_nanos(10), Span::from_ms(100), 7, 1);
    let entry = Endpoint { generation: U32::new(1), state: 1, ..Endpoint::new_zeroed() };
    region.endpoints()[0].set_entry(&writer, entry);
    region.index_instance(&writer, id, &name, Slot::default()).expect("an empty index");
}

/// The next engine goes on with what is there, and lets everybody fall silent.
fn go_on(region: &Arc<Region>, writer: heartline_region::Right) {
    let mut now = from_ms(1000);
    let mut registrar = Registrar::resume(Arc::clone(region), writer, settings(16), now);
    for _ in 0..6 {
        now += from_ms(90_000_000);
        registrar.tick(&Observed { now, drained: now, drops: 0, stall: 0 });
    }
}

fn ask(region: &Arc<Region>) {
    let (commands, watch_commands) = (Arc::new(ArrayQueue::new(8)), Arc::new(ArrayQueue::new(8)));
    let cookies = Cookies::new((1, 2));
    let cookie = cookies.make(&peer(1).ip, 1000);
    let random = SmallRng::seed_from_u64(1);
    let mut dataplane =
        Dataplane::new(Arc::clone(region), commands, watch_commands, cookies, 3, random);
    let mut discover = Discover {
        cookie: U64::new(cookie),
        service: U64::new(service_id("s")),
        ..Discover::new_zeroed()
    };
    let mut questions = Vec::new();
    for strategy in 0..6 {
        (discover.strategy, discover.filter, discover.limit) =
            (strategy, 8 + 16 * (strategy & 1), 3.into());
        discover.tag = Label::new("tag").expect("a short tag");
        questions.push((Kind::Discover, discover.as_bytes().to_vec()));
    }
    let mut describe =
        Describe { cookie: U64::new(cookie), generation: U32::new(1), ..Describe::new_zeroed() };
    questions.push((Kind::Describe, describe.as_bytes().to_vec()));
    (describe.service, describe.instance) =
        (Name::new("s").expect("short"), Name::new("s").expect("short"));
    questions.push((Kind::Describe, describe.as_bytes().to_vec()));
    questions.push((
        Kind::Services,
        Services { cookie: U64::new(cookie), ..Services::new_zeroed() }.as_bytes().to_vec(),
    ));
    let stats = StatsRequest { cookie: U64::new(cookie), ..StatsRequest::new_zeroed() };
    questions.push((Kind::Stats, stats.as_bytes().to_vec()));
    for (kind, body) in questions {
        let frame = [Header::request(kind, 1).as_bytes(), &body].concat();
        let mut replies = Replies::default();
        dataplane.receive(
            1000,
            std::iter::once(Datagram { peer: peer(1), bytes: &frame }),
            &mut replies,
        );
        assert_eq!(replies.iter().count(), 1, "{kind:?} was not answered");
    }
}
