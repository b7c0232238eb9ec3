//! The threads of the simulated engine: each does the steps that its duty decides, one at a time.
//! Between any two of them time passes, and a stall may come.

use crate::checks::{are_distinct, replies_of};
use crate::engine::{Packet, Phase};
use crate::oracle::{Look, Verdict, must};
use crate::world::{Happening, World};
use heartline::internals::clock::Nanos;
use heartline::internals::dataplane::Datagram;
use heartline::internals::duty::{LoopStep, Received, RegistrarStep};
use heartline::internals::exchange::Replies;
use heartline::internals::limits::{
    COMMANDS_PER_STEP, DOZE_NS, GROUP_BEATS, GROUP_FRAMES, RECEIVE_BATCH, STALL_NS_MIN,
    STOP_DRAIN_NS_MAX,
};
use heartline_region::Counter;
use rand::{Rng, RngExt};

impl World {
    /// A loop ends the step that it was at, and begins the next.
    pub(crate) fn loop_runs(&mut self, which: usize) -> Verdict {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let one = &mut engine.loops[which];
        match std::mem::replace(&mut one.phase, Phase::Runs) {
            Phase::Runs | Phase::Sleeps => {}
            Phase::Looks => one.duty.looked(now),
            Phase::Dozes => one.duty.dozed(&engine.signals, true, now),
            Phase::Wakes => {
                one.bell = false;
                let sockets = one.sockets.iter_mut().enumerate();
                let readable: Vec<usize> = sockets
                    .filter_map(|(at, socket)| std::mem::take(&mut socket.readable).then_some(at))
                    .collect();
                one.duty.woken(&engine.signals, readable.into_iter(), now);
            }
            Phase::Applies { socket, batch, received } => {
                self.loop_applies(which, socket, batch, received)?;
            }
            Phase::Ended => return Ok(()),
        }
        self.loop_steps(which)
    }

    fn loop_steps(&mut self, which: usize) -> Verdict {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let one = &mut engine.loops[which];
        let mut after = engine.random.random_range(200..1_000);
        match one.duty.next(&engine.signals) {
            LoopStep::Receive(socket) => {
                let queue = &mut one.sockets[socket].queue;
                let batch: Vec<Packet> = queue.drain(..queue.len().min(RECEIVE_BATCH)).collect();
                if !batch.is_empty() {
                    after = engine.random.random_range(500..15_000);
                    if engine.slow > 0 {
                        after += engine.random.random_range(0..engine.slow);
                        self.oracle.disturbed = self.oracle.disturbed.max(now + after);
                    }
                }
                one.phase = Phase::Applies { socket, batch, received: now };
            }
            LoopStep::WakeRegistrar => self.signal_registrar(),
            LoopStep::Look => one.phase = Phase::Looks,
            LoopStep::Doze => {
                self.seen_doze();
                after += DOZE_NS;
                self.engine.as_mut().unwrap().loops[which].phase = Phase::Dozes;
            }
            LoopStep::Sleep => {
                one.phase = Phase::Sleeps;
                self.rouse(which);
                return Ok(());
            }
            LoopStep::Stop => return self.loop_ends(which),
        }
        self.schedule(now + after, Happening::Loop(which));
        Ok(())
    }

    /// A loop has ended: unless a successor gets them, it left no datagrams that came before the
    /// stop.
    fn loop_ends(&mut self, which: usize) -> Verdict {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        engine.loops[which].phase = Phase::Ended;
        let Some((told, leave)) = engine.stop else {
            must!("stop", false, "loop {which} ended by itself");
            return Ok(());
        };
        let mut waiting = engine.loops[which].sockets.iter().flat_map(|socket| &socket.queue);
        let left = waiting.find(|packet| packet.arrived <= told);
        must!(
            "stop",
            leave || left.is_none() || self.now >= told + STOP_DRAIN_NS_MAX,
            "loop {which} left {left:?}"
        );
        Ok(())
    }

    fn loop_applies(
        &mut self,
        which: usize,
        socket: usize,
        batch: Vec<Packet>,
        received: Nanos,
    ) -> Verdict {
        let mut replies = Replies::default();
        let mut rest = &batch[..];
        while !rest.is_empty() {
            // One at a time where it would not be known which of them was answered, or which found
            // the command queue full.
            let clear = self.command_room() > GROUP_FRAMES + GROUP_BEATS && are_distinct(rest);
            let together = if clear { rest.len() } else { 1 };
            let Some(engine) = &mut self.engine else { return Ok(()) };
            let datagrams = rest[..together]
                .iter()
                .map(|packet| Datagram { peer: packet.peer, bytes: &packet.bytes });
            let one = &mut engine.loops[which];
            let taken = one.dataplane.receive(received, datagrams, &mut replies);
            one.answers += replies.iter().count() as u64;
            let full = self.command_room() == 0;
            self.check_answers(received, &rest[..taken], full, &mut replies)?;
            rest = &rest[taken..];
        }
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let one = &mut engine.loops[which];
        let took = self.now - one.duty.last();
        if took >= STALL_NS_MIN && !batch.is_empty() {
            engine.stood_still = engine.stood_still.max(took);
        }
        let outcome = Received {
            count: batch.len(),
            done: self.now,
            drops: batch.iter().rev().find_map(|packet| packet.drops),
            commanded: one.dataplane.take_commanded(),
            answers: one.answers,
        };
        one.duty.received(&engine.signals, socket, &outcome);
        one.dataplane.tally_mut().set(Counter::DropsTold, one.duty.drops());
        one.dataplane.publish();
        Ok(())
    }

    /// The registrar's thread does its next step.
    pub(crate) fn registrar_runs(&mut self) -> Verdict {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return Ok(()) };
        if let Some(time) = engine.thread.wants.take() {
            self.want_drain(time);
        }
        let Some(engine) = &mut self.engine else { return Ok(()) };
        if std::mem::take(&mut engine.thread.bell) {
            engine.thread.duty.woken(&engine.signals);
        }
        let mut after = engine.random.random_range(200..3_000);
        let thread = &mut engine.thread;
        match thread.duty.next(now, &engine.signals, &engine.commands, &engine.registrar) {
            RegistrarStep::Commands => self.registrar_commands()?,
            RegistrarStep::ReadDrops => {
                let sockets = engine.loops.iter().flat_map(|one| &one.sockets);
                for (number, socket) in sockets.enumerate() {
                    thread.duty.note_drops(number, socket.drops);
                }
            }
            RegistrarStep::Look => self.registrar_looks()?,
            RegistrarStep::WantDrain(time) => {
                // The thread counts what waits once the clock has passed that time.
                after = after.max((time + 1).saturating_sub(now));
                thread.wants = Some(time);
            }
            RegistrarStep::Sleep(wake_at) => {
                let room = engine.commands.is_empty() || thread.bell;
                must!("heard", room, "the registrar sleeps over commands");
                thread.asleep = true;
                thread.timer += 1;
                let (timer, late) = (thread.timer, engine.random.random_range(0..50_000));
                if thread.bell {
                    self.signal_registrar();
                } else if let Some(at) = wake_at {
                    self.schedule(at + late, Happening::Timer(timer));
                }
                return Ok(());
            }
            RegistrarStep::Stop => return self.engine_ends(),
        }
        self.schedule(now + after, Happening::Registrar);
        Ok(())
    }

    fn want_drain(&mut self, time: Nanos) {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return };
        let mut woken = Vec::new();
        let loops = &engine.loops;
        let waiting = |which: usize| {
            let lengths = loops[which].sockets.iter().map(|socket| socket.queue.len() as u64);
            lengths.max().unwrap_or(0)
        };
        engine.signals.rendezvous.want_drain(time, || now, waiting, |which| woken.push(which));
        for which in woken {
            self.engine.as_mut().unwrap().loops[which].bell = true;
            self.rouse(which);
        }
    }

    fn registrar_commands(&mut self) -> Verdict {
        let now = self.now;
        let mut count = 0;
        let mut replies = Replies::default();
        while count < COMMANDS_PER_STEP
            && let Some(engine) = &mut self.engine
            && let Some(command) = engine.commands.pop()
        {
            count += 1;
            let before = engine.region.feed().head();
            let random = &mut engine.random;
            engine.registrar.handle(now, &command, &mut || random.next_u64(), &mut replies);
            self.check_command(now, &command, before, replies_of(&mut replies))?;
        }
        let Some(engine) = &mut self.engine else { return Ok(()) };
        engine.publish();
        engine.thread.duty.commanded(count);
        if engine.commands.is_empty() {
            self.oracle.caught_up()?;
        }
        Ok(())
    }

    fn registrar_looks(&mut self) -> Verdict {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let judging = engine.registrar.is_judging();
        let observed = engine.thread.duty.observe(now, &engine.signals);
        let longest = std::mem::take(&mut engine.stood_still);
        must!("hearing", observed.stall >= longest, "{observed:?} and a stall of {longest} ns");
        let queued = engine.loops.iter().flat_map(|one| &one.sockets).flat_map(|one| &one.queue);
        let oldest = queued.map(|packet| packet.arrived).min().unwrap_or(Nanos::MAX);
        must!("hearing", observed.drained <= oldest, "{observed:?}, and {oldest} still waits");
        let missed = engine.dropped.iter().filter(|&&at| at < observed.drained).count() as u64;
        must!(
            "hearing",
            !judging || observed.drops >= missed,
            "{observed:?} and {missed} drops before the drain"
        );
        let (drained, drops, stall) = (observed.drained, observed.drops, observed.stall);
        let mut look = Look { now, drained, drops, stall, wake_at: None, drain: None };
        self.oracle.listening(&look);
        let before = engine.region.feed().head();
        let next = engine.registrar.tick(&observed);
        engine.thread.duty.looked(next);
        engine.publish();
        (look.wake_at, look.drain) = (next.wake_at, next.drain);
        self.check_events(now, before, &Default::default())?;
        self.oracle.looked(&look)
    }

    /// The registrar's thread has ended, and with it the engine.
    fn engine_ends(&mut self) -> Verdict {
        let Some(engine) = self.engine.take() else { return Ok(()) };
        must!("stop", engine.stop.is_some(), "the registrar ended by itself");
        must!("stop", engine.commands.is_empty(), "commands are left: {}", engine.commands.len());
        let running = engine.loops.iter().filter(|one| !matches!(one.phase, Phase::Ended)).count();
        must!("stop", running == 0, "{running} loops still run");
        self.left = Some(engine.end());
        self.next_engine()
    }
}
