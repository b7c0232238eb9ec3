//! Signals, as descriptors that become readable.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Signals that have come and were not yet acted upon.
pub(crate) struct Signals {
    end: UnixStream,
    reload: UnixStream,
}

impl Signals {
    /// From now on signals wait to be read. Those that end the daemon also raise a flag, for a
    /// start that takes long.
    pub(crate) fn catch() -> io::Result<(Self, Arc<AtomicBool>)> {
        let ((end, terminate), (reload, hang_up)) = (UnixStream::pair()?, UnixStream::pair()?);
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
            pipe::register(signal, terminate.try_clone()?)?;
        }
        pipe::register(SIGHUP, hang_up)?;
        for stream in [&end, &reload] {
            stream.set_nonblocking(true)?;
        }
        Ok((Self { end, reload }, stop))
    }

    /// Readable when the daemon is to end.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Readable when the configuration is to be read again.
    pub(crate) fn reload(&self) -> BorrowedFd<'_> {
        self.reload.as_fd()
    }

    /// Takes note of all that ask to read the configuration again.
    pub(crate) fn take_reload(&mut self) {
        let mut bytes = [0; 64];
        while self.reload.read(&mut bytes).is_ok_and(|count| count > 0) {}
    }
}
