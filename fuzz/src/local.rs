//! What processes say at the local socket.

use crate::Input;
use heartline::internals::local::{Book, Course};
use heartline_wire::{Lease, LocalKind, LocalReply, LocalRequest, Status};
use std::collections::BTreeSet;

/// The secret of every lease that stands.
const SECRET: u64 = 7;
/// Slots from here on are none.
const SLOTS: u32 = 64;

/// A few connections that send bytes, in pieces, and end in both ways. Answers are whole, nothing
/// is answered twice, and only a lease whose secret was said can die.
///
/// Each piece of the input is a byte for what happens and to whom, and a byte for how many bytes
/// follow.
pub fn local(data: &[u8]) {
    let verify = |lease: &Lease| match lease.secret.get() {
        SECRET if lease.slot.get() < SLOTS => Ok(()),
        _ => Err(Status::Unknown),
    };
    let mut book = Book::default();
    // Each with what it has said so far.
    let mut open = Vec::new();
    let (mut input, mut answers) = (Input::new(data), Vec::new());
    while !input.is_empty() {
        let what = input.number::<1>() as usize;
        let length = input.number::<1>() as usize;
        if open.len() < 4 {
            open.push((book.admit(what as u32 % 3).expect("there is room for four"), Vec::new()));
        }
        let number = what % open.len();
        let (id, said) = &mut open[number];
        let id = *id;
        if what >= 0xF0 {
            let shown = proved(said);
            book.broke(id, |slot, _| assert!(shown.contains(&slot.get()), "a stranger kills"));
            open.remove(number);
            continue;
        }
        let bytes = input.bytes(length);
        said.extend_from_slice(bytes);
        answers.clear();
        let before = said.len() - bytes.len();
        let course = book.receive(id, bytes, verify, &mut answers);
        let (replies, rest) = answers.as_chunks::<{ size_of::<LocalReply>() }>();
        assert!(rest.is_empty() && replies.len() <= said.len() / 24 - before / 24);
        assert!(replies.iter().all(|reply| LocalReply::decode(reply).is_some()));
        if course != Course::GoesOn {
            book.close(id);
            open.remove(number);
        }
        assert!(book.leases() <= SLOTS as usize && book.connections() == open.len());
    }
    open.iter().for_each(|(id, _)| book.close(*id));
    assert_eq!((book.leases(), book.connections()), (0, 0));
}

/// Slots whose secret stands in what was said.
fn proved(said: &[u8]) -> BTreeSet<u32> {
    let requests = said.as_chunks::<24>().0.iter().filter_map(LocalRequest::decode);
    let shown = requests.filter(|(kind, lease)| {
        *kind == LocalKind::Show && lease.secret.get() == SECRET && lease.slot.get() < SLOTS
    });
    shown.map(|(_, lease)| lease.slot.get()).collect()
}
