//! Sending many replies in one system call.

use super::messages::{Datagram, Messages, Rules};
use super::socket::Socket;
use crate::exchange::Replies;
use crate::limits::GROUP_FRAMES;
use crate::region::{Counter, Tally};
use smallvec::SmallVec;

/// A full send buffer is not waited for: a client without its answer asks again.
const RULES: Rules =
    Rules { sent: Counter::Replies, dropped: Counter::RepliesDropped, waits: |_, _| false };

/// Headers for one `sendmmsg` of replies.
pub struct SendBatch(Messages<1>);

impl Default for SendBatch {
    fn default() -> Self {
        Self(Messages::new(GROUP_FRAMES))
    }
}

impl SendBatch {
    /// Sends all replies from the sockets that their requests came to, and forgets them. Never
    /// waits.
    pub fn send(&mut self, replies: &mut Replies, sockets: &[Socket], tally: &mut Tally) {
        let datagrams = replies.iter().map(|(peer, frame)| (peer, [frame]));
        let all: SmallVec<[Datagram<'_, 1>; GROUP_FRAMES]> = datagrams.collect();
        self.0.send(&all, sockets, &RULES, tally);
        drop(all);
        replies.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Requester;
    use crate::net::{ReceiveBatch, bind_group};
    use crate::wire::{Header, Kind, Status};
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;
    use zerocopy::byteorder::little_endian::U64;

    /// Sends replies of these body lengths to a client of a listening address, which checks that
    /// each is a datagram of its own. Returns replies sent, bytes sent, and replies dropped.
    fn deliver(
        batch: &mut SendBatch,
        listen: &str,
        client: &str,
        bodies: &[usize],
        checksums: bool,
    ) -> [u64; 3] {
        let sockets = bind_group(listen.parse().unwrap(), 1, 1 << 20, &mut Vec::new()).unwrap();
        if !checksums {
            // The kernel cuts nothing for sockets without checksums.
            crate::net::socket::set_option(&sockets[0], libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
                .unwrap();
        }
        let port = sockets[0].local_addr().unwrap().port();
        let client = UdpSocket::bind(client).unwrap();
        let server: SocketAddr = (client.local_addr().unwrap().ip(), port).into();
        client.connect(server).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send(b"hello").unwrap();
        let mut received = ReceiveBatch::default();
        while received.receive(&sockets[0]).unwrap() == 0 {}
        let peer = received.messages(0).next().unwrap().peer;
        let mut replies = Replies::default();
        for (tag, length) in (0..).zip(bodies) {
            let to = Requester { peer, tag: U64::new(tag), budget: 1232 };
            replies.put(
                &to,
                Header::reply(Kind::Hello, Status::Ok, 0, to.tag),
                &[&vec![tag as u8; *length]],
            );
        }
        let mut tally = Tally::default();
        batch.send(&mut replies, &sockets, &mut tally);
        assert!(replies.is_empty());
        let mut buffer = [0; 2048];
        for (tag, length) in (0_u64..).zip(bodies) {
            let bytes = client.recv(&mut buffer).unwrap();
            assert_eq!(bytes, 16 + length, "reply {tag}");
            assert!(
                buffer[8..16] == tag.to_le_bytes()
                    && buffer[16..bytes].iter().all(|&byte| byte == tag as u8),
                "reply {tag}"
            );
        }
        [Counter::Replies, Counter::BytesSent, Counter::RepliesDropped].map(|what| tally.get(what))
    }

    #[test]
    fn each_of_many_equal_replies_is_a_datagram() {
        let mut batch = SendBatch::default();
        let runs = [[48; 64], std::array::from_fn(|at| 32 + 8 * (at / 20)), [1216; 64]];
        for bodies in &runs {
            for (listen, client) in [
                ("127.0.0.1:0", "127.0.0.1:0"),
                ("0.0.0.0:0", "127.0.0.1:0"),
                ("[::]:0", "127.0.0.1:0"),
                ("[::]:0", "[::1]:0"),
            ] {
                let sent = deliver(&mut batch, listen, client, bodies, true);
                let bytes = bodies.iter().map(|length| 16 + *length as u64).sum();
                assert_eq!(sent, [64, bytes, 0], "{listen}");
            }
        }
        assert!(!batch.0.one_by_one);
    }

    #[test]
    fn what_the_kernel_does_not_cut_goes_one_by_one() {
        let mut batch = SendBatch::default();
        let sent = deliver(&mut batch, "127.0.0.1:0", "127.0.0.1:0", &[48; 40], false);
        assert_eq!(sent, [40, 40 * 64, 0]);
        assert!(!batch.0.one_by_one, "the device is not to blame");
        assert_eq!(deliver(&mut batch, "127.0.0.1:0", "127.0.0.1:0", &[48; 40], false)[0], 40);
    }
}
