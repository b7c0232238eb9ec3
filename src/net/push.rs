//! Sending pushes: a head of its own for each and a body that many share, in as few system calls as
//! possible.

use super::messages::{Datagram, Messages, Rules};
use super::socket::Socket;
use crate::exchange::Pushes;
use crate::limits::{PUSH_BATCH, PUSH_PATIENCE_NS};
use crate::region::{Counter, Tally};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smallvec::SmallVec;

/// Times that one batch waits for room in the send buffer.
const WAITS_MAX: usize = 4;

/// A full send buffer is waited for a little. Beacons tell the watchers of pushes that are dropped.
const RULES: Rules = Rules {
    sent: Counter::Pushes,
    dropped: Counter::PushesDropped,
    waits: |socket, times| times <= WAITS_MAX && becomes_writable(socket),
};

/// Headers for one `sendmmsg` of pushes: head and body.
pub struct PushBatch(Messages<2>);

impl Default for PushBatch {
    fn default() -> Self {
        Self(Messages::new(PUSH_BATCH))
    }
}

impl PushBatch {
    /// Sends all pushes from the sockets that their watches were asked for at, and forgets them.
    /// Waits a little where a send buffer is full.
    pub fn send(&mut self, pushes: &mut Pushes, sockets: &[Socket], tally: &mut Tally) {
        let datagrams = pushes.iter().map(|(peer, head, body)| (peer, [head, body]));
        let all: SmallVec<[Datagram<'_, 2>; PUSH_BATCH]> = datagrams.collect();
        self.0.send(&all, sockets, &RULES, tally);
        drop(all);
        pushes.clear();
    }

    /// Bytes that the headers take.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

/// Waits until a socket takes more. `false`: not soon.
fn becomes_writable(socket: &Socket) -> bool {
    let patience = Timespec { tv_sec: 0, tv_nsec: PUSH_PATIENCE_NS };
    poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ReceiveBatch, bind_group};
    use crate::wire::{Endpoint, Header, Kind, PushHead, Reply, ReplyBody, Status};
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;
    use zerocopy::FromZeros;
    use zerocopy::byteorder::little_endian::{U32, U64};

    /// Pushes with these numbers of endpoints to a client, which checks that each is a datagram of
    /// its own. Returns what was counted as sent, bytes, and dropped.
    fn deliver(batch: &mut PushBatch, endpoints: &[usize], checksums: bool) -> [u64; 3] {
        let sockets =
            bind_group("127.0.0.1:0".parse().unwrap(), 1, 1 << 20, &mut Vec::new()).unwrap();
        if !checksums {
            // The kernel cuts nothing for sockets without checksums.
            crate::net::socket::set_option(&sockets[0], libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
                .unwrap();
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = sockets[0].local_addr().unwrap().port();
        client.connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send(b"hello").unwrap();
        let mut received = ReceiveBatch::default();
        while received.receive(&sockets[0]).unwrap() == 0 {}
        let peer = received.messages(0).next().unwrap().peer;
        let mut pushes = Pushes::default();
        assert!(pushes.make_room(2));
        let mut endpoint = Endpoint::new_zeroed();
        endpoint.slot = U32::new(7);
        let of = [&[][..], &[endpoint; 3], &[endpoint; 24]];
        let bodies: Vec<_> = of.iter().map(|endpoints| pushes.add_body(endpoints)).collect();
        for (number, &count) in (0..).zip(endpoints) {
            let body = bodies.iter().find(|body| usize::from(body.endpoints()) == count).unwrap();
            let header = Header::reply(Kind::Push, Status::Ok, count as u16, U64::new(3));
            let head = PushHead { number: U32::new(number), ..PushHead::new_zeroed() };
            pushes.put(&peer, &header, &head, *body);
        }
        let mut tally = Tally::default();
        batch.send(&mut pushes, &sockets, &mut tally);
        assert!(pushes.is_empty());
        let mut buffer = [0; 2048];
        for (number, &count) in (0..).zip(endpoints) {
            let bytes = client.recv(&mut buffer).unwrap();
            assert_eq!(bytes, 48 + 48 * count);
            let reply = Reply::decode(&buffer[..bytes]).unwrap();
            let ReplyBody::Push(head, endpoints) = reply.body else { panic!("no push") };
            assert_eq!(head.number.get(), number);
            assert!(endpoints.len() == count && endpoints.iter().all(|one| one.slot.get() == 7));
        }
        [Counter::Pushes, Counter::BytesSent, Counter::PushesDropped].map(|what| tally.get(what))
    }

    #[test]
    fn each_of_many_equal_pushes_is_a_datagram() {
        let mut batch = PushBatch::default();
        // As many as the receive buffer of the client holds.
        let mixed: Vec<usize> = (0..100).map(|at| [0, 3, 24][at / 40 % 3]).collect();
        for endpoints in [&[0; 128][..], &[24; 64], &mixed, &[0, 3, 24]] {
            let bytes = endpoints.iter().map(|count| 48 + 48 * *count as u64).sum();
            assert_eq!(deliver(&mut batch, endpoints, true), [endpoints.len() as u64, bytes, 0]);
        }
    }

    #[test]
    fn what_the_kernel_does_not_cut_goes_one_by_one() {
        let mut batch = PushBatch::default();
        assert_eq!(deliver(&mut batch, &[3; 40], false), [40, 40 * 192, 0]);
        assert!(!batch.0.one_by_one, "the device is not to blame");
    }
}
