//! Stats: a loop answers it from the public file. No thread is asked, so that the answer comes
//! whatever the registrar is busy with.

use super::Dataplane;
use crate::clock::{Moment, NANOS_PER_MS};
use crate::exchange::{Replies, Requester};
use crate::region::{Counter, Disturbed};
use crate::wire::{Header, Kind, STATS, Stat, Status};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

impl Dataplane {
    pub(super) fn stats(&mut self, now: Moment, from: &Requester, replies: &mut Replies) {
        // What came before in this batch is in the answer.
        self.publish();
        match self.numbers(now) {
            Ok(Some(numbers)) => {
                let header = Header::reply(Kind::Stats, Status::Ok, STATS as u16, from.tag);
                replies.put(from, header, &[numbers.as_bytes()]);
            }
            Ok(None) | Err(Disturbed) => replies.put_status(from, Kind::Stats, Status::Busy),
        }
    }

    /// The numbers of a reply. `None` while the registrar has yet to count the members that it
    /// found.
    fn numbers(&self, now: Moment) -> Result<Option<[U64; STATS]>, Disturbed> {
        let sums = self.region.counters().sums();
        let (hold, (_, services)) = (self.region.hold()?, self.region.service_count()?);
        let since = |at: Moment| now.saturating_since(at).nanos();
        let since_ms = |at: Moment| since(at) / NANOS_PER_MS;
        let at = |counter: Counter| Moment::from_nanos(sums.get(counter));
        let mut numbers = [U64::ZERO; STATS];
        for &counter in Counter::ALL {
            if let Some(stat) = counter.stat() {
                numbers[stat as usize] = U64::new(sums.get(counter));
            }
        }
        let mut set = |stat: Stat, value: u64| numbers[stat as usize] = U64::new(value);
        set(Stat::UptimeNs, since(at(Counter::Started)));
        set(Stat::Capacity, u64::from(self.region.geometry().capacity));
        set(Stat::Services, u64::from(services));
        set(Stat::FramesBad, sums.rejected());
        set(Stat::KernelDrops, sums.get(Counter::DropsTold).max(sums.get(Counter::DropsRead)));
        set(Stat::FeedSequence, self.region.feed().head());
        set(Stat::HoldMs, hold.map_or(0, |hold| since_ms(hold.since).max(1)));
        set(Stat::HoldSilent, hold.map_or(0, |hold| u64::from(hold.silent)));
        set(Stat::HoldLive, hold.map_or(0, |hold| u64::from(hold.live)));
        let written = at(Counter::SnapshotAt);
        set(Stat::SnapshotAgeMs, if written == Moment::ZERO { 0 } else { since_ms(written) });
        Ok((sums.get(Counter::Started) != 0).then_some(numbers))
    }
}
