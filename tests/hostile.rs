//! Datagrams that strangers send: any length, any content. The engine neither falls nor answers
//! more than it got, and nothing changes.

use heartline::Config;
use heartline_client::Target;
use heartline_client::proto::encode_registration;
use heartline_region::EventKind;
use heartline_test_support::*;
use heartline_wire::*;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::net::UdpSocket;
use std::time::Duration;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromZeros, IntoBytes};

/// One well-formed frame of each kind, none of which proves its address or has a lease.
fn samples() -> Vec<Vec<u8>> {
    let (register, tail) = encode_registration(&instance("payments", "a", 1000)).unwrap();
    let mut describe = Describe::new_zeroed();
    (describe.service, describe.instance) =
        (Name::new("payments").unwrap(), Name::new("a").unwrap());
    let mut discover = Discover::new_zeroed();
    discover.service = U64::new(service_id("payments"));
    let header = |kind| Header::request(kind, 0x55).as_bytes().to_vec();
    let two = Header {
        count: U16::new(2),
        flags: header_flags::ACK_WANTED,
        ..Header::request(Kind::Beat, 9)
    };
    let lease = heartline_client::Lease::from_parts(0, 1, 1);
    let beat = |sequence| Beat::from(lease.beat(sequence, 0));
    let lease = Lease::from(lease);
    vec![
        [header(Kind::Hello), vec![0; 48]].concat(),
        [header(Kind::Register), register.as_bytes().to_vec(), tail].concat(),
        [two.as_bytes(), beat(1).as_bytes(), beat(2).as_bytes()].concat(),
        [header(Kind::Update), vec![0; 32]].concat(),
        [header(Kind::Deregister), lease.as_bytes().to_vec()].concat(),
        [header(Kind::Describe), describe.as_bytes().to_vec()].concat(),
        [header(Kind::Services), vec![0; 16]].concat(),
        [header(Kind::Discover), discover.as_bytes().to_vec()].concat(),
        [header(Kind::Stats), vec![0; 16]].concat(),
        [header(Kind::Watch), vec![0; 40]].concat(),
        [header(Kind::Push), vec![0; 24]].concat(),
    ]
}

/// Sends to the engine and takes all that comes back. The tag of each frame is its number, so that
/// every reply is compared with the request that it answers.
struct Stranger {
    socket: UdpSocket,
    /// Bytes of each frame; 0 once it was answered.
    sent: Vec<u16>,
    /// Replies of each kind.
    replies: [u64; 128],
}

impl Stranger {
    fn new(target: std::net::SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(target).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, sent: Vec::new(), replies: [0; 128] }
    }

    fn send(&mut self, bytes: &mut [u8]) {
        if let Some(tag) = bytes.get_mut(8..16) {
            tag.copy_from_slice(&(self.sent.len() as u64).to_le_bytes());
        }
        self.socket.send(bytes).unwrap();
        self.sent.push(bytes.len() as u16);
        if self.sent.len().is_multiple_of(64) {
            self.take();
        }
    }

    fn take(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let reply = &buffer[..length];
            let tag = u64::from_le_bytes(reply[8..16].try_into().unwrap());
            let asked = std::mem::take(&mut self.sent[tag as usize]);
            assert!(
                length <= usize::from(asked),
                "frame {tag} of {asked} bytes (0: answered before) got {length} bytes: {reply:?}"
            );
            self.replies[usize::from(reply[3] & !REPLY_BIT)] += 1;
        }
    }
}

/// Fills the buffer with random bytes, which often begin as a frame does, or with a sample of which
/// some bits are flipped. Returns the length.
fn fill(buffer: &mut [u8], samples: &[Vec<u8>], random: &mut SmallRng) -> usize {
    if random.random_bool(0.5) {
        let length = random.random_range(0..1300);
        random.fill_bytes(&mut buffer[..length]);
        if random.random_bool(0.8) && length >= 4 {
            buffer[..3].copy_from_slice(b"HL\x01");
            buffer[3] &= 15;
        }
        length
    } else {
        let sample = &samples[random.random_range(0..samples.len())];
        buffer[..sample.len()].copy_from_slice(sample);
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..sample.len());
            buffer[at] ^= 1 << random.random_range(0..8);
        }
        sample.len()
    }
}

#[test]
fn frames_of_every_length_and_a_million_at_random() {
    let (engine, mut session) = start(&Config { cores: None, ..config() });
    let lease = session.register(&instance("payments", "a", 86_400_000)).unwrap().lease;
    session.beat(&[lease.beat(1, 0)]).unwrap();
    let before = session.describe(Target::Names("payments", "a")).unwrap();
    let feed = engine.region().feed().head();
    let start_stats = session.stats().unwrap();

    let seed = 42;
    let mut random = SmallRng::seed_from_u64(seed);
    let mut stranger = Stranger::new(engine.addresses()[0]);
    let samples = samples();
    let mut buffer = [0; 2000];
    for length in 0..=2000 {
        random.fill_bytes(&mut buffer[..length]);
        stranger.send(&mut buffer[..length]);
        for sample in &samples {
            // The sample cut or lengthened to this length, so that every gate is reached.
            let mut frame = sample.clone();
            frame.resize(length, 0);
            stranger.send(&mut frame);
        }
    }
    for number in 0..1_000_000 {
        if number % 2000 == 0 {
            // However slow the machine is, the engine reads them all.
            eventually("what was sent is read", || {
                let stats = session.stats().unwrap();
                let delta = |stat: Stat| stats.get(stat) - start_stats.get(stat);
                delta(Stat::Datagrams) + delta(Stat::KernelDrops) >= stranger.sent.len() as u64
            });
        }
        let length = fill(&mut buffer, &samples, &mut random);
        stranger.send(&mut buffer[..length]);
    }
    // Each loop answers in the order in which it reads, and one socket is read by one loop.
    let hellos = stranger.replies[Kind::Hello as usize];
    eventually("a hello after all others is answered", || {
        stranger.send(&mut samples[0].clone());
        stranger.take();
        stranger.sent.last() == Some(&0)
    });
    assert!(stranger.replies[Kind::Hello as usize] > hellos);
    // All but receipts, which are never answered.
    for sample in samples.iter().filter(|sample| sample[3] != Kind::Push as u8) {
        assert!(stranger.replies[usize::from(sample[3])] > 0, "none to kind {}", sample[3]);
    }

    let stats = session.stats().unwrap();
    let delta = |stat: Stat| stats.get(stat) - start_stats.get(stat);
    assert!(
        delta(Stat::BytesSent) <= delta(Stat::BytesReceived) + 512,
        "the session's own replies are all that may be more"
    );
    let (arrived, sent) = (delta(Stat::Datagrams), stranger.sent.len() as u64);
    assert!(
        arrived + delta(Stat::KernelDrops) >= sent,
        "{arrived} of {sent} and {} dropped",
        delta(Stat::KernelDrops)
    );
    assert!(delta(Stat::FramesBad) > 500_000, "{} bad ones", delta(Stat::FramesBad));
    let after = session.describe(Target::Names("payments", "a")).unwrap();
    // A loaded machine may make the engine deaf for a moment, and that is an event of its own.
    let kinds = |number| engine.region().feed().raw(number).map(|words| words[2] as u8);
    let others = (feed + 1..=engine.region().feed().head())
        .filter(|&number| kinds(number) != Some(EventKind::Deaf as u8));
    assert_eq!(others.count(), 0, "no event");
    assert_eq!(after.history, before.history, "no beat");
    assert_eq!(after.endpoint.slot, before.endpoint.slot);
    assert_eq!(stats.get(Stat::Up), 1);
    assert_eq!(session.services().unwrap().len(), 1);
}

/// A reply that is sent to the engine must not be answered, or two engines could be made to talk
/// for ever.
#[test]
fn replies_are_never_answered() {
    let (engine, mut session) = start(&config());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for mut frame in samples() {
        frame[3] |= REPLY_BIT;
        socket.send_to(&frame, engine.addresses()[0]).unwrap();
        assert!(socket.recv(&mut [0; 2048]).is_err(), "kind {} was answered", frame[3]);
    }
    assert_eq!(stat(&mut session, Stat::FramesBad), samples().len() as u64);
}
