//! Watches of a real engine over real sockets.

use heartline::upgrade::{self, HandedOver};
use heartline::{Config, Engine};
use heartline_client::{Change, Session, Stat};
use heartline_region::Place;
use heartline_test_support::{Push, Watcher, config, eventually, register_all, start, stat};
use heartline_wire::{Header, Kind, Reply, ReplyBody, Status, Watching};
use rustix::event::{PollFd, PollFlags, poll};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

const TTL_MS: u32 = 10_000;

/// A socket at which one or more watchers receive.
struct Port {
    socket: UdpSocket,
    cookie: u64,
    /// Pushes that came while something else was waited for.
    kept: Vec<Vec<u8>>,
}

impl Port {
    fn new(engine: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(engine).unwrap();
        let mut port = Self { socket, cookie: 0, kept: Vec::new() };
        port.hello();
        port
    }

    fn hello(&mut self) {
        let frame = [Header::request(Kind::Hello, 77).as_bytes(), &[0; 48]].concat();
        let reply = self.ask(&frame).expect("a welcome");
        let ReplyBody::Welcome(welcome) = Reply::decode(&reply).unwrap().body else {
            panic!("no welcome")
        };
        self.cookie = welcome.cookie.get();
    }

    /// The next datagram, if one comes in time.
    fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        // The kernel rounds the shortest patience up to milliseconds.
        self.socket.set_nonblocking(patience.is_zero()).unwrap();
        self.socket.set_read_timeout(Some(patience).filter(|time| !time.is_zero())).unwrap();
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// Sends a request and waits for its reply; pushes that come meanwhile are kept.
    fn ask(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        for _ in 0..25 {
            // While no engine is there, the kernel may say so.
            if self.socket.send(frame).is_err() {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let until = Instant::now() + Duration::from_millis(200);
            while let Some(reply) = self.receive(until.saturating_duration_since(Instant::now())) {
                if reply[3] == frame[3] | 0x80 && reply[8..16] == frame[8..16] {
                    return Some(reply);
                }
                self.kept.push(reply);
            }
        }
        None
    }

    fn watch(&mut self, watcher: &mut Watcher, ttl_ms: u32) -> Result<Watching, Status> {
        let reply = self.ask(&watcher.request(self.cookie, ttl_ms)).expect("an answer");
        let reply = Reply::decode(&reply).unwrap();
        let ReplyBody::Watching(watching) = reply.body else { return Err(reply.status) };
        let behind = watcher.replied(watching);
        if behind && watcher.service != 0 && watching.ttl_ms.get() > 1000 {
            self.pull(watcher);
        }
        Ok(*watching)
    }

    /// Begins to watch and proves the port.
    fn begin(&mut self, tag: u64, service: &str) -> Watcher {
        let mut watcher = Watcher::new(tag, service);
        let first = self.watch(&mut watcher, TTL_MS).unwrap();
        assert_eq!((first.ttl_ms.get(), first.credit.get()), (1000, 1232));
        let second = self.watch(&mut watcher, TTL_MS).unwrap();
        assert_eq!((second.ttl_ms.get(), second.credit.get()), (TTL_MS, 256 << 10));
        watcher
    }

    fn pull(&mut self, watcher: &mut Watcher) {
        let cookie = self.cookie;
        watcher.pull(|watcher, cursor| self.ask(&watcher.page(cookie, cursor)));
    }

    /// The next push, if one comes in time.
    fn push(&mut self, patience: Duration) -> Option<(u64, Push)> {
        let until = Instant::now() + patience;
        loop {
            let frame = if self.kept.is_empty() {
                self.receive(until.saturating_duration_since(Instant::now()))?
            } else {
                self.kept.remove(0)
            };
            let tag = u64::from_le_bytes(frame[8..16].try_into().unwrap());
            if let Some(push) = Push::read(&frame) {
                return Some((tag, push));
            }
        }
    }

    /// Does with a push what a client does.
    fn follow(&mut self, watcher: &mut Watcher, push: &Push) {
        if watcher.pushed(push) {
            self.pull(watcher);
        }
        if push.wants_receipt() {
            self.socket.send(&watcher.receipt(self.cookie)).unwrap();
        }
    }
}

fn soon() -> Duration {
    Duration::from_secs(5)
}

fn set_weight(session: &mut Session, lease: &heartline_client::Lease, weight: u16) {
    session.update(lease, &Change { weight: Some(weight), ..Change::default() }).unwrap();
}

/// The version and list as a pull has them now.
fn truth(port: &mut Port, service: &str) -> Watcher {
    let mut watcher = Watcher::new(99, service);
    port.pull(&mut watcher);
    watcher
}

#[test]
fn a_change_is_pushed_with_what_changed() {
    let (engine, mut session) = start(&config());
    let lease = register_all(&mut session, 1, 60_000).remove(0);
    let mut port = Port::new(engine.addresses()[0]);
    let mut watcher = port.begin(1, "s");
    assert_eq!(watcher.members.len(), 1);
    let before = watcher.version;
    let changed = Instant::now();
    set_weight(&mut session, &lease, 7);
    let (tag, push) = port.push(soon()).expect("a push");
    println!("seen after {:?}", changed.elapsed());
    assert_eq!((tag, push.number, push.before, push.after), (1, 1, before, before + 1));
    assert_eq!(push.endpoints[0].weight.get(), 7);
    port.follow(&mut watcher, &push);
    session.deregister(&lease).unwrap();
    let (_, push) = port.push(soon()).expect("a push");
    assert_eq!((push.before, push.endpoints[0].state), (before + 1, 0));
    port.follow(&mut watcher, &push);
    assert!(watcher.members.is_empty() && watcher.pulls == 1);
    eventually("the receipt counts", || stat(&mut session, Stat::Receipts) >= 1);
    assert_eq!(stat(&mut session, Stat::Watches), 1);
    assert!(stat(&mut session, Stat::Pushes) >= 2);
    assert_eq!(stat(&mut session, Stat::FeedMissed), 0);
    // The watch ends when it is asked to.
    assert_eq!(port.watch(&mut watcher, 0).unwrap().ttl_ms.get(), 0);
    assert_eq!(stat(&mut session, Stat::Watches), 0);
}

/// The push that got lost is the last: a beacon tells that there was one. Of one before others, the
/// next one's number tells.
#[test]
fn a_lost_push_is_found() {
    let (engine, mut session) = start(&config());
    let lease = register_all(&mut session, 1, 60_000).remove(0);
    let mut port = Port::new(engine.addresses()[0]);
    let mut watcher = port.begin(1, "s");
    set_weight(&mut session, &lease, 7);
    let (_, lost) = port.push(soon()).expect("a push");
    assert_eq!((watcher.version, lost.after), (lost.before, lost.before + 1));
    let (_, beacon) = port.push(soon()).expect("a beacon");
    assert_eq!((beacon.number, beacon.before, beacon.after), (1, lost.after, lost.after));
    assert!(beacon.wants_receipt());
    port.follow(&mut watcher, &beacon);
    assert_eq!((watcher.version, watcher.pulls), (lost.after, 2));
    std::thread::sleep(Duration::from_millis(30));
    set_weight(&mut session, &lease, 8);
    let before = watcher.clone();
    // Beacons that were under way when the receipt was sent come first.
    while let Some((_, push)) = port.push(soon())
        && push.number == 1
    {}
    set_weight(&mut session, &lease, 9);
    loop {
        let (_, push) = port.push(soon()).expect("a push");
        if push.number == 3 {
            port.follow(&mut watcher, &push);
            break;
        }
    }
    assert_eq!((watcher.pulls, watcher.version), (before.pulls + 1, before.version + 2));
    assert_eq!(watcher.view(), truth(&mut port, "s").view());
}

/// Another program at the same address asks in the name of a port that did not.
#[test]
fn a_port_that_proves_nothing_gets_one_frame() {
    let (engine, mut session) = start(&config());
    let lease = register_all(&mut session, 1, 60_000).remove(0);
    let mut port = Port::new(engine.addresses()[0]);
    let mut watcher = Watcher::new(1, "s");
    port.watch(&mut watcher, 60_000).unwrap();
    for weight in 1..200 {
        set_weight(&mut session, &lease, weight);
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(50));
    let mut bytes = 0;
    while let Some((_, push)) = port.push(Duration::from_millis(20)) {
        bytes += 48 + 48 * push.endpoints.len();
    }
    assert!((1..=1232).contains(&bytes), "{bytes} bytes");
    eventually("the watch is over", || stat(&mut session, Stat::WatchesExpired) == 1);
}

#[test]
fn watches_of_one_address_are_bounded() {
    let (engine, mut session) = start(&config());
    let mut port = Port::new(engine.addresses()[0]);
    for tag in 0..4096 {
        port.watch(&mut Watcher::new(tag, "s"), 60_000).unwrap();
        let mut confirmed = Watcher::new(tag, "s");
        // The watch stands and is not proved, so the reply has the proof once more.
        port.watch(&mut confirmed, 60_000).unwrap();
        assert_eq!(port.watch(&mut confirmed, 60_000).unwrap().ttl_ms.get(), 60_000);
    }
    let refused = port.watch(&mut Watcher::new(5000, "s"), 60_000);
    assert_eq!(refused.err(), Some(Status::Quota));
    assert_eq!(stat(&mut session, Stat::Watches), 4096);
}

/// Watches are not carried over: their renewal begins them anew, and shows what was missed.
#[test]
fn watches_are_renewed_after_a_restart() {
    let place =
        std::path::PathBuf::from(format!("/dev/shm/heartline-watch-{}", std::process::id()));
    let own = Config { state: Place::Directory(place.clone()), snapshot: None, ..config() };
    let (engine, mut session) = start(&own);
    let lease = register_all(&mut session, 1, 60_000).remove(0);
    let address = engine.addresses()[0];
    let mut port = Port::new(address);
    let mut watcher = port.begin(1, "s");
    let epoch = port.watch(&mut watcher, TTL_MS).unwrap().epoch;
    engine.join();
    let engine = Engine::start(&Config { listen: vec![address], ..own }).unwrap();
    assert_eq!(engine.resumed(), 1);
    let mut session = Session::connect(address).unwrap();
    set_weight(&mut session, &lease, 7);
    // The engine that starts anew knows no cookie of the one before.
    assert_eq!(port.watch(&mut watcher, TTL_MS).err(), Some(Status::Cookie));
    port.hello();
    let first = port.watch(&mut watcher, TTL_MS).unwrap();
    assert_eq!((first.ttl_ms.get(), first.number.get()), (1000, 0));
    assert_ne!(first.epoch, epoch);
    assert_eq!(port.watch(&mut watcher, TTL_MS).unwrap().ttl_ms.get(), TTL_MS);
    assert_eq!(watcher.view()[0].3, 7, "the change in between");
    set_weight(&mut session, &lease, 8);
    let (_, push) = port.push(soon()).expect("a push");
    port.follow(&mut watcher, &push);
    assert_eq!(watcher.view()[0].3, 8);
    engine.join();
    std::fs::remove_dir_all(&place).unwrap();
}

/// The successor takes the sockets and the cookies over, and no watch.
#[test]
fn watches_are_renewed_after_a_hand_over() {
    let place = std::path::PathBuf::from(format!("/dev/shm/heartline-over-{}", std::process::id()));
    let own = Config { state: Place::Directory(place.clone()), snapshot: None, ..config() };
    let (mut old, mut session) = start(&own);
    let lease = register_all(&mut session, 1, 60_000).remove(0);
    let mut port = Port::new(old.addresses()[0]);
    let mut watcher = port.begin(1, "s");
    let epoch = port.watch(&mut watcher, TTL_MS).unwrap().epoch;
    let successor = std::thread::scope(|scope| {
        scope.spawn(|| {
            let readable = |fd: BorrowedFd<'_>| {
                let waited = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None);
                assert_eq!(waited, Ok(1));
            };
            readable(upgrade::control(&old).unwrap());
            let successor = upgrade::meet(&old).unwrap();
            readable(successor.as_fd());
            assert!(matches!(upgrade::hand_over(&mut old, &successor), HandedOver::Yes));
        });
        upgrade::replace(Engine::builder(&own)).unwrap()
    });
    set_weight(&mut session, &lease, 7);
    assert_eq!(stat(&mut session, Stat::Watches), 0);
    let first = port.watch(&mut watcher, TTL_MS).unwrap();
    assert_eq!((first.ttl_ms.get(), first.number.get()), (1000, 0));
    assert_ne!(first.epoch, epoch);
    assert_eq!(port.watch(&mut watcher, TTL_MS).unwrap().ttl_ms.get(), TTL_MS);
    assert_eq!(watcher.view()[0].3, 7);
    set_weight(&mut session, &lease, 8);
    let (_, push) = port.push(soon()).expect("a push");
    port.follow(&mut watcher, &push);
    assert_eq!(watcher.view()[0].3, 8);
    successor.join();
    std::fs::remove_dir_all(&place).unwrap();
}

/// A stop tells what was done before it.
#[test]
fn what_happened_before_a_stop_is_pushed() {
    let (engine, mut session) = start(&config());
    let lease = register_all(&mut session, 1, 60_000).remove(0);
    let mut port = Port::new(engine.addresses()[0]);
    let watcher = port.begin(1, "s");
    session.deregister(&lease).unwrap();
    engine.join();
    let (_, push) = port.push(Duration::from_millis(100)).expect("a push");
    assert_eq!((push.before, push.endpoints[0].state), (watcher.version, 0));
}

/// Every watcher ends with the version and the list of the engine, whatever got lost on the way.
#[test]
fn a_thousand_watches_see_a_thousand_changes() {
    let (engine, mut session) = start(&config());
    let leases = register_all(&mut session, 50, 60_000);
    // Twenty watches at each port, so that receive buffers hold what one round brings.
    let mut ports: Vec<Port> = (0..50).map(|_| Port::new(engine.addresses()[0])).collect();
    let mut watchers: Vec<Vec<Watcher>> =
        ports.iter_mut().map(|port| (0..20).map(|tag| port.begin(tag, "s")).collect()).collect();
    let mut puller = Port::new(engine.addresses()[0]);
    let mut follow = || {
        for (port, watchers) in ports.iter_mut().zip(&mut watchers) {
            while let Some((tag, push)) = port.push(Duration::ZERO) {
                let watcher = &mut watchers[tag as usize];
                if watcher.pushed(&push) {
                    puller.pull(watcher);
                }
                if push.wants_receipt() {
                    port.socket.send(&watcher.receipt(port.cookie)).unwrap();
                }
            }
        }
        watchers.iter().flatten().map(|watcher| watcher.version).min().unwrap()
    };
    for number in 0..1000 {
        set_weight(&mut session, &leases[number % 50], number as u16 + 1);
        if number % 4 == 3 {
            follow();
        }
    }
    let last = Instant::now();
    let truth = truth(&mut Port::new(engine.addresses()[0]), "s");
    while follow() < truth.version && last.elapsed() < Duration::from_secs(20) {}
    println!(
        "all there after {:?}; {} pulls, {} pushes, {} dropped, {} beacons",
        last.elapsed(),
        watchers.iter().flatten().map(|watcher| watcher.pulls - 1).sum::<u32>(),
        stat(&mut session, Stat::Pushes),
        stat(&mut session, Stat::PushesDropped),
        stat(&mut session, Stat::Beacons),
    );
    for watcher in watchers.iter().flatten() {
        assert_eq!((watcher.version, watcher.view()), (truth.version, truth.view()));
    }
    assert_eq!(stat(&mut session, Stat::Watches), 1000);
}

/// With nothing to do the thread sleeps: events of what nobody watches do not wake it.
#[test]
fn without_watches_events_do_not_wake_the_thread() {
    let (engine, mut session) = start(&config());
    let lease = register_all(&mut session, 1, 60_000).remove(0);
    let mut port = Port::new(engine.addresses()[0]);
    let mut watcher = port.begin(1, "s");
    port.watch(&mut watcher, 0).unwrap();
    let woken = engine.watch_wake_ups();
    for weight in 1..100 {
        set_weight(&mut session, &lease, weight);
    }
    assert_eq!(engine.watch_wake_ups(), woken);
    port.begin(1, "s");
    set_weight(&mut session, &lease, 100);
    port.push(soon()).expect("a push");
    assert!(engine.watch_wake_ups() > woken);
}
