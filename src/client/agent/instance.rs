//! What an agent registers: one instance of a service.

use crate::error::ClientError;
use crate::registration::{Registration, encode};
use heartline_wire::limits::{NAME_BYTES_MAX, TTL_MS_MAX, TTL_MS_MIN};
use heartline_wire::{Declared, Register, Version, check_attributes};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One instance of a service, for [`Agent::register`](crate::Agent::register).
///
/// | field | default | reason |
/// |---|---|---|
/// | name | host name and port | unique on a network, and the same after a restart |
/// | address | the source address | right wherever no address is translated |
/// | weight | 100 | can be halved and doubled |
/// | TTL | 3 s | a death is seen in 3 s; a pause or a loss of 2 s is forgiven; 1.3 beats a second |
/// | declared | serving | |
///
/// ```
/// use heartline_client::Instance;
/// use std::time::Duration;
///
/// let web = Instance::new("web", 8080)
///     .zone("eu-1a")
///     .tag("canary")
///     .attribute("rack", "b12")
///     .ttl(Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct Instance {
    registration: Registration,
    load: u16,
}

impl Instance {
    /// An instance that serves at this port of this machine.
    pub fn new(service: &str, port: u16) -> Self {
        Self { registration: Registration::new(service, &default_name(port), port), load: 0 }
    }

    /// Sets its name, 1 to 63 visible ASCII characters, unique in the service.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.registration.instance = name.into();
        self
    }

    /// Sets the IP address at which it serves; an unspecified one stands for the source address.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.registration.address = SocketAddr::new(address, self.registration.address.port());
        self
    }

    /// Sets its zone, up to 31 visible ASCII characters.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.registration.zone = zone.into();
        self
    }

    /// Sets its version.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.registration.version = version;
        self
    }

    /// Sets its share of weighted picks; 0 is never picked by weight.
    #[must_use]
    pub fn weight(mut self, weight: u16) -> Self {
        self.registration.weight = weight;
        self
    }

    /// Sets the time to live, in whole milliseconds from 1 ms to 24 h. The engine asks for four
    /// beats in it.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.registration.ttl = ttl;
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.registration.attributes.push(tag.into());
        self
    }

    /// Adds an attribute `key=value`.
    #[must_use]
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.registration.attributes.push(format!("{key}={value}"));
        self
    }

    /// Sets how busy it is at first, in its own unit; less is less busy.
    #[must_use]
    pub fn load(mut self, load: u16) -> Self {
        self.load = load;
        self
    }

    /// Sets what it says of itself at first. An instance that is not ready yet declares
    /// [`Declared::Maintenance`], and serves once
    /// [`Registered::serve`](crate::Registered::serve) is called.
    #[must_use]
    pub fn declared(mut self, declared: Declared) -> Self {
        self.registration.declared = declared;
        self
    }

    pub(super) fn identity(&self) -> (&str, &str) {
        (&self.registration.service, &self.registration.instance)
    }

    pub(super) fn first_load(&self) -> u16 {
        self.load
    }

    /// The body and the attributes of its register request, without cookie and nonce.
    pub(super) fn encode(&self) -> Result<(Register, Vec<u8>), ClientError> {
        let (body, tail) = encode(&self.registration)?;
        if body.service.is_empty() || body.instance.is_empty() {
            return Err(ClientError::Value("service and instance need names"));
        }
        check_tail(&tail)?;
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&body.ttl_ms.get()) {
            return Err(ClientError::Value("the TTL is not from 1 ms to 24 h"));
        }
        if self.registration.declared == Declared::Leaving {
            return Err(ClientError::Value("an instance that leaves can't be registered"));
        }
        Ok((body, tail))
    }
}

/// What the engine would refuse as invalid.
pub(super) fn check_tail(tail: &[u8]) -> Result<(), ClientError> {
    if check_attributes(tail) {
        Ok(())
    } else {
        Err(ClientError::Value("an attribute is empty, starts with '=' or has control characters"))
    }
}

/// Host name and port; the port only if there is one.
fn default_name(port: u16) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    name_of(host.trim(), port)
}

fn name_of(host: &str, port: u16) -> String {
    let end = if port == 0 { String::new() } else { format!(":{port}") };
    let host: String = host.chars().filter(char::is_ascii_graphic).collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    format!("{}{end}", &host[..host.len().min(NAME_BYTES_MAX - end.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_and_port_and_fit() {
        assert_eq!(name_of("db-7", 8080), "db-7:8080");
        assert_eq!(name_of("db-7", 0), "db-7");
        assert_eq!(name_of("", 80), "localhost:80");
        let long = name_of(&"h".repeat(64), 65535);
        assert!(long.len() == NAME_BYTES_MAX && long.ends_with(":65535"), "{long}");
        let instance = Instance::new("web", 8080);
        let name = instance.identity().1;
        assert!(name.ends_with(":8080") && name.len() > 5, "{name}");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_sent() {
        let good = || Instance::new("web", 80);
        assert!(good().encode().is_ok());
        for (instance, says) in [
            (Instance::new("", 80), "names"),
            (good().name(""), "names"),
            (good().name("white space"), "instance"),
            (good().zone(&"z".repeat(32)), "zone"),
            (good().tag(""), "attribute"),
            (good().attribute("", "x"), "attribute"),
            (good().tag("a\nb"), "attribute"),
            (good().ttl(Duration::ZERO), "TTL"),
            (good().ttl(Duration::from_secs(86_401)), "TTL"),
            (good().declared(Declared::Leaving), "leaves"),
        ] {
            let error = instance.encode().unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
