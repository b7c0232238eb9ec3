//! An engine that runs: until a signal ends it or a successor has taken over.

use crate::manager;
use crate::options::in_flags;
use crate::signals::Signals;
use heartline::settings::SETTINGS;
use heartline::upgrade::{self, HandedOver, Successor};
use heartline::{Config, Engine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Serves until a signal ends it or a successor has taken over.
pub(crate) fn serve(
    mut engine: Engine,
    mut signals: Signals,
    configure: impl Fn() -> Result<Config, String>,
) -> Result<(), String> {
    manager::ready(&engine);
    let watchdog = manager::watchdog();
    let mut successor: Option<Successor> = None;
    loop {
        let wakes = wait(&engine, &signals, successor.as_ref(), watchdog);
        if wakes.end {
            manager::stopping();
            engine.join();
            return Ok(());
        }
        if wakes.reload {
            signals.take_reload();
            manager::reloading();
            reload(&mut engine, &configure);
            manager::reloaded();
        }
        if wakes.successor
            && let Some(successor) = successor.take()
        {
            match upgrade::hand_over(&mut engine, &successor) {
                HandedOver::Yes => {
                    eprintln!("heartlined: handed over");
                    return Ok(());
                }
                HandedOver::Lost(error) => {
                    return Err(format!(
                        "the successor failed after it had moved the leases; the next start goes \
                         on with them: {error}"
                    ));
                }
                HandedOver::No(error) => {
                    eprintln!("heartlined: not handed over, this engine goes on: {error}");
                }
            }
        }
        if wakes.control {
            match upgrade::meet(&engine) {
                // A second one that asks meanwhile takes the place of the first, which then fails.
                Ok(met) => successor = Some(met),
                Err(error) => {
                    let reason = in_flags(&error.to_string());
                    eprintln!("heartlined: nobody takes over: {reason}");
                }
            }
        }
        if watchdog.is_some() && engine.is_alive() {
            manager::alive();
        }
    }
}

fn reload(engine: &mut Engine, configure: impl Fn() -> Result<Config, String>) {
    match configure().and_then(|config| engine.reload(&config).map_err(|error| error.to_string())) {
        Ok(()) => {
            let names: Vec<&str> =
                SETTINGS.iter().filter(|one| one.reloadable).map(|one| one.name).collect();
            eprintln!("heartlined: {} are as configured now", names.join(", "));
        }
        Err(reason) => eprintln!("heartlined: not reloaded, nothing was changed: {reason}"),
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
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    let control = upgrade::control(engine);
    let watched: [Option<BorrowedFd<'_>>; 4] =
        [Some(signals.end()), Some(signals.reload()), control, successor.map(AsFd::as_fd)];
    let present = watched.iter().flatten();
    let mut fds: Vec<PollFd<'_>> =
        present.map(|&fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    // An interrupted wait is one in which nothing happened: the signal has written to its pipe, and
    // the next one sees that.
    let _ = poll(&mut fds, limit.as_ref());
    let mut polled = fds.iter().map(|fd| !fd.revents().is_empty());
    let [end, reload, control, successor] =
        watched.map(|fd| fd.is_some() && polled.next().is_some_and(|readable| readable));
    Wakes { end, reload, control, successor }
}
