//! Which process has shown which leases, without I/O: bytes of connections in, answers and deaths
//! out.
//!
//! A lease belongs to the connection that showed it last. The secret in the request is the right to
//! show it; who connects needs no other.

use crate::limits::{LOCAL_CONNECTIONS_MAX, LOCAL_LEASES_MAX, LOCAL_USER_CONNECTIONS_MAX};
use crate::wire::{Generation, Lease, LocalKind, LocalReply, LocalRequest, Slot, Status};
use ahash::AHashMap;
use zerocopy::IntoBytes;

/// Bytes of a request.
const REQUEST: usize = size_of::<LocalRequest>();

/// Names a connection; none is given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(u64);

/// What a connection has said so far.
#[derive(Debug)]
struct Connection {
    user: u32,
    /// The start of a request whose rest has not come yet.
    begun: Vec<u8>,
    /// Leases that belong to it.
    shown: u32,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It waits for more.
    GoesOn,
    /// It let go of its leases: to be closed once its answers are written.
    LetGo,
    /// It said something that is no request: to be closed. Its process may live, so nobody is
    /// blamed.
    Misunderstood,
}

/// All connections and their leases.
#[derive(Debug, Default)]
pub struct Book {
    connections: AHashMap<ConnectionId, Connection>,
    /// For each user, how many connections.
    users: AHashMap<u32, u32>,
    /// For each slot the lease that was shown, and by whom.
    owners: AHashMap<Slot, (Generation, ConnectionId)>,
    given: u64,
    refused: u64,
}

impl Book {
    /// A process of this user has connected. `None`: there are too many, of the user or in all.
    pub fn admit(&mut self, user: u32) -> Option<ConnectionId> {
        let own = self.users.get(&user).copied().unwrap_or(0);
        if self.connections.len() >= LOCAL_CONNECTIONS_MAX || own >= LOCAL_USER_CONNECTIONS_MAX {
            self.refused += 1;
            return None;
        }
        self.users.insert(user, own + 1);
        self.given += 1;
        let id = ConnectionId(self.given);
        self.connections.insert(id, Connection { user, begun: Vec::new(), shown: 0 });
        Some(id)
    }

    /// Bytes have come. `verify` tells whether a lease stands; answers are added to `answers`.
    pub fn receive(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        verify: impl Fn(&Lease) -> Result<(), Status>,
        answers: &mut Vec<u8>,
    ) -> Course {
        let Some(connection) = self.connections.get_mut(&id) else { return Course::Misunderstood };
        connection.begun.extend_from_slice(bytes);
        let said = std::mem::take(&mut connection.begun);
        let (requests, begun) = said.as_chunks::<REQUEST>();
        for request in requests {
            let Some((kind, lease)) = LocalRequest::decode(request) else {
                self.refused += 1;
                return Course::Misunderstood;
            };
            let done = match kind {
                LocalKind::Show => verify(&lease).and_then(|()| self.show(id, &lease)),
                LocalKind::TakeBack => verify(&lease).map(|()| self.take_back(id, &lease)),
                LocalKind::LetGo => Ok(()),
            };
            self.refused += u64::from(done.is_err());
            let status = done.err().unwrap_or(Status::Ok);
            answers.extend_from_slice(LocalReply::new(kind, status, &lease).as_bytes());
            if kind == LocalKind::LetGo {
                return Course::LetGo;
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.begun.extend_from_slice(begun);
        }
        Course::GoesOn
    }

    /// The connection is closed, and nobody is blamed.
    pub fn close(&mut self, id: ConnectionId) {
        self.end(id, |_, _| {});
    }

    /// The kernel has closed the connection: its process is dead, and what it showed died with it.
    pub fn broke(&mut self, id: ConnectionId, died: impl FnMut(Slot, Generation)) {
        self.end(id, died);
    }

    /// How many are connected.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Leases that are shown.
    pub fn leases(&self) -> usize {
        self.owners.len()
    }

    /// Connections and requests that were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn show(&mut self, id: ConnectionId, lease: &Lease) -> Result<(), Status> {
        let (slot, generation) = (lease.slot(), lease.generation());
        let before = self.owners.get(&slot).copied();
        let Some(connection) = self.connections.get_mut(&id) else { return Err(Status::Full) };
        if before.is_none_or(|(_, owner)| owner != id) {
            if connection.shown >= LOCAL_LEASES_MAX {
                return Err(Status::Full);
            }
            connection.shown += 1;
            if let Some(other) = before.and_then(|(_, owner)| self.connections.get_mut(&owner)) {
                other.shown -= 1;
            }
        }
        self.owners.insert(slot, (generation, id));
        Ok(())
    }

    fn take_back(&mut self, id: ConnectionId, lease: &Lease) {
        if self.owners.get(&lease.slot()) == Some(&(lease.generation(), id)) {
            self.owners.remove(&lease.slot());
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.shown -= 1;
            }
        }
    }

    fn end(&mut self, id: ConnectionId, mut ended: impl FnMut(Slot, Generation)) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(own) = self.users.get_mut(&connection.user) {
            *own -= 1;
            if *own == 0 {
                self.users.remove(&connection.user);
            }
        }
        if connection.shown > 0 {
            self.owners.retain(|&slot, &mut (generation, owner)| {
                if owner == id {
                    ended(slot, generation);
                }
                owner != id
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(slot: u32) -> Lease {
        Lease { slot: slot.into(), generation: 1.into(), secret: 7.into() }
    }

    fn verify(lease: &Lease) -> Result<(), Status> {
        if lease.secret.get() == 7 { Ok(()) } else { Err(Status::Unknown) }
    }

    fn say(book: &mut Book, id: ConnectionId, request: LocalRequest) -> (Course, u8) {
        let mut answers = Vec::new();
        let course = book.receive(id, request.as_bytes(), verify, &mut answers);
        (course, answers[1])
    }

    fn show(book: &mut Book, id: ConnectionId, slot: u32) -> u8 {
        say(book, id, LocalRequest::new(LocalKind::Show, lease(slot))).1
    }

    fn broke(book: &mut Book, id: ConnectionId) -> Vec<u32> {
        let mut died = Vec::new();
        book.broke(id, |slot, generation| {
            assert_eq!(generation.get(), 1);
            died.push(slot.get());
        });
        died.sort();
        died
    }

    #[test]
    fn what_was_shown_dies_with_its_process() {
        let mut book = Book::default();
        let (one, other) = (book.admit(5).unwrap(), book.admit(5).unwrap());
        assert_eq!([1, 2, 3].map(|slot| show(&mut book, one, slot)), [0; 3]);
        assert_eq!(show(&mut book, other, 3), 0, "it belongs to this one now");
        say(&mut book, one, LocalRequest::new(LocalKind::TakeBack, lease(2)));
        say(&mut book, one, LocalRequest::new(LocalKind::TakeBack, lease(3)));
        assert_eq!(broke(&mut book, one), [1]);
        assert_eq!((book.connections(), book.leases()), (1, 1));
        assert_eq!(broke(&mut book, other), [3]);
        assert_eq!((book.connections(), book.leases(), book.users.len()), (0, 0, 0));
    }

    #[test]
    fn who_lets_go_or_talks_nonsense_is_not_dead() {
        let mut book = Book::default();
        for (last, course) in [
            (LocalRequest::let_go(), Course::LetGo),
            (LocalRequest { kind: 9, ..LocalRequest::let_go() }, Course::Misunderstood),
        ] {
            let id = book.admit(5).unwrap();
            show(&mut book, id, 1);
            let mut answers = Vec::new();
            assert_eq!(book.receive(id, last.as_bytes(), verify, &mut answers), course);
            book.close(id);
            assert_eq!((book.connections(), book.leases()), (0, 0));
        }
        assert_eq!(book.refused(), 1);
    }

    #[test]
    fn a_wrong_secret_shows_nothing() {
        let mut book = Book::default();
        let id = book.admit(5).unwrap();
        let forged = Lease { secret: 8.into(), ..lease(1) };
        let said = say(&mut book, id, LocalRequest::new(LocalKind::Show, forged));
        assert_eq!(said, (Course::GoesOn, Status::Unknown as u8));
        assert_eq!((broke(&mut book, id), book.refused()), (vec![], 1));
    }

    #[test]
    fn requests_may_come_in_pieces() {
        let (mut book, mut answers) = (Book::default(), Vec::new());
        let id = book.admit(5).unwrap();
        let requests: Vec<u8> = (0..5)
            .flat_map(|slot| LocalRequest::new(LocalKind::Show, lease(slot)).as_bytes().to_vec())
            .collect();
        for piece in requests.chunks(7) {
            assert_eq!(book.receive(id, piece, verify, &mut answers), Course::GoesOn);
        }
        assert_eq!((answers.len(), broke(&mut book, id).len()), (5 * 16, 5));
    }

    #[test]
    fn everything_is_bounded() {
        let mut book = Book::default();
        let of_user = |book: &mut Book, user| std::iter::from_fn(|| book.admit(user)).count();
        assert_eq!(of_user(&mut book, 1), LOCAL_USER_CONNECTIONS_MAX as usize);
        let all: usize = (2..100).map(|user| of_user(&mut book, user)).sum();
        assert_eq!(all + LOCAL_USER_CONNECTIONS_MAX as usize, LOCAL_CONNECTIONS_MAX);
        let mut book = Book::default();
        let (one, other) = (book.admit(1).unwrap(), book.admit(1).unwrap());
        for slot in 0..LOCAL_LEASES_MAX {
            assert_eq!(show(&mut book, one, slot), 0);
        }
        assert_eq!(show(&mut book, one, LOCAL_LEASES_MAX), Status::Full as u8);
        assert_eq!(show(&mut book, one, 5), 0, "it has that one");
        assert_eq!(show(&mut book, other, 5), 0);
        assert_eq!(show(&mut book, one, LOCAL_LEASES_MAX), 0, "there is room again");
    }
}
