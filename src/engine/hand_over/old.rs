//! The engine that runs: it hears what a new one wants, stops, and goes on if the new one fails.

use super::channel::{Channel, Listener};
use super::words::{CONVERSATION, Offer, Say, Wish, misunderstood};
use super::{MOVING, PROMPT, shown};
use crate::clock;
use crate::engine::builder::settings;
use crate::engine::snapshot_thread::Order;
use crate::engine::threads::{Begin, Prepared, Threads};
use crate::engine::{Engine, Snapshots, StartError};
use crate::region::{self, Place};
use crate::snapshot::{Reader, Sizes, Writer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long a program that connects may take to say its wish: no other is heard meanwhile.
const WISH: Duration = Duration::from_millis(500);

/// Somebody who wants to replace the engine and prepares for it.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    /// Its process, held, so that its number can't become another's.
    process: OwnedFd,
    shares_snapshot: bool,
}

impl AsFd for Successor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// What became of a hand-over.
#[derive(Debug)]
pub enum HandedOver {
    /// The new engine serves; this one has ended.
    Yes,
    /// The new one did not live to serve: this one goes on.
    No(io::Error),
    /// The new one did not live to serve, but had put memory of another layout in the place of this
    /// one's: this one has ended, and the next start goes on with that memory.
    Lost(io::Error),
}

/// Becomes readable when a new program wants to replace this engine: call [`meet`] then. `None`: it
/// can't be replaced.
pub fn control(engine: &Engine) -> Option<BorrowedFd<'_>> {
    engine.control.as_ref().map(AsFd::as_fd)
}

/// Hears what the new program wants and sends the descriptors. When the result is readable, call
/// [`hand_over`].
///
/// # Errors
/// When the new program wants something else than this engine has, or does not say in half a second
/// what it wants. This engine goes on.
pub fn meet(engine: &Engine) -> io::Result<Successor> {
    let listener = engine.control.as_ref().ok_or(io::ErrorKind::Unsupported)?;
    let channel = listener.accept()?;
    let process = pidfd_open(channel.peer()?, PidfdFlags::empty())?;
    channel.set_patience(WISH)?;
    let wish: Wish = channel.receive()?;
    let refused = engine.refusal(&wish);
    let state = engine.state.as_ref().ok_or(io::ErrorKind::Unsupported)?;
    let shares_snapshot = engine
        .snapshot_file
        .as_ref()
        .filter(|_| wish.snapshot == shown(engine.config.snapshot.as_deref()));
    let addresses = engine.addresses.iter().map(SocketAddr::to_string).collect();
    channel.send(&Offer {
        refused: refused.clone(),
        addresses,
        snapshot: shares_snapshot.is_some(),
        cookie_key: engine.cookie_key,
    })?;
    if !refused.is_empty() {
        return Err(io::Error::other(format!("a hand-over was refused: {refused}")));
    }
    let [heart, public] = engine.region.files();
    let mut fds = vec![state.lock.as_fd(), heart, public];
    fds.extend(shares_snapshot.map(AsFd::as_fd));
    fds.extend(engine.sockets.iter().flatten().map(AsFd::as_fd));
    channel.send_fds(&fds)?;
    Ok(Successor { channel, process, shares_snapshot: shares_snapshot.is_some() })
}

/// Stops, lets the successor go on, and waits until it serves.
pub fn hand_over(engine: &mut Engine, successor: &Successor) -> HandedOver {
    let channel = &successor.channel;
    let say = match channel.receive() {
        Ok(say @ (Say::Prepared | Say::Moves | Say::Reads)) => say,
        Ok(_) => return HandedOver::No(misunderstood()),
        // It ended before anything was stopped.
        Err(error) => return HandedOver::No(error),
    };
    if say == Say::Reads && !(successor.shares_snapshot && engine.snapshot.is_some()) {
        return HandedOver::No(io::Error::other(
            "the new program can't read this memory, and they share no snapshot",
        ));
    }
    // A disk may take its time; until the snapshot thread has let go of it, everything goes on.
    let mut file = if say == Say::Prepared {
        engine.end_snapshots(Order::Yield).map(|(file, _)| file)
    } else {
        None
    };
    engine.stop_listening_locally();
    if let Some(threads) = &engine.threads {
        threads.shared.stop(true);
    }
    let writer =
        engine.threads.take().and_then(Threads::join).expect("a thread of the engine panicked");
    let mut written = true;
    if say != Say::Prepared {
        (file, written) = engine
            .end_snapshots(Order::Finish)
            .map_or((None, false), |(file, written)| (Some(file), written));
    }
    let result = if say == Say::Reads && !written {
        Err(io::Error::other(
            "the last snapshot could not be written, and the new program reads nothing else",
        ))
    } else {
        engine.until_it_serves(channel, say)
    };
    match result {
        Ok(()) => {
            if !engine.region.is_in_place() {
                engine.region.leave(&writer);
            }
            HandedOver::Yes
        }
        Err(error) => {
            end(successor);
            if say != Say::Prepared && !engine.region.is_in_place() {
                return HandedOver::Lost(error);
            }
            engine.go_on(writer, file);
            HandedOver::No(error)
        }
    }
}

impl Engine {
    fn refusal(&self, wish: &Wish) -> String {
        let own = (
            self.config.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            self.cores.len(),
        );
        if wish.conversation != CONVERSATION {
            format!(
                "the new program speaks version {} of the hand-over, this one {CONVERSATION}; \
                 stop this one and start it",
                wish.conversation
            )
        } else if wish.listen != own.0 {
            format!(
                "this engine listens on {}, not on {}; addresses stay as they are",
                own.0.join(" "),
                wish.listen.join(" ")
            )
        } else if wish.loops != own.1 {
            format!(
                "this engine has {} loops, not {}; sockets belong to loops, so their number stays \
                 (`cores`)",
                own.1, wish.loops
            )
        } else {
            String::new()
        }
    }

    fn end_snapshots(&mut self, order: Order) -> Option<(File, bool)> {
        let Snapshots { orders, thread } = self.snapshot.take()?;
        let _ = orders.send(order);
        thread.join().ok()
    }

    fn until_it_serves(&self, channel: &Channel, say: Say) -> io::Result<()> {
        channel.set_patience(if say == Say::Prepared { PROMPT } else { MOVING })?;
        channel.send(&Say::Yours)?;
        match channel.receive()? {
            Say::Serving => Ok(()),
            _ => Err(misunderstood()),
        }
    }

    /// Starts the threads once more.
    fn go_on(&mut self, right: region::Right, file: Option<File>) {
        let settings = settings(&self.config).expect("the kernel has given random numbers before");
        let prepared =
            Prepared::new(self.parts(settings)).expect("the descriptors there were are free again");
        self.launch(prepared, right, Begin::Resume)
            .expect("the threads there were can be started again");
        let sizes = Sizes::new(self.region.geometry());
        let writer = file.and_then(|file| {
            let newest = Reader::open(&file).ok()?.newest();
            Some(Writer::new(file, sizes, newest.as_ref(), &self.region, clock::now()))
        });
        let told = self.failures.take();
        self.start_snapshots(writer).expect("the threads there were can be started again");
        self.failures = self.failures.take().or(told);
        // The successor may have taken the place where others ask.
        self.control = None;
        self.listen_locally().expect("the socket there was can be made again");
        self.listen_for_successors().expect("the socket there was can be made again");
    }

    /// From now on somebody can ask to replace this engine.
    pub(in crate::engine) fn listen_for_successors(&mut self) -> Result<(), StartError> {
        if let Place::Directory(path) = &self.config.state {
            let listener = Listener::new(path)
                .map_err(|source| StartError::State { path: path.clone(), source })?;
            self.control = Some(listener);
        }
        Ok(())
    }
}

/// Makes sure that the process at the other end does nothing any more, and waits until it is gone:
/// there is never more than one that writes.
fn end(successor: &Successor) {
    // A pidfd becomes readable when its process has ended (pidfd_open(2)).
    let ends = |limit: Option<&Timespec>| {
        poll(&mut [PollFd::new(&successor.process, PollFlags::IN)], limit)
    };
    if successor.channel.peer().is_ok_and(|peer| peer != rustix::process::getpid()) {
        // Most end by themselves, and have something to say.
        if ends(Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).is_ok_and(|ended| ended == 1) {
            return;
        }
        let _ = pidfd_send_signal(&successor.process, Signal::KILL);
        while ends(None).is_err() {}
    }
}
