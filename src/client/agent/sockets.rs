//! The sockets of an agent, one for each engine, and the names behind them.

use crate::error::ClientError;
use heartline_wire::limits::PORT;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Where an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As it was given.
    pub(super) text: Arc<str>,
    host: String,
    port: u16,
    /// The address, where it is one and no name.
    address: Option<SocketAddr>,
}

/// Reads a list of engines: addresses or host names, separated by commas, with or without a port.
pub(super) fn places(list: &str) -> Result<Vec<Place>, ClientError> {
    let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
    let places: Vec<Place> = texts.map(place).collect::<Result<_, _>>()?;
    if places.is_empty() {
        return Err(ClientError::Value("the list names no engine"));
    }
    Ok(places)
}

fn place(text: &str) -> Result<Place, ClientError> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().ok().or_else(|| {
        let ip: IpAddr = bare.parse().ok()?;
        Some(SocketAddr::new(ip, PORT))
    });
    let (host, port) = match (address, text.rsplit_once(':')) {
        (Some(address), _) => (address.ip().to_string(), address.port()),
        (None, Some((host, port))) => {
            let port = port.parse().map_err(|_| {
                ClientError::Value("an engine is an address or host name, with or without :port")
            })?;
            (host.to_owned(), port)
        }
        (None, None) => (text.to_owned(), PORT),
    };
    let is_name = |host: &str| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    if address.is_none() && !is_name(&host) {
        return Err(ClientError::Value("an engine is an address or host name"));
    }
    Ok(Place { text: text.into(), host, port, address })
}

impl Place {
    /// Asks the resolver of the system; this can take seconds.
    pub(super) fn resolve(&self) -> Vec<SocketAddr> {
        (self.host.as_str(), self.port).to_socket_addrs().map_or(Vec::new(), Iterator::collect)
    }
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// Nobody listens there, said an ICMP message.
    Refused,
    No,
}

/// The socket to one engine.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) place: Place,
    token: Token,
    socket: Option<UdpSocket>,
    addresses: Vec<SocketAddr>,
    /// Which of the addresses is tried next.
    turn: usize,
    pub(super) is_resolving: bool,
}

impl Socket {
    pub(super) fn new(place: Place, token: Token) -> Self {
        let addresses = place.address.into_iter().collect();
        Self { place, token, socket: None, addresses, turn: 0, is_resolving: false }
    }

    pub(super) fn is_name(&self) -> bool {
        self.place.address.is_none()
    }

    pub(super) fn has_address(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Takes what the name stands for now; whether the socket is to be opened for it.
    pub(super) fn resolved(&mut self, addresses: Vec<SocketAddr>) -> bool {
        self.is_resolving = false;
        if addresses.is_empty() {
            return false;
        }
        let peer = self.socket.as_ref().and_then(|socket| socket.peer_addr().ok());
        let is_same = peer.is_some_and(|peer| addresses.contains(&peer));
        (self.addresses, self.turn) = (addresses, 0);
        !is_same
    }

    /// Opens a socket to the next address, in place of the one there was. The kernel chooses the
    /// address on this side, which is the result.
    pub(super) fn open(&mut self, registry: &Registry) -> io::Result<IpAddr> {
        let Some(&engine) = self.addresses.get(self.turn % self.addresses.len().max(1)) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        self.turn = self.turn.wrapping_add(1);
        let any = match engine {
            SocketAddr::V4(_) => SocketAddr::from(([0_u8; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
        };
        let mut socket = UdpSocket::bind(any)?;
        socket.connect(engine)?;
        let local = socket.local_addr()?.ip();
        registry.register(&mut socket, self.token, Interest::READABLE)?;
        if let Some(mut former) = self.socket.replace(socket) {
            // It goes with its file descriptor anyway.
            let _ = registry.deregister(&mut former);
        }
        Ok(local)
    }

    /// Whether the engine is on this machine.
    pub(super) fn is_local(&self) -> bool {
        let Some(socket) = &self.socket else { return false };
        let ends = (socket.peer_addr(), socket.local_addr());
        matches!(ends, (Ok(peer), Ok(local)) if peer.ip() == local.ip() || peer.ip().is_loopback())
    }

    pub(super) fn send(&self, frame: &[u8]) -> Sent {
        let Some(socket) = &self.socket else { return Sent::No };
        match socket.send(frame) {
            Ok(_) => Sent::Yes,
            // The error is that of an earlier datagram, and this one was not sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = socket.send(frame);
                Sent::Refused
            }
            Err(_) => Sent::No,
        }
    }

    /// The next datagram. `None`: there is none for now.
    pub(super) fn receive(&self, frame: &mut [u8]) -> Option<io::Result<usize>> {
        match self.socket.as_ref()?.recv(frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_addresses_and_names_with_or_without_a_port() {
        for (text, host, port, is_address) in [
            ("10.0.0.1:9", "10.0.0.1", 9, true),
            ("10.0.0.1", "10.0.0.1", PORT, true),
            ("[::1]:9", "::1", 9, true),
            ("[::1]", "::1", PORT, true),
            ("::1", "::1", PORT, true),
            ("engine-1.example", "engine-1.example", PORT, false),
            ("engine:9", "engine", 9, false),
        ] {
            let place = place(text).unwrap();
            assert_eq!((place.host.as_str(), place.port), (host, port), "{text}");
            assert_eq!(place.address.is_some(), is_address, "{text}");
        }
        for text in ["engine:x", "engine:70000", ":9", "a b", "[::1", "http://engine"] {
            assert!(place(text).is_err(), "{text}");
        }
        let texts = |list| {
            places(list).map(|all| all.iter().map(|it| it.text.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(texts(" a:1, b ,").unwrap(), ["a:1", "b"]);
        assert!(texts(" , ").is_err());
    }

    #[test]
    fn names_are_resolved() {
        let addresses = place("localhost:9").unwrap().resolve();
        assert!(addresses.iter().any(|address| address.ip().is_loopback() && address.port() == 9));
        let mut socket = Socket::new(place("localhost:9").unwrap(), Token(0));
        assert!(socket.is_name() && !socket.has_address());
        assert!(!socket.resolved(Vec::new()), "an answer without addresses changes nothing");
        assert!(socket.resolved(addresses), "there is no socket yet");
    }
}
