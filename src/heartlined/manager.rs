//! The service manager: what it passes, and what it is told (sd_notify(3)).

use heartline::Engine;
use heartline::upgrade::{Inherited, take_passed};
use sd_notify::NotifyState;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The name under which the sockets of an engine lie in the service manager's store.
const STORE_NAME: &str = "heartline-loop";
/// Descriptors in one message; the kernel takes 253 (`SCM_MAX_FD` of `linux/net/scm.h`).
const FDS_MAX: usize = 128;

/// The sockets that the service manager passes (sd_listen_fds(3)).
pub(crate) fn sockets() -> io::Result<Vec<Inherited>> {
    let named = sd_notify::listen_fds_with_names()?;
    Ok(take_passed(named.map(|(fd, name)| (fd, name == STORE_NAME))))
}

/// The engine serves. Its sockets go to the store, so that what arrives while the daemon is
/// restarted waits in their queues.
pub(crate) fn ready(engine: &Engine) {
    tell(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Sockets that an engine with more loops left there would take their share of what comes, and
    // nobody would read it.
    empty();
    let sockets: Vec<BorrowedFd<'_>> = engine.sockets().map(AsFd::as_fd).collect();
    for fds in sockets.chunks(FDS_MAX) {
        let _ = sd_notify::notify_with_fds(
            &[NotifyState::FdStore, NotifyState::FdName(STORE_NAME)],
            fds,
        );
    }
}

/// Has the service manager let go of the sockets in its store, and waits until nobody listens at
/// these addresses of theirs, for a second or two at most.
pub(crate) fn empty_store(addresses: &[SocketAddr]) {
    empty();
    let is_taken = |address: &SocketAddr| {
        UdpSocket::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    for _ in 0..1000 {
        if !addresses.iter().any(is_taken) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn empty() {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(STORE_NAME)]);
}

/// The configuration is being read again; [`reloaded`] follows.
pub(crate) fn reloading() {
    let since = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Status("reloading"));
    tell(&[NotifyState::Reloading, since]);
}

/// The configuration was read again.
pub(crate) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The engine is about to stop.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often the service manager wants to be told that the engine is alive.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}

/// The engine is alive.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Tells the service manager, if there is one.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
