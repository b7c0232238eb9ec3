//! Sockets that a service manager hands to the process (sd_listen_fds(3)).

use super::socket::Socket;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The descriptors that were handed over; none when called again.
pub fn inherited() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Relaxed) {
        return Ok(Vec::new());
    }
    let take = |fd| {
        // SAFETY: the service manager opened it for this process (`listen_fds` checks LISTEN_PID), and nobody has taken it before.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    Ok(sd_notify::listen_fds()?.map(take).collect())
}

/// Takes the inherited sockets of one address, at most one for each loop.
pub(super) fn matching(inherited: &mut Vec<OwnedFd>, address: SocketAddr, loops: usize, queue_bytes: usize) -> io::Result<Vec<Socket>> {
    let is_own = |fd: &mut OwnedFd| rustix::net::getsockname(fd).ok().and_then(|own| SocketAddr::try_from(own).ok()) == Some(address);
    let mut own: Vec<OwnedFd> = inherited.extract_if(.., is_own).collect();
    inherited.extend(own.drain(loops.min(own.len())..));
    own.into_iter().map(|fd| Socket::adopt(fd, queue_bytes)).collect()
}
