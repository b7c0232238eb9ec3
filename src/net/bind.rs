//! Listening addresses: a socket for each loop, sharing the port, bound here or before.

use super::inherited::Inherited;
use super::socket::Socket;
use crate::limits::LOOPS_MAX;
use rustix::net::sockopt::set_socket_reuseport;
use socket2::{Domain, Protocol, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

/// Why an address can't be listened on. Nothing stays bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something else listens there.
    #[error("{0} is in use by another program; stop it or choose another `listen` address")]
    InUse(SocketAddr),
    /// A service manager gave more sockets than there are loops, and will not close them.
    #[error(
        "the service manager listens on {address} with {given} sockets, and {loops} loops read no \
         more than {loops}: what comes to the others would be lost; the socket unit must have as \
         many ListenDatagram= lines for each address, and `cores` no fewer CPUs"
    )]
    TooMany {
        /// Where.
        address: SocketAddr,
        /// How many sockets.
        given: usize,
        /// How many loops.
        loops: usize,
    },
    /// A service manager gave a socket that receives for none of the addresses, and will not close
    /// it.
    #[error(
        "the service manager listens on {0}, which is none of `listen` ([::] is both families \
         there: BindIPv6Only=both), and what comes to it would be lost; make the socket \
         unit and `listen` agree"
    )]
    Stray(SocketAddr),
    /// A service manager gave a descriptor that receives no datagrams.
    #[error(
        "the service manager gave a descriptor that receives no datagrams; the socket unit may \
         have ListenDatagram= lines only"
    )]
    NoDatagrams,
    /// The machine has no such address or family, or forbids it.
    #[error("can't listen on {address}: {source}")]
    Io {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    /// Whether the configuration is wrong, so that trying again changes nothing.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::TooMany { .. } | Self::Stray(_) | Self::NoDatagrams)
    }
}

/// Binds one socket for each of `loops` loops to an address; port 0 is chosen by the kernel once
/// for all. Inherited sockets of that address come first: what waits at them is received.
///
/// # Errors
/// When something else listens there, the machine has no such address, or a service manager gave
/// more sockets than there are loops. Nothing stays bound.
pub fn bind_group(
    address: SocketAddr,
    loops: usize,
    queue_bytes: usize,
    inherited: &mut Vec<Inherited>,
) -> Result<Vec<Socket>, BindError> {
    assert!((1..=LOOPS_MAX).contains(&loops));
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        _ => BindError::Io { address, source },
    };
    let mut group = matching(inherited, address, loops, queue_bytes)?;
    if group.is_empty() {
        group
            .push(open_alone(address).and_then(|udp| Socket::new(udp, queue_bytes)).map_err(fail)?);
    }
    let bound = group[0].local_addr().map_err(fail)?;
    for _ in group.len()..loops {
        group.push(open_shared(bound).and_then(|udp| Socket::new(udp, queue_bytes)).map_err(fail)?);
    }
    Ok(group)
}

/// Binds a socket where no other listens, and shares the port from then on. Were it shared while it
/// is bound, the kernel would put it beside the sockets of another engine of the same user, also
/// where it chooses the port (`udp_lib_lport_inuse` in `net/ipv4/udp.c`), and half of what is sent
/// to either would reach the other.
fn open_alone(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

fn open_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn open(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        // `[::]` listens for both families.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// Closes sockets of the store that receive for none of these addresses, and says where they were
/// bound: the service manager must let go of them, too, before others can be bound there. It never
/// lets go of those of a unit.
///
/// # Errors
/// For a socket of a unit that receives for none of the addresses, or receives no datagrams.
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
    use crate::net::ReceiveBatch;
    use crate::net::inherited::distinct;
    use std::collections::HashSet;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;

    /// Two engines on one port would each get half of what is sent to either.
    #[test]
    fn no_two_groups_share_a_port() {
        let address: SocketAddr = "127.9.9.9:0".parse().unwrap();
        // Of some 28,000 ports a shared bind would choose one twice with a probability of 0.99
        // (birthdays).
        let groups: Vec<_> =
            (0..500).map(|_| bind_group(address, 1, 1 << 12, &mut Vec::new()).unwrap()).collect();
        let ports: HashSet<u16> =
            groups.iter().map(|group| group[0].local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), groups.len());
        let taken = groups[0][0].local_addr().unwrap();
        assert!(matches!(bind_group(taken, 1, 1 << 12, &mut Vec::new()), Err(BindError::InUse(_))));
    }

    /// How many datagrams of a hundred senders each socket of a group receives.
    fn shares(group: &[Socket]) -> Vec<usize> {
        for _ in 0..100 {
            UdpSocket::bind("127.0.0.1:0")
                .unwrap()
                .send_to(&[1], group[0].local_addr().unwrap())
                .unwrap();
        }
        let mut batch = ReceiveBatch::default();
        group
            .iter()
            .map(|socket| {
                std::iter::from_fn(|| batch.receive(socket).ok().filter(|&count| count > 0)).sum()
            })
            .collect()
    }

    /// The kernel spreads senders over the sockets of a group, the one that was bound alone among
    /// them.
    #[test]
    fn all_sockets_of_a_group_receive() {
        let group =
            bind_group("127.9.9.8:0".parse().unwrap(), 3, 1 << 20, &mut Vec::new()).unwrap();
        let shares = shares(&group);
        assert!(
            shares.iter().sum::<usize>() == 100 && shares.iter().all(|&count| count > 5),
            "{shares:?}"
        );
    }

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
        let refused = close_strays(&mut inherited, &[other]);
        assert!(matches!(refused, Err(BindError::Stray(at)) if at == address));
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
