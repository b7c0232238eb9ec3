//! IP addresses as the format has them: 16 bytes in network order.

use std::net::{IpAddr, Ipv6Addr};

/// An address as IPv6; IPv4 is mapped (RFC 4291, section 2.5.5.2).
pub fn map_ip(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address in 16 bytes; a mapped IPv4 address is given as one.
pub fn unmap_ip(ip: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(ip).to_canonical()
}
