//! What the daemon does beside serving: signals, successors, and the service manager
//! (sd_notify(3)).

use heartline::engine::{HandedOver, Successor};
use heartline::net::{Inherited, take_passed};
use heartline::{Config, Engine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The name under which the sockets of an engine lie in the service manager's store.
const STORE_NAME: &str = "heartline-loop";

/// The sockets that the service manager passes (sd_listen_fds(3)).
pub(crate) fn sockets() -> io::Result<Vec<Inherited>> {
    let named = sd_notify::listen_fds_with_names()?;
    Ok(take_passed(named.map(|(fd, name)| (fd, name == STORE_NAME))))
}

/// Signals, as something to wait for.
pub(crate) struct Signals {
    end: UnixStream,
    reload: UnixStream,
}

impl Signals {
    /// From now on signals wait to be read.
    pub(crate) fn catch() -> io::Result<Self> {
        let ((end, terminate), (reload, hang_up)) = (UnixStream::pair()?, UnixStream::pair()?);
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, terminate.try_clone()?)?;
        }
        pipe::register(SIGHUP, hang_up)?;
        for stream in [&end, &reload] {
            stream.set_nonblocking(true)?;
        }
        Ok(Self { end, reload })
    }
}

/// Serves until a signal ends it or a successor has taken over.
pub(crate) fn serve(
    mut engine: Engine,
    mut signals: Signals,
    reload: impl Fn() -> Result<Config, String>,
) -> Result<(), String> {
    tell(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
    let store: Vec<BorrowedFd<'_>> = engine.sockets().map(AsFd::as_fd).collect();
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        // With the sockets in its store, what arrives while the daemon is restarted waits in their
        // queues. What an engine with more loops left there would take its share of what comes, and
        // nobody would read it.
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(STORE_NAME)]);
        for fds in store.chunks(128) {
            let _ = sd_notify::notify_with_fds(
                &[NotifyState::FdStore, NotifyState::FdName(STORE_NAME)],
                fds,
            );
        }
    }
    drop(store);
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 3);
    let mut successor: Option<Successor> = None;
    loop {
        let wakes = wait(&engine, &signals, successor.as_ref(), watchdog);
        if wakes.end {
            tell(&[NotifyState::Stopping]);
            engine.join();
            return Ok(());
        }
        if wakes.reload {
            let mut bytes = [0; 64];
            while signals.reload.read(&mut bytes).is_ok_and(|count| count > 0) {}
            tell(&[NotifyState::Reloading, monotonic()]);
            match reload()
                .and_then(|config| engine.reload(&config).map_err(|error| error.to_string()))
            {
                Ok(()) => eprintln!(
                    "heartlined: deny list, quota and snapshot interval are as configured now"
                ),
                Err(reason) => eprintln!("heartlined: not reloaded, nothing was changed: {reason}"),
            }
            tell(&[NotifyState::Ready]);
        }
        if wakes.successor
            && let Some(successor) = successor.take()
        {
            match engine.hand_over(&successor) {
                HandedOver::Yes => {
                    eprintln!("heartlined: handed over");
                    return Ok(());
                }
                HandedOver::Lost(error) => {
                    return Err(format!(
                        "the successor failed after it had moved the leases; the next start goes on with them: {error}"
                    ));
                }
                HandedOver::No(error) => {
                    eprintln!("heartlined: not handed over, this engine goes on: {error}")
                }
            }
        }
        if wakes.control {
            match engine.meet() {
                // A second one that asks meanwhile takes the place of the first, which then fails.
                Ok(met) => successor = Some(met),
                Err(error) => eprintln!("heartlined: nobody takes over: {error}"),
            }
        }
        if watchdog.is_some() && engine.is_alive() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Has the service manager let go of the sockets in its store, and waits until nobody listens at
/// these addresses of theirs, for a second or two at most.
pub(crate) fn empty_store(addresses: &[SocketAddr]) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(STORE_NAME)]);
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

/// What there is to do.
struct Wakes {
    end: bool,
    reload: bool,
    control: bool,
    successor: bool,
}

fn wait(
    engine: &Engine,
    signals: &Signals,
    successor: Option<&Successor>,
    limit: Option<Duration>,
) -> Wakes {
    let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut fds = vec![readable(signals.end.as_fd()), readable(signals.reload.as_fd())];
    let control = engine.control().map(|fd| (fds.len(), fds.push(readable(fd))).0);
    let successor = successor.map(|successor| (fds.len(), fds.push(readable(successor.as_fd()))).0);
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    // An interrupted wait is one in which nothing happened: the signal has written to its pipe, and
    // the next one sees that.
    let _ = poll(&mut fds, limit.as_ref());
    let is = |at: usize| !fds[at].revents().is_empty();
    Wakes {
        end: is(0),
        reload: is(1),
        control: control.is_some_and(is),
        successor: successor.is_some_and(is),
    }
}

/// Tells the service manager, if there is one.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

fn monotonic() -> NotifyState<'static> {
    NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Status("reloading"))
}
