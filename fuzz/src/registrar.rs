//! Commands and looks in any order, at any times.

use crate::Input;
use crate::dataplane::check;
use heartline::internals::clock::{Moment, Nanos};
use heartline::internals::exchange::{Attributes, Command, Replies, Requester};
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::{Generation, Lease, Name, Register, Slot, Update};
use rand::Rng;
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// Commands as loops pass them on, that is with values that they have checked; all else is the
/// input's.
pub fn registrar(data: &[u8]) {
    let mut input = Input::new(data);
    let mut engine = Harness::new(16, settings(16), 1);
    let mut replies = Replies::default();
    while !input.is_empty() {
        let action = input.number::<1>();
        let from =
            Requester { peer: peer((action >> 6) as u8 + 1), tag: U64::new(action), budget: 1232 };
        let slot = input.number::<1>() as u32 % engine.region.geometry().slots;
        let command = match action % 6 {
            0 => Command::Register {
                from,
                request: register(&mut input, slot),
                attributes: Attributes::new(&[]),
            },
            1 => {
                let mut request = Update::new_zeroed();
                (request.lease, request.fields) =
                    (lease(&mut input, &engine, slot), U16::new(input.number::<1>() as u16 & 15));
                request.weight = U16::new(input.number::<2>() as u16);
                Command::Update { from, request, attributes: Attributes::new(b"\x03tag") }
            }
            2 => Command::Deregister { from, lease: lease(&mut input, &engine, slot) },
            3 => {
                let generation = engine.region.lines()[slot as usize].head().0.get();
                let asked = generation.wrapping_sub(input.number::<1>() as u32 & 1);
                Command::Look {
                    slot: Slot::new(slot),
                    generation: Generation::new(asked),
                    leaving: action & 32 != 0,
                }
            }
            4 => {
                beat(&mut input, &engine, slot);
                continue;
            }
            _ => {
                let step = input.number::<2>() as Nanos * 30_000;
                engine.now += if action & 32 != 0 { step << 12 } else { step };
                engine.drains = action & 64 == 0;
                engine.drops += u64::from(action & 128 != 0);
                engine.tick();
                engine.tick();
                continue;
            }
        };
        let random = &mut engine.random;
        engine.registrar.handle(engine.now, &command, &mut || random.next_u64(), &mut replies);
        replies.clear();
    }
    check(&engine);
}

fn register(input: &mut Input<'_>, name: u32) -> Register {
    let mut request = Register::new_zeroed();
    request.nonce = U64::new(input.number::<1>() | 1);
    request.ttl_ms = U32::new((input.number::<3>() as u32).clamp(1, 86_400_000));
    request.declared = request.nonce.get() as u8 % 3;
    request.service = Name::new(&format!("s{}", name % 4)).expect("a short name");
    request.instance = Name::new(&format!("i{name}")).expect("a short name");
    request
}

/// The lease that stands in a slot, or something near it.
fn lease(input: &mut Input<'_>, engine: &Harness, slot: u32) -> Lease {
    let mut lease = engine.region.lines()[slot as usize].lease(Slot::new(slot));
    if input.number::<1>().is_multiple_of(4) {
        lease.generation = U32::new(input.number::<1>() as u32);
    }
    lease
}

fn beat(input: &mut Input<'_>, engine: &Harness, slot: u32) {
    let line = &engine.region.lines()[slot as usize];
    let beat = heartline_wire::Beat {
        lease: lease(input, engine, slot),
        sequence: U32::new(input.number::<2>() as u32),
        load: U16::new(7),
        flags: U16::new(input.number::<1>() as u16 & 3),
    };
    let _ = line.apply(&beat, Moment::from_nanos(engine.now));
}
