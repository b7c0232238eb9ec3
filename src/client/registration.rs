//! What an instance says of itself: when it registers, and when something changes.

use crate::error::{ClientError, text};
use crate::lease::Lease;
use heartline_wire::{
    Declared, Label, Name, Register, Update, Version, encode_attributes, map_ip, update_fields,
};
use std::net::SocketAddr;
use std::time::Duration;
use zerocopy::FromZeros;

/// What to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Service name, 1 to 63 visible ASCII characters.
    pub service: String,
    /// Instance name, likewise.
    pub instance: String,
    /// Where it serves; an unspecified IP address stands for the one the request comes from.
    pub address: SocketAddr,
    /// Zone, up to 31 characters; may be empty.
    pub zone: String,
    /// Version of the instance.
    pub version: Version,
    /// Share of weighted picks; 0 is never picked by weight.
    pub weight: u16,
    /// Tags and `key=value` pairs, at most 255 bytes each and 512 together.
    pub attributes: Vec<String>,
    /// Time to live, in whole milliseconds: 1 ms to 24 h.
    pub ttl: Duration,
    /// What the instance says of itself until its first beat. An instance that is not ready yet
    /// declares maintenance.
    pub declared: Declared,
    /// The same nonce gets the same lease again; 0: a random one.
    pub nonce: u64,
}

impl Registration {
    /// An instance that serves at this port of this machine, with weight 100 and a TTL of 3
    /// seconds.
    pub fn new(service: &str, instance: &str, port: u16) -> Self {
        Self {
            service: service.into(),
            instance: instance.into(),
            address: SocketAddr::from(([0, 0, 0, 0], port)),
            zone: String::new(),
            version: Version::default(),
            weight: 100,
            attributes: Vec::new(),
            ttl: Duration::from_secs(3),
            declared: Declared::Serving,
            nonce: 0,
        }
    }
}

/// The body and the attribute tail of a register request. The cookie is left 0, for
/// [`Caller`](crate::proto::Caller) to fill in; so is a nonce of 0, which the engine refuses.
///
/// # Errors
/// [`ClientError::Text`], [`ClientError::Attributes`], [`ClientError::Value`]: something does not
/// fit the format.
pub fn encode(registration: &Registration) -> Result<(Register, Vec<u8>), ClientError> {
    let tail = encode_attributes(&registration.attributes)?;
    let mut body = Register::new_zeroed();
    body.nonce = registration.nonce.into();
    let ip = registration.address.ip();
    body.address = if ip.is_unspecified() { [0; 16] } else { map_ip(ip) };
    body.port = registration.address.port().into();
    body.weight = registration.weight.into();
    body.ttl_ms = u32::try_from(registration.ttl.as_millis())
        .map_err(|_| ClientError::Value("the TTL is longer than 24 hours"))?
        .into();
    body.version = registration.version;
    body.attributes_len = (tail.len() as u16).into();
    body.declared = registration.declared as u8;
    body.zone = Label::new(&registration.zone).map_err(text("zone"))?;
    body.service = Name::new(&registration.service).map_err(text("service"))?;
    body.instance = Name::new(&registration.instance).map_err(text("instance"))?;
    Ok((body, tail))
}

/// What to change of an instance; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Share of weighted picks.
    pub weight: Option<u16>,
    /// Load until the next beat.
    pub load: Option<u16>,
    /// Version of the instance.
    pub version: Option<Version>,
    /// Tags and `key=value` pairs that replace those there are.
    pub attributes: Option<Vec<String>>,
}

impl Change {
    /// The body and the attribute tail of an update request.
    pub(crate) fn encode(&self, lease: Lease) -> Result<(Update, Vec<u8>), ClientError> {
        let field = |is_set: bool, bit: u16| if is_set { bit } else { 0 };
        let tail = encode_attributes(self.attributes.as_deref().unwrap_or_default())?;
        let fields = field(self.weight.is_some(), update_fields::WEIGHT)
            | field(self.load.is_some(), update_fields::LOAD)
            | field(self.version.is_some(), update_fields::VERSION)
            | field(self.attributes.is_some(), update_fields::ATTRIBUTES);
        let body = Update {
            lease: lease.into(),
            fields: fields.into(),
            weight: self.weight.unwrap_or_default().into(),
            load: self.load.unwrap_or_default().into(),
            attributes_len: (tail.len() as u16).into(),
            version: self.version.unwrap_or_default(),
        };
        Ok((body, tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline_wire::unmap_ip;

    #[test]
    fn a_registration_says_all_it_is_told() {
        let registration = Registration {
            address: "192.0.2.7:9000".parse().unwrap(),
            zone: "z".into(),
            version: Version::new(1, 2, 3, 4),
            attributes: vec!["canary".into()],
            declared: Declared::Maintenance,
            nonce: 5,
            ..Registration::new("payments", "a", 0)
        };
        let (body, tail) = encode(&registration).unwrap();
        assert_eq!((body.cookie.get(), body.nonce.get()), (0, 5));
        assert_eq!((unmap_ip(body.address), body.port.get()), (registration.address.ip(), 9000));
        assert_eq!((body.weight.get(), body.ttl_ms.get(), body.declared), (100, 3000, 2));
        assert_eq!(body.version, registration.version);
        let texts = (body.zone.as_str(), body.service.as_str(), body.instance.as_str());
        assert_eq!(texts, ("z", "payments", "a"));
        assert_eq!((body.attributes_len.get(), tail.as_slice()), (7, b"\x06canary".as_slice()));
        for address in ["0.0.0.0:80", "[::]:80"] {
            let address = address.parse().unwrap();
            let (body, _) = encode(&Registration { address, ..registration.clone() }).unwrap();
            assert_eq!((body.address, body.port.get()), ([0; 16], 80), "{address}");
        }
    }

    #[test]
    fn a_registration_that_does_not_fit_is_not_sent() {
        let good = Registration::new("payments", "a", 80);
        let error = |registration: Registration| encode(&registration).unwrap_err().to_string();
        let long = || "x".repeat(64);
        for (registration, says) in [
            (Registration { service: long(), ..good.clone() }, "service"),
            (Registration { instance: long(), ..good.clone() }, "instance"),
            (Registration { zone: "x".repeat(32), ..good.clone() }, "zone"),
            (Registration { attributes: vec!["x".repeat(256)], ..good.clone() }, "attribute"),
            (Registration { ttl: Duration::from_millis(1 << 32), ..good.clone() }, "TTL"),
        ] {
            let error = error(registration);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_change_names_the_fields_that_it_has() {
        let lease = Lease::from_parts(1, 2, 3);
        let none = Change::default();
        let version = Version::new(1, 2, 3, 4);
        for (change, fields) in [
            (none.clone(), 0),
            (Change { weight: Some(0), ..none.clone() }, update_fields::WEIGHT),
            (Change { load: Some(0), ..none.clone() }, update_fields::LOAD),
            (Change { version: Some(version), ..none.clone() }, update_fields::VERSION),
            (Change { attributes: Some(Vec::new()), ..none.clone() }, update_fields::ATTRIBUTES),
        ] {
            let (body, tail) = change.encode(lease).unwrap();
            assert_eq!((body.fields.get(), body.attributes_len.get()), (fields, 0), "{change:?}");
            assert_eq!((Lease::from(body.lease), tail), (lease, Vec::new()));
        }
        let all = Change {
            weight: Some(7),
            load: Some(8),
            version: Some(version),
            attributes: Some(vec!["blue".into()]),
        };
        let (body, tail) = all.encode(lease).unwrap();
        assert_eq!(body.fields.get(), update_fields::ALL);
        assert_eq!((body.weight.get(), body.load.get(), body.version), (7, 8, version));
        assert_eq!((body.attributes_len.get(), tail.as_slice()), (5, b"\x04blue".as_slice()));
        let long = Change { attributes: Some(vec!["x".repeat(256)]), ..none };
        assert!(matches!(long.encode(lease), Err(ClientError::Attributes(_))));
    }
}
