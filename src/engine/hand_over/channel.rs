//! A Unix socket between an engine and the one that replaces it: whole messages, with descriptors
//! in them (unix(7), `SCM_RIGHTS`).

use super::words::{Message, misunderstood};
use rustix::net::sockopt::{set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
    connect, listen, recvmsg, sendmsg, socket_with,
};
use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Descriptors in one message at most; the kernel takes 253 (`SCM_MAX_FD` of `linux/net/scm.h`).
const FDS_MAX: usize = 128;
/// Longest message.
const MESSAGE_BYTES: usize = 16_384;

/// Where an engine listens for whoever wants to replace it.
#[derive(Debug)]
pub(in crate::engine) struct Listener {
    fd: OwnedFd,
}

fn path_in(state: &Path) -> PathBuf {
    state.join("control")
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl Listener {
    /// Listens in a state directory, which the caller has locked: a socket that is there already is
    /// nobody's.
    pub(super) fn new(state: &Path) -> io::Result<Self> {
        let path = path_in(state);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fd = open()?;
        bind(&fd, &SocketAddrUnix::new(&path)?)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listen(&fd, 4)?;
        Ok(Self { fd })
    }

    /// Somebody who has connected.
    pub(super) fn accept(&self) -> io::Result<Channel> {
        Ok(Channel { fd: accept_with(&self.fd, SocketFlags::CLOEXEC)? })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Channel {
    /// Connects to the engine of a state directory; `None`: there is none.
    pub(super) fn connect(state: &Path) -> io::Result<Option<Self>> {
        let fd = open()?;
        match connect(&fd, &SocketAddrUnix::new(path_in(state))?) {
            Ok(()) => Ok(Some(Self { fd })),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How long the other end may take for the next message.
    pub(super) fn set_patience(&self, time: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.fd, rustix::net::sockopt::Timeout::Recv, Some(time))?)
    }

    /// The process at the other end.
    pub(super) fn peer(&self) -> io::Result<rustix::process::Pid> {
        Ok(socket_peercred(&self.fd)?.pid)
    }

    pub(super) fn send(&self, message: &impl Message) -> io::Result<()> {
        self.send_bytes(message.write().as_bytes(), &[])
    }

    /// Sends descriptors, in as many messages as that takes.
    pub(super) fn send_fds(&self, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        fds.chunks(FDS_MAX).try_for_each(|fds| self.send_bytes(b"fds", fds))
    }

    fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    pub(super) fn receive<T: Message>(&self) -> io::Result<T> {
        let (bytes, _) = self.receive_bytes()?;
        let text = std::str::from_utf8(&bytes).ok();
        text.and_then(T::read).ok_or_else(misunderstood)
    }

    /// Receives so many descriptors.
    pub(super) fn receive_fds(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut fds = Vec::new();
        while fds.len() < count {
            let (_, more) = self.receive_bytes()?;
            if more.is_empty() {
                return Err(io::Error::other("descriptors are missing"));
            }
            fds.extend(more);
        }
        Ok(fds)
    }

    fn receive_bytes(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.fd,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(received.bytes);
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok((bytes, fds.flatten().collect()))
    }
}
