//! Changes pushed to watchers: what a push costs, and when a change is seen.

use crate::bed::Bed;
use crate::crowd::{Crowd, FOREIGN, Seen};
use crate::floors::{Floor, Responder, bare_sends};
use crate::lab::Lab;
use crate::machine;
use crate::population::{Pace, Wanted, register};
use crate::report::{Chart, Goal, histogram, median, merged, micros, number};
use crate::socket::{open_socket, receive, send_all};
use hdrhistogram::Histogram;
use heartline::internals::clock::{self, Nanos};
use heartline::internals::limits::{FRAME_BYTES_MAX, PUSH_BATCH, ROUND_NS_MIN};
use heartline_wire::{
    Endpoint, Header, Kind, Lease, PushHead, Stat, Status, Update, update_fields,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const SERVICE: u32 = 0;
/// Instances of the watched service.
const INSTANCES: u32 = 100;
/// Weights of the instance that changes: each change sets another.
const WEIGHTS: u64 = 60_000;

/// Watchers of G12.
const WATCHERS: usize = 1000;
/// Changes in a run.
const ROUNDS: u32 = 32;
/// Time between two of them: longer than a round of pushes and its receipts take, and so long that
/// each push asks for a receipt. So every change has one push and one receipt for each watcher.
const GAP: Duration = Duration::from_millis(25);
/// Watchers look at their sockets so often: by then, several pushes wait at each.
const LOOK: Duration = Duration::from_micros(500);
/// A run is over when nothing has come for this time.
const REST: Duration = Duration::from_millis(30);
/// Header, fixed part and one endpoint.
const PUSH_OF_ONE: usize = size_of::<Header>() + size_of::<PushHead>() + size_of::<Endpoint>();

/// How long each run of G18 takes.
const RUN: Duration = Duration::from_secs(1);
/// Changes a second, at random times.
const RATE: f64 = 1000.0;
/// Time that the last ones have.
const LAST_NS: Nanos = 100_000_000;
/// Longest wait for company that a change has by design.
const COALESCING_US: f64 = ROUND_NS_MIN as f64 / 1e3;

/// An instance of which one figure changes again and again.
struct Changer {
    socket: UdpSocket,
    lease: Lease,
    /// How many changes were made.
    made: u64,
    /// Replies that came, and those among them that were refusals.
    answered: u64,
    refused: u64,
}

impl Changer {
    fn new(target: SocketAddr, lease: Lease) -> Result<Self, String> {
        Ok(Self { socket: open_socket(target)?, lease, made: 0, answered: 0, refused: 0 })
    }

    /// Sets the next weight. The tag is the number of the change.
    fn change(&mut self) -> Result<(), String> {
        let mut body = Update::new_zeroed();
        (body.lease, body.fields) = (self.lease, update_fields::WEIGHT.into());
        body.weight = U16::new(weight_of(self.made));
        let header = Header::request(Kind::Update, self.made);
        self.made += 1;
        send_all(&self.socket, &[[header.as_bytes(), body.as_bytes()].concat()]).map(drop)
    }

    /// Takes the replies that have come; `seen` gets their tags.
    fn listen(&mut self, mut seen: impl FnMut(u64)) -> Result<(), String> {
        let mut frame = [0; FRAME_BYTES_MAX];
        while let Some(length) = receive(&self.socket, &mut frame)? {
            let Ok((header, _)) = Header::read_from_prefix(&frame[..length]) else { continue };
            self.answered += 1;
            self.refused += u64::from(header.status != Status::Ok as u8);
            seen(header.tag.get());
        }
        Ok(())
    }
}

fn weight_of(change: u64) -> u16 {
    1 + (change % WEIGHTS) as u16
}

/// An engine with a service, its watchers, and an instance that changes.
fn watched(lab: &Lab, watchers: usize) -> Result<(Bed, Crowd, Changer), String> {
    let mut bed = Bed::start(16_384, lab.engine_cpu, &[])?;
    let leases = machine::pinned(lab.generator_cpu, || {
        register(&mut bed, &Wanted::new(INSTANCES, 1, "watched"))
    })?;
    let crowd = Crowd::new(bed.target, &Wanted::service(SERVICE), watchers)?;
    let changer = Changer::new(bed.target, leases[0])?;
    Ok((bed, crowd, changer))
}

/// What came of all runs of G12 together.
#[derive(Clone, Copy, Debug, Default)]
struct Fan {
    made: u64,
    seen: Seen,
    dropped: u64,
    floor_sent: u64,
    /// CPU time of the thread that pushes.
    pushing_ns: u64,
}

/// G12: one change pushed to a thousand watchers.
pub(super) fn fan_out(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (bed, crowd, changer) = watched(lab, WATCHERS)?;
    let addresses = crowd.addresses()?;
    let mut state = (bed, crowd, changer, Fan::default());
    let cpu = lab.engine_cpu;
    let pairs = lab.pairs(
        &mut state,
        |(bed, crowd, changer, fan)| push_cost(bed, crowd, changer, fan),
        |(_, crowd, _, fan)| bare_cost(cpu, &addresses, crowd, fan),
    )?;
    let fan = state.3;
    let what = format!("CPU a push, one change to {WATCHERS} watchers, all of the engine");
    let goal = Goal::ratio("G12", what, "ns", &pairs, 1.25);
    Ok(vec![goal.against("bare sendmmsg of as many bytes").note(format!(
        "{} changes {} ms apart: {} pushes, {} beacons and {} pulls came, {} were dropped, {} \
         receipts went back, all in ours; {:.0} ns of it are of the thread that pushes; the floor \
         sent {}, {} came",
        fan.made,
        GAP.as_millis(),
        fan.seen.changes,
        fan.seen.beacons,
        fan.seen.pulls,
        fan.dropped,
        fan.seen.receipts,
        fan.pushing_ns as f64 / fan.seen.changes as f64,
        fan.floor_sent,
        fan.seen.foreign,
    ))])
}

/// CPU nanoseconds of the engine's process for each push of a change, with all that belongs to it:
/// requests, replies, receipts, beacons.
fn push_cost(
    bed: &mut Bed,
    crowd: &mut Crowd,
    changer: &mut Changer,
    fan: &mut Fan,
) -> Result<f64, String> {
    crowd.renew(bed)?;
    let pid = bed.pid()?;
    let before = bed.counters()?;
    let (seen_before, refused) = (crowd.seen, changer.refused);
    let (cpu_before, pushing_before) = (machine::process_cpu_ns(pid), pushing_ns(pid));
    let mut pace = Pace::new(clock::now(), 1.0 / GAP.as_secs_f64());
    let mut made = 0;
    while made < ROUNDS {
        if pace.due(clock::now()).0 > 0 {
            pace.done(1);
            made += 1;
            changer.change()?;
        }
        crowd.look(LOOK)?;
        changer.listen(|_| ())?;
    }
    crowd.settle(REST)?;
    changer.listen(|_| ())?;
    let cpu_ns = machine::process_cpu_ns(pid) - cpu_before;
    fan.pushing_ns += pushing_ns(pid) - pushing_before;
    let after = bed.counters()?;
    if changer.refused > refused {
        return Err("changes were refused".into());
    }
    let of = |stat| after.since(&before, stat);
    let pushes = of(Stat::Pushes).saturating_sub(of(Stat::Beacons) + of(Stat::Pulls));
    fan.made += u64::from(made);
    fan.dropped += of(Stat::PushesDropped);
    let now = crowd.seen;
    if now.changes - seen_before.changes != pushes {
        return Err(format!("{} of {pushes} pushes came", now.changes - seen_before.changes));
    }
    fan.seen.changes += pushes;
    fan.seen.beacons += now.beacons - seen_before.beacons;
    fan.seen.pulls += now.pulls - seen_before.pulls;
    fan.seen.receipts += now.receipts - seen_before.receipts;
    Ok(cpu_ns as f64 / pushes.max(1) as f64)
}

/// CPU time of the thread of a process that pushes.
fn pushing_ns(pid: u32) -> u64 {
    let tasks = machine::tasks(pid);
    tasks.iter().filter(|task| task.name == "heartline-watch").map(|task| task.cpu_ns).sum()
}

/// The same of a loop that only sends.
fn bare_cost(
    cpu: usize,
    addresses: &[SocketAddr],
    crowd: &mut Crowd,
    fan: &mut Fan,
) -> Result<f64, String> {
    let header = Header::reply(Kind::Push, Status::Ok, 1, U64::new(FOREIGN));
    let mut datagram = [0; PUSH_OF_ONE];
    datagram[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    let before = crowd.seen.foreign;
    let (sent, cpu_ns) = std::thread::scope(|scope| {
        let sends =
            scope.spawn(|| bare_sends(cpu, addresses, &datagram, PUSH_BATCH, (ROUNDS, GAP)));
        while !sends.is_finished() {
            crowd.look(LOOK)?;
        }
        crowd.settle(REST)?;
        sends.join().expect("the floor does not panic")
    })?;
    fan.floor_sent += sent;
    fan.seen.foreign += crowd.seen.foreign - before;
    Ok(cpu_ns as f64 / sent.max(1) as f64)
}

/// G18: from the time that a change is made to the time that a watcher elsewhere sees it.
pub(super) fn seen(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (bed, crowd, changer) = watched(lab, 1)?;
    let echo = Responder::start(lab.engine_cpu, Floor::Echo(PUSH_OF_ONE))?;
    let asker = Changer::new(echo.target, changer.lease)?;
    let mut state = (bed, crowd, changer, asker, SmallRng::seed_from_u64(18));
    let pairs = lab.pairs(
        &mut state,
        |(bed, crowd, changer, _, random)| {
            crowd.renew(bed)?;
            times(changer, Some(crowd), random)
        },
        |(_, _, _, asker, random)| times(asker, None, random),
    )?;
    let (ours, echoes) =
        (merged(pairs.iter().map(|pair| &pair.0)), merged(pairs.iter().map(|pair| &pair.1)));
    let goal = |(quantile, name): (f64, &str)| {
        let at = |histogram: &Histogram<u64>| micros(histogram, quantile);
        let mut echo: Vec<f64> = pairs.iter().map(|pair| at(&pair.1)).collect();
        let pairs: Vec<(f64, f64)> =
            pairs.iter().map(|(ours, echo)| (at(ours), at(echo) + COALESCING_US)).collect();
        let what = format!("a change made to the change seen by a watcher, {name}");
        Goal::ratio("G18", what, "µs", &pairs, 1.5).against("echo + 1 ms of coalescing").note(
            format!(
                "{} changes at random times, {RATE:.0} a second, each of them seen; the echo \
                 alone: {} µs",
                ours.len(),
                number(median(&mut echo))
            ),
        )
    };
    let goals = [(0.5, "p50"), (0.99, "p99")].map(goal).to_vec();
    let title = format!("Half of all changes are seen within {} µs", number(micros(&ours, 0.5)));
    lab.charts.push(Chart::latencies(title, &[("heartline", &ours), ("echo", &echoes)]));
    Ok(goals)
}

/// Nanoseconds from the intended time of each change until it is seen by the watcher, or, without
/// one, until the answer comes.
fn times(
    changer: &mut Changer,
    mut crowd: Option<&mut Crowd>,
    random: &mut SmallRng,
) -> Result<Histogram<u64>, String> {
    let mut times = histogram();
    let mut gap = || (-(1.0 - random.random::<f64>()).ln() * 1e9 / RATE) as Nanos;
    let (first, refused) = (changer.made, changer.refused);
    let start = clock::now();
    let end = start + RUN.as_nanos() as Nanos;
    let mut due = start + gap();
    // When each change was to be made; those before `seen` are seen.
    let (mut intended, mut seen) = (Vec::new(), 0);
    while clock::now() < end.max(due.min(end)) || seen < intended.len() {
        let now = clock::now();
        if now > end + LAST_NS {
            break;
        }
        if due <= now && due < end {
            intended.push(due);
            due += gap();
            changer.change()?;
        }
        let mut until = seen;
        let is_watched = crowd.is_some();
        changer.listen(|tag| {
            if !is_watched {
                until = until.max((tag - first) as usize + 1);
            }
        })?;
        if let Some(crowd) = &mut crowd {
            crowd.listen(|endpoints| {
                for endpoint in endpoints {
                    until = until.max(number_of(endpoint.weight.get(), first, intended.len()));
                }
            })?;
        }
        let now = clock::now();
        for at in &intended[seen..until.clamp(seen, intended.len())] {
            let _ = times.record(now.saturating_sub(*at));
        }
        seen = until.clamp(seen, intended.len());
    }
    if changer.refused > refused || seen < intended.len() {
        let refused = changer.refused - refused;
        return Err(format!("{seen} of {} changes were seen, {refused} refused", intended.len()));
    }
    Ok(times)
}

/// How many of the changes since the first one were made when this weight was set; 0: it is an
/// older one.
fn number_of(weight: u16, first: u64, made: usize) -> usize {
    let before = u64::from(weight_of(first));
    let after = (WEIGHTS + u64::from(weight) - before) % WEIGHTS;
    if after < made as u64 { after as usize + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_tell_which_change_was_the_last() {
        for first in [0, 7, WEIGHTS - 2, WEIGHTS, 3 * WEIGHTS - 1] {
            for made in [1, 2, 5] {
                for at in 0..made {
                    let seen = number_of(weight_of(first + at as u64), first, made);
                    assert_eq!(seen, at + 1, "{first} {made}");
                }
            }
            let before = weight_of(first + WEIGHTS - 1);
            assert_eq!(number_of(before, first, 5), 0, "the last one of the run before {first}");
        }
    }
}
