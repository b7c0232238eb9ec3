//! What a reply says of its request.

use std::fmt;
use zerocopy::TryFromBytes;

/// The status byte of a reply. A later engine may have further ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
#[non_exhaustive]
pub enum Status {
    /// The request was carried out.
    Ok = 0,
    /// The source address is not proved: say hello and send the cookie, or (queries) pad the
    /// request to the length of the reply.
    Cookie = 1,
    /// A field has a value that is not accepted; the header's count is its byte offset in the
    /// request.
    Invalid = 2,
    /// The table of leases, services or endpoint lists is full.
    Full = 3,
    /// The source address holds as many leases as one may.
    Quota = 4,
    /// The identity is alive and was registered from another address.
    Conflict = 5,
    /// The deny list names the service.
    Denied = 6,
    /// Another service name with the same id has instances.
    Collision = 7,
    /// The attributes are longer than this engine keeps.
    TooLarge = 8,
    /// The engine can't take the request at this moment; try again.
    Busy = 9,
    /// No such lease was ever given, or its secret is another.
    Unknown = 10,
    /// The identity was registered anew under another lease.
    Replaced = 11,
    /// The lease has ended: given back, or expired and past its tombstone.
    Removed = 12,
    /// At least one beat of the frame was refused; the entries say which and why.
    Nak = 13,
    /// Discover: no such service.
    NoService = 14,
    /// Discover: the service has no instance.
    NoneRegistered = 15,
    /// Discover: the service has instances, and none may be answered: down, suspect and excluded,
    /// draining or in maintenance.
    NoneHealthy = 16,
    /// Discover: every instance that may be answered was filtered out.
    AllFiltered = 17,
    /// Describe: no such instance.
    NoInstance = 18,
}

impl Status {
    /// Every status, in the order of its number.
    pub const ALL: [Self; 19] = [
        Self::Ok,
        Self::Cookie,
        Self::Invalid,
        Self::Full,
        Self::Quota,
        Self::Conflict,
        Self::Denied,
        Self::Collision,
        Self::TooLarge,
        Self::Busy,
        Self::Unknown,
        Self::Replaced,
        Self::Removed,
        Self::Nak,
        Self::NoService,
        Self::NoneRegistered,
        Self::NoneHealthy,
        Self::AllFiltered,
        Self::NoInstance,
    ];

    /// The status with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::try_read_from_bytes(&[number]).ok()
    }

    /// The status in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Cookie => "the source address is not proved",
            Self::Invalid => "a field has a value that is not accepted",
            Self::Full => "the engine has no room",
            Self::Quota => "the source address holds as many as one may",
            Self::Conflict => "the identity lives and was registered from another address",
            Self::Denied => "the deny list names the service",
            Self::Collision => "another service name with the same id has instances",
            Self::TooLarge => "the attributes are longer than this engine keeps",
            Self::Busy => "the engine can't take the request at this moment",
            Self::Unknown => "no such lease was ever given",
            Self::Replaced => "the identity was registered anew under another lease",
            Self::Removed => "the lease has ended",
            Self::Nak => "at least one beat was refused",
            Self::NoService => "no such service",
            Self::NoneRegistered => "the service has no instance",
            Self::NoneHealthy => "no instance of the service may be answered",
            Self::AllFiltered => "the filters leave no instance",
            Self::NoInstance => "no such instance",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, position);
            assert_eq!(Status::from_u8(position as u8), Some(status));
        }
        assert_eq!(Status::from_u8(Status::ALL.len() as u8), None);
    }
}
