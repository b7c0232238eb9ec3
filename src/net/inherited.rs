//! Sockets that a service manager hands to the process (sd_listen_fds(3)): those of a socket unit,
//! and those that an engine before left in its store.

use super::socket::{BindError, Socket};
use rustix::net::sockopt::{ipv6_v6only, set_socket_reuseport, socket_cookie, socket_type};
use rustix::net::{SocketType, getpeername, getsockname};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The name under which an engine leaves its sockets in the service manager's store.
pub const STORE_NAME: &str = "heartline-loop";

/// A socket that was bound before.
#[derive(Debug)]
pub struct Inherited {
    fd: OwnedFd,
    /// It comes from the store alone. Sockets of a unit stay open in the service manager whatever
    /// the engine does.
    stored: bool,
}

impl Inherited {
    /// A socket; `stored` says that nobody keeps it open but whoever passes it here.
    pub fn new(fd: OwnedFd, stored: bool) -> Self {
        Self { fd, stored }
    }

    /// Where it receives datagrams; `None` for anything else.
    fn address(&self) -> Option<SocketAddr> {
        let receives = socket_type(&self.fd).is_ok_and(|kind| kind == SocketType::DGRAM)
            && getpeername(&self.fd).is_err();
        getsockname(&self.fd)
            .ok()
            .filter(|_| receives)
            .and_then(|own| SocketAddr::try_from(own).ok())
    }

    /// Whether it receives what an address of `--listen` asks for; `[::]` asks for both families.
    fn is_at(&self, address: SocketAddr) -> bool {
        let is_half = address.is_ipv6()
            && address.ip().is_unspecified()
            && ipv6_v6only(&self.fd).unwrap_or(true);
        self.address() == Some(address) && !is_half
    }

    /// Whether another user made it, as the service manager does for services that have a user of
    /// their own.
    fn is_foreign(&self) -> bool {
        rustix::fs::fstat(&self.fd)
            .is_ok_and(|stat| stat.st_uid != rustix::process::geteuid().as_raw())
    }
}

/// The sockets that were handed over; none when called again.
pub fn inherited() -> io::Result<Vec<Inherited>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Relaxed) {
        return Ok(Vec::new());
    }
    let take = |(fd, name): (_, String)| {
        // SAFETY: the service manager opened it for this process (`listen_fds` checks LISTEN_PID),
        // and nobody has taken it before.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Inherited::new(fd, name == STORE_NAME)
    };
    Ok(distinct(sd_notify::listen_fds_with_names()?.map(take)))
}

/// Leaves out descriptors of one socket beyond the first: what is served from a unit's socket comes
/// from the store once more.
fn distinct(all: impl Iterator<Item = Inherited>) -> Vec<Inherited> {
    let (mut kept, mut places) = (Vec::<Inherited>::new(), HashMap::new());
    for one in all {
        let place =
            socket_cookie(&one.fd).ok().map(|cookie| *places.entry(cookie).or_insert(kept.len()));
        match place.and_then(|place| kept.get_mut(place)) {
            Some(first) => first.stored &= one.stored,
            None => kept.push(one),
        }
    }
    kept
}

/// Closes sockets of the store that receive for none of these addresses, and says where they were
/// bound: the service manager must let go of them, too, before others can be bound there. It never
/// lets go of those of a unit.
pub fn close_strays(
    inherited: &mut Vec<Inherited>,
    listen: &[SocketAddr],
) -> Result<Vec<SocketAddr>, BindError> {
    let is_stray = |one: &mut Inherited| !listen.iter().any(|&address| one.is_at(address));
    let strays: Vec<Inherited> = inherited.extract_if(.., is_stray).collect();
    match strays.iter().find(|one| !one.stored).map(Inherited::address) {
        None => Ok(strays.iter().filter_map(Inherited::address).collect()),
        Some(Some(address)) => Err(BindError::Stray(address)),
        Some(None) => Err(BindError::NoDatagrams),
    }
}

/// For how many of `loops` loops there can be a socket at this address: the kernel lets only
/// sockets of one user share a port (`udp_lib_lport_inuse` in `net/ipv4/udp.c`), so beside
/// inherited ones of another there can be no more.
pub fn loops_possible(inherited: &[Inherited], address: SocketAddr, loops: usize) -> usize {
    let own: Vec<&Inherited> = inherited.iter().filter(|one| one.is_at(address)).collect();
    if own.iter().any(|one| one.is_foreign()) { loops.min(own.len()) } else { loops }
}

/// Takes the inherited sockets of one address, one for each loop at most. Others are closed: nobody
/// would read what comes to them.
pub(super) fn matching(
    inherited: &mut Vec<Inherited>,
    address: SocketAddr,
    loops: usize,
    queue_bytes: usize,
) -> Result<Vec<Socket>, BindError> {
    let mut own: Vec<Inherited> = inherited.extract_if(.., |one| one.is_at(address)).collect();
    let given = own.iter().filter(|one| !one.stored).count();
    if given > loops {
        return Err(BindError::TooMany { address, given, loops });
    }
    own.sort_by_key(|one| one.stored);
    own.truncate(loops);
    let adopt = |one: Inherited| {
        // A unit may have left it out; more loops than sockets need it.
        set_socket_reuseport(one.fd.as_fd(), true)?;
        Socket::adopt(one.fd, queue_bytes)
    };
    own.into_iter()
        .map(|one| adopt(one).map_err(|source| BindError::Io { address, source }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::bind_group;
    use crate::net::socket::tests::shares;
    use std::net::{TcpListener, UdpSocket};

    /// Sockets as a unit or an engine before leaves them: bound to one address, with descriptors of
    /// their own.
    fn given(count: usize, stored: bool) -> (SocketAddr, Vec<Inherited>, Vec<OwnedFd>) {
        let group =
            bind_group("127.9.9.7:0".parse().unwrap(), count, 1 << 16, &mut Vec::new()).unwrap();
        let copies = || group.iter().map(|socket| socket.as_fd().try_clone_to_owned().unwrap());
        let inherited = copies().map(|fd| Inherited::new(fd, stored)).collect();
        (group[0].local_addr().unwrap(), inherited, copies().collect())
    }

    #[test]
    fn one_socket_given_twice_is_one() {
        let (address, mut inherited, fds) = given(2, false);
        inherited.extend(fds.into_iter().map(|fd| Inherited::new(fd, true)));
        let mut inherited = distinct(inherited.into_iter());
        assert_eq!((inherited.len(), inherited.iter().any(|one| one.stored)), (2, false));
        let group = bind_group(address, 2, 1 << 16, &mut inherited).unwrap();
        let shares = shares(&group);
        assert!(
            shares.iter().sum::<usize>() == 100 && shares.iter().all(|&count| count > 10),
            "{shares:?}"
        );
    }

    /// Fewer loops than before: what the store has too much is closed, or it would take its share
    /// of what comes.
    #[test]
    fn what_is_left_over_in_the_store_is_closed() {
        let (address, mut inherited, fds) = given(3, true);
        // The service manager lets go of them when it is told to.
        drop(fds);
        let group = bind_group(address, 1, 1 << 16, &mut inherited).unwrap();
        assert_eq!((shares(&group), inherited.len()), (vec![100], 0));
    }

    #[test]
    fn a_unit_with_more_sockets_than_loops_is_refused() {
        let (address, mut inherited, _fds) = given(3, false);
        let refused = bind_group(address, 2, 1 << 16, &mut inherited).unwrap_err();
        assert!(
            refused.to_string().contains("3 sockets")
                && refused.to_string().contains("ListenDatagram="),
            "{refused}"
        );
    }

    #[test]
    fn what_receives_no_datagrams_is_no_socket_of_ours() {
        let stream = TcpListener::bind("127.9.9.7:0").unwrap();
        let address = stream.local_addr().unwrap();
        let mut inherited = vec![Inherited::new(stream.into(), false)];
        let group = bind_group(address, 1, 1 << 16, &mut inherited).unwrap();
        assert_eq!((shares(&group), inherited.len()), (vec![100], 1));
        assert!(matches!(close_strays(&mut inherited, &[address]), Err(BindError::NoDatagrams)));
    }

    #[test]
    fn strays_of_the_store_are_closed_and_those_of_a_unit_refused() {
        let (address, mut inherited, fds) = given(2, true);
        drop(fds);
        assert!(
            close_strays(&mut inherited, &[address]).unwrap().is_empty() && inherited.len() == 2
        );
        let other: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(close_strays(&mut inherited, &[other]).unwrap(), [address, address]);
        assert!(inherited.is_empty());
        let (address, mut inherited, _fds) = given(1, false);
        assert!(
            matches!(close_strays(&mut inherited, &[other]), Err(BindError::Stray(at)) if at == address)
        );
    }

    /// `[::]` is for both families; a socket that takes one would leave the other unheard.
    #[test]
    fn a_socket_of_one_family_is_not_both() {
        for only in [true, false] {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
            socket.set_only_v6(only).unwrap();
            if socket.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).is_err() {
                println!("skipped: this machine has no IPv6");
                return;
            }
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(Inherited::new(socket.into(), true).is_at(address), !only);
        }
    }

    #[test]
    fn more_loops_than_sockets_share_the_port() {
        let alone = UdpSocket::bind("127.9.9.7:0").unwrap();
        let address = alone.local_addr().unwrap();
        let mut inherited = vec![Inherited::new(alone.into(), false)];
        assert_eq!(loops_possible(&inherited, address, 2), 2, "of one's own user");
        let group = bind_group(address, 2, 1 << 16, &mut inherited).unwrap();
        let shares = shares(&group);
        assert!(
            shares.iter().sum::<usize>() == 100 && shares.iter().all(|&count| count > 10),
            "{shares:?}"
        );
    }
}
