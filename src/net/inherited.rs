//! Sockets that the parent of the process has bound: those of a service manager's socket unit, and
//! those that an engine before left in its store.

use rustix::net::sockopt::{ipv6_v6only, socket_cookie, socket_type};
use rustix::net::{SocketType, getpeername, getsockname};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A socket that was bound before.
#[derive(Debug)]
pub struct Inherited {
    pub(super) fd: OwnedFd,
    /// It comes from the store alone. Sockets of a unit stay open in the service manager whatever
    /// the engine does.
    pub(super) stored: bool,
}

impl Inherited {
    /// A socket; `stored` says that nobody keeps it open but whoever passes it here.
    pub fn new(fd: OwnedFd, stored: bool) -> Self {
        Self { fd, stored }
    }

    /// Where it receives datagrams; `None` for anything else.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let receives = socket_type(&self.fd).is_ok_and(|kind| kind == SocketType::DGRAM)
            && getpeername(&self.fd).is_err();
        getsockname(&self.fd)
            .ok()
            .filter(|_| receives)
            .and_then(|own| SocketAddr::try_from(own).ok())
    }

    /// Whether it receives what a listening address asks for; `[::]` asks for both families.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        let is_half = address.is_ipv6()
            && address.ip().is_unspecified()
            && ipv6_v6only(&self.fd).unwrap_or(true);
        self.address() == Some(address) && !is_half
    }

    /// Whether another user made it, as the service manager does for services that have a user of
    /// their own.
    pub(super) fn is_foreign(&self) -> bool {
        rustix::fs::fstat(&self.fd)
            .is_ok_and(|stat| stat.st_uid != rustix::process::geteuid().as_raw())
    }
}

/// Takes descriptors that the parent process opened for this one; `true` beside one says that it
/// comes from the parent's store alone. There are none when called again: a descriptor has one
/// owner.
///
/// Call it before anything else is opened. A descriptor that was announced and is not there could
/// be taken by what is opened next.
pub fn take_passed(fds: impl IntoIterator<Item = (RawFd, bool)>) -> Vec<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Relaxed) {
        return Vec::new();
    }
    let take = |(fd, stored)| {
        // SAFETY: the parent opened it for this process, as the caller says, and nobody has taken
        // it before.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Inherited::new(fd, stored)
    };
    distinct(fds.into_iter().map(take))
}

/// Leaves out descriptors of one socket beyond the first: what is served from a unit's socket comes
/// from the store once more.
pub(super) fn distinct(all: impl Iterator<Item = Inherited>) -> Vec<Inherited> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
