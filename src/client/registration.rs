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
