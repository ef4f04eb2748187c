//! Whom the relay may send to: never the provider's own networks, unless its operator says so.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Networks that an operator may allow.
pub const MAX_ALLOWED: usize = 64;

/// An IP network in CIDR notation, such as `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no network; write an address, '/' and the prefix's length, such as 10.1.0.0/16")]
pub struct CidrError {
    /// The text.
    pub text: String,
}

impl CidrError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "TRB-5701"
    }
}

const fn bits_v4(ip: Ipv4Addr) -> u128 {
    (ip.to_bits() as u128) << 96
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(a: u16, b: u16, prefix: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether the address lies in it.
    #[must_use]
    pub const fn contains(&self, ip: IpAddr) -> bool {
        let (ours, theirs) = match (self.address, ip) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (bits_v4(ours), bits_v4(theirs)),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits()),
            _ => return false,
        };
        self.prefix == 0 || (ours ^ theirs) >> (128 - self.prefix as u32) == 0
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError { text: text.chars().filter(|c| !c.is_control()).take(64).collect() };
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most { Err(error()) } else { Ok(Self { address, prefix }) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What isn't the public network, by the IANA registries of special-purpose addresses.
const REFUSED: &[Cidr] = &[
    Cidr::v4(0, 0, 0, 0, 8),
    Cidr::v4(10, 0, 0, 0, 8),
    Cidr::v4(100, 64, 0, 0, 10),
    Cidr::v4(127, 0, 0, 0, 8),
    Cidr::v4(169, 254, 0, 0, 16),
    Cidr::v4(172, 16, 0, 0, 12),
    Cidr::v4(192, 0, 0, 0, 24),
    Cidr::v4(192, 0, 2, 0, 24),
    Cidr::v4(192, 88, 99, 0, 24),
    Cidr::v4(192, 168, 0, 0, 16),
    Cidr::v4(198, 18, 0, 0, 15),
    Cidr::v4(198, 51, 100, 0, 24),
    Cidr::v4(203, 0, 113, 0, 24),
    Cidr::v4(224, 0, 0, 0, 4),
    Cidr::v4(240, 0, 0, 0, 4),
    // Of IPv6 only 2000::/3 is public, less what lies in it and isn't.
    Cidr::v6(0x2001, 0, 23),
    Cidr::v6(0x2001, 0xdb8, 32),
    Cidr::v6(0x2002, 0, 16),
    Cidr::v6(0x3fff, 0, 20),
];
const PUBLIC_V6: Cidr = Cidr::v6(0x2000, 0, 3);
/// NAT64's own prefix: what it stands for is an IPv4 address.
const NAT64: Cidr = Cidr::v6(0x64, 0xff9b, 96);

/// The address that a packet to `ip` reaches.
fn reached(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if NAT64.contains(ip) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Whether peers may be relayed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicy {
    allowed: Vec<Cidr>,
}

impl PeerPolicy {
    /// The public network, and these.
    #[must_use]
    pub fn new(mut allowed: Vec<Cidr>) -> Self {
        allowed.truncate(MAX_ALLOWED);
        Self { allowed }
    }

    /// Whether a peer of this address may be relayed to.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = reached(ip);
        let public = match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(_) => PUBLIC_V6.contains(ip),
        };
        (public && !REFUSED.iter().any(|net| net.contains(ip))) || self.allowed.iter().any(|net| net.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cidr, PeerPolicy};

    #[test]
    fn only_the_public_network_is_reached_by_default() {
        let policy = PeerPolicy::default();
        for refused in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(!policy.allows(refused.parse().unwrap()), "{refused}");
        }
        for allowed in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "9.9.9.9",
            "2606:4700::1",
            "64:ff9b::101:101",
        ] {
            assert!(policy.allows(allowed.parse().unwrap()), "{allowed}");
        }
    }

    #[test]
    fn an_operator_allows_networks_and_nothing_beside_them() {
        let policy = PeerPolicy::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()]);
        for (ip, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("127.0.0.1", false),
            ("fd00:1::9", true),
            ("fd00:2::9", false),
        ] {
            assert_eq!(policy.allows(ip.parse().unwrap()), allowed, "{ip}");
        }
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert_eq!(bad.parse::<Cidr>().unwrap_err().code(), "TRB-5701");
        }
    }
}
