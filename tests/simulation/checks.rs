//! What a loop or the registrar answers and tells, shown to the oracle.

use crate::engine::Packet;
use crate::oracle::{From, Verdict, must};
use crate::world::World;
use heartline::internals::clock::Nanos;
use heartline::internals::exchange::{Command, Peer, Replies};
use heartline_region::{Counter, Tally};
use heartline_wire::{Reply, ReplyBody, Status};
use zerocopy::IntoBytes;

/// What a loop may take to receive a datagram while nothing disturbs it.
const PATIENCE: Nanos = 500_000;

/// Whether no two datagrams have the same sender and tag.
pub(crate) fn are_distinct(packets: &[Packet]) -> bool {
    packets.iter().enumerate().all(|(at, one)| {
        packets[..at]
            .iter()
            .all(|other| one.peer != other.peer || one.bytes.get(8..16) != other.bytes.get(8..16))
    })
}

pub(crate) fn replies_of(replies: &mut Replies) -> Vec<(Peer, Vec<u8>)> {
    let taken = replies.iter().map(|(peer, frame)| (*peer, frame.to_vec())).collect();
    replies.clear();
    taken
}

impl World {
    /// Free places in the command queue.
    pub(crate) fn command_room(&self) -> usize {
        self.engine.as_ref().map_or(0, |engine| engine.commands.capacity() - engine.commands.len())
    }

    /// Gives each datagram its reply, shows both to the oracle, and sends the replies.
    pub(crate) fn check_answers(
        &mut self,
        received: Nanos,
        packets: &[Packet],
        queue_full: bool,
        replies: &mut Replies,
    ) -> Verdict {
        let mut answers = replies_of(replies).into_iter().peekable();
        for packet in packets {
            let is_own = |answer: &(Peer, Vec<u8>)| {
                answer.0 == packet.peer && packet.bytes.get(8..16) == answer.1.get(8..16)
            };
            let answer = answers.next_if(is_own);
            self.oracle.heard(packet.number);
            self.check_patience(packet)?;
            let reply = answer.as_ref().map(|(_, reply)| &reply[..]);
            self.oracle.answered(received, packet.peer.ip, &packet.bytes, queue_full, reply)?;
            self.check_stats(reply)?;
            if let Some((peer, reply)) = answer {
                self.send_to_client(peer, reply);
            }
        }
        must!("no-amplification", answers.next().is_none(), "an answer to nobody");
        Ok(())
    }

    /// A loop answers stats with what the registrar has counted.
    fn check_stats(&self, reply: Option<&[u8]>) -> Verdict {
        let numbers = reply.map(Reply::decode);
        if let Some(Ok(Reply { status: Status::Ok, body: ReplyBody::Stats(numbers), .. })) = numbers
            && let Some(engine) = &self.engine
        {
            let mut tally = Tally::default();
            engine.registrar.counts().tell(&mut tally);
            for counter in [Counter::Up, Counter::Suspect, Counter::Down, Counter::Downs] {
                let stat = counter.stat().expect("a number of stats");
                let (told, counted) = (numbers[stat as usize].get(), tally.get(counter));
                must!("answers", told == counted, "{stat:?} is {counted}, and {told} was told");
            }
        }
        Ok(())
    }

    pub(crate) fn check_command(
        &mut self,
        now: Nanos,
        command: &Command,
        before: u64,
        answers: Vec<(Peer, Vec<u8>)>,
    ) -> Verdict {
        let reply = answers.first().map(|(_, reply)| &reply[..]);
        let mut looked_at = None;
        let doing = match command {
            Command::Register { from, request, attributes } => {
                let from = From { source: from.peer.ip, tag: from.tag.get() };
                self.oracle.registers(
                    now,
                    from,
                    request.as_bytes(),
                    attributes.as_slice(),
                    reply,
                )?
            }
            Command::Update { request, attributes, .. } => {
                self.oracle.updates(request.as_bytes(), attributes.as_slice(), reply)?
            }
            Command::Deregister { lease, .. } => self.oracle.deregisters(
                lease.slot.get(),
                lease.generation.get(),
                lease.secret.get(),
                reply,
            )?,
            Command::Look { slot, generation, leaving } => {
                let (slot, generation) = (slot.get(), generation.get());
                looked_at = Some((slot, generation, *leaving));
                self.oracle.looks(slot, generation, *leaving)
            }
            Command::Died { slot, generation } => {
                self.oracle.dies(now, slot.get(), generation.get())
            }
        };
        self.check_events(now, before, &doing)?;
        self.oracle.done(now, &doing, looked_at)?;
        if let Some(reply) = reply {
            self.oracle.reply_from_registrar(reply)?;
        }
        for (peer, reply) in answers {
            self.send_to_client(peer, reply);
        }
        Ok(())
    }

    pub(crate) fn check_events(
        &mut self,
        now: Nanos,
        before: u64,
        doing: &crate::oracle::Doing,
    ) -> Verdict {
        let Some(engine) = &self.engine else { return Ok(()) };
        let events = engine.events(before);
        for event in &events {
            let Some(words) = event else {
                must!("versions", false, "an event that can't be read");
                continue;
            };
            words.iter().for_each(|word| self.trace.add(*word));
            let declared =
                engine.region.endpoints()[words[5] as u32 as usize].entry().declared() as u8;
            self.oracle.event(now, words, doing, declared)?;
        }
        if !events.is_empty() {
            crate::tables::check(&engine.region, &engine.registrar, &self.oracle)?;
        }
        Ok(())
    }

    /// A datagram does not wait longer than its loop takes to wake up.
    fn check_patience(&self, packet: &Packet) -> Verdict {
        let waited = self.now - packet.arrived;
        let calm = self.oracle.disturbed + PATIENCE < packet.arrived;
        must!("heard", !calm || waited <= PATIENCE, "a datagram waited for {waited} ns");
        Ok(())
    }
}
