//! STUN messages (RFC 8489) with the attributes of TURN (RFC 8656): read without copying, written into one buffer.
//!
//! Only what the server and the probe need: long-term credentials with HMAC-SHA1, and fingerprints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use sha1::Sha1;

/// Bytes of a message before its attributes.
pub(crate) const HEADER: usize = 20;
const COOKIE: u32 = 0x2112_A442;
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// Attributes of one message that are looked at.
const MAX_ATTRIBUTES: usize = 32;

/// Names a request and its answer.
pub(crate) type Transaction = [u8; 12];
/// The key of long-term credentials: MD5 of `user:realm:password`.
pub(crate) type Key = [u8; 16];

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Binding,
    Allocate,
    Refresh,
    Send,
    Data,
    CreatePermission,
    ChannelBind,
}

impl Method {
    const fn number(self) -> u16 {
        match self {
            Self::Binding => 1,
            Self::Allocate => 3,
            Self::Refresh => 4,
            Self::Send => 6,
            Self::Data => 7,
            Self::CreatePermission => 8,
            Self::ChannelBind => 9,
        }
    }

    /// Its name in the specifications.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Binding => "Binding",
            Self::Allocate => "Allocate",
            Self::Refresh => "Refresh",
            Self::Send => "Send",
            Self::Data => "Data",
            Self::CreatePermission => "CreatePermission",
            Self::ChannelBind => "ChannelBind",
        }
    }

    const fn read(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Binding,
            3 => Self::Allocate,
            4 => Self::Refresh,
            6 => Self::Send,
            7 => Self::Data,
            8 => Self::CreatePermission,
            9 => Self::ChannelBind,
            _ => return None,
        })
    }
}

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Request,
    Indication,
    Success,
    Error,
}

impl Class {
    const fn bits(self) -> u16 {
        match self {
            Self::Request => 0x000,
            Self::Indication => 0x010,
            Self::Success => 0x100,
            Self::Error => 0x110,
        }
    }
}

/// Attribute types.
pub(crate) mod attr {
    pub(crate) const USERNAME: u16 = 0x0006;
    pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(crate) const ERROR_CODE: u16 = 0x0009;
    pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub(crate) const CHANNEL_NUMBER: u16 = 0x000C;
    pub(crate) const LIFETIME: u16 = 0x000D;
    pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub(crate) const DATA: u16 = 0x0013;
    pub(crate) const REALM: u16 = 0x0014;
    pub(crate) const NONCE: u16 = 0x0015;
    pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub(crate) const EVEN_PORT: u16 = 0x0018;
    pub(crate) const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
    pub(crate) const FINGERPRINT: u16 = 0x8028;
    /// Known and ignored: ICE's own, in binding requests.
    pub(crate) const PRIORITY: u16 = 0x0024;
    pub(crate) const USE_CANDIDATE: u16 = 0x0025;
}

const UNDERSTOOD: [u16; 16] = [
    attr::USERNAME,
    attr::MESSAGE_INTEGRITY,
    attr::ERROR_CODE,
    attr::UNKNOWN_ATTRIBUTES,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::XOR_PEER_ADDRESS,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::XOR_MAPPED_ADDRESS,
    attr::RESERVATION_TOKEN,
];

/// A message in somebody's buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) method: Method,
    pub(crate) class: Class,
    pub(crate) transaction: Transaction,
    raw: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The length of the message that begins with these bytes, header included; `None` when it is none of STUN's.
pub(crate) fn whole_length(bytes: &[u8]) -> Option<usize> {
    let length = usize::from(u16_at(bytes, 2)?);
    (bytes[0] & 0xC0 == 0 && length % 4 == 0 && u32_at(bytes, 4)? == COOKIE).then_some(HEADER + length)
}

impl<'a> Message<'a> {
    /// The message that these bytes are, no more and no less.
    pub(crate) fn read(raw: &'a [u8]) -> Option<Self> {
        if whole_length(raw)? != raw.len() {
            return None;
        }
        let kind = u16_at(raw, 0)?;
        let class = match kind & 0x110 {
            0x000 => Class::Request,
            0x010 => Class::Indication,
            0x100 => Class::Success,
            _ => Class::Error,
        };
        let method = Method::read((kind & 0x000F) | ((kind & 0x00E0) >> 1) | ((kind & 0x3E00) >> 2))?;
        let message = Self { method, class, transaction: raw[8..HEADER].try_into().ok()?, raw };
        // Lengths are checked once, here.
        let end = message.positions().last().map_or(HEADER, |(_, at, length)| at + length.next_multiple_of(4));
        (end == raw.len()).then_some(message)
    }

    /// Type, position of the value and its length, of each attribute that lies in the message.
    fn positions(&self) -> impl Iterator<Item = (u16, usize, usize)> + use<'a> {
        let raw = self.raw;
        let mut at = HEADER;
        let next = move || {
            let (kind, length) = (u16_at(raw, at)?, usize::from(u16_at(raw, at + 2)?));
            let value = at + 4;
            at = value + length.next_multiple_of(4);
            (at <= raw.len()).then_some((kind, value, length))
        };
        std::iter::from_fn(next).take(MAX_ATTRIBUTES)
    }

    /// What follows the integrity is not protected by it, and is not looked at.
    fn trusted(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let raw = self.raw;
        let mut after = false;
        self.positions()
            .take_while(move |(kind, ..)| !std::mem::replace(&mut after, *kind == attr::MESSAGE_INTEGRITY))
            .map(move |(kind, at, length)| (kind, &raw[at..at + length]))
    }

    /// The first attribute of this type.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.trusted().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attribute as a text.
    pub(crate) fn text(&self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind)?).ok()
    }

    /// The attribute as a number of 32 bits.
    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }

    /// The address in the first attribute of this type.
    pub(crate) fn address(&self, kind: u16) -> Option<SocketAddr> {
        xor_address(self.get(kind)?, &self.transaction)
    }

    /// The addresses in all attributes of this type; `None` when one is malformed.
    pub(crate) fn addresses(&self, kind: u16) -> Option<Vec<SocketAddr>> {
        let all = self.trusted().filter(|(found, _)| *found == kind);
        all.map(|(_, value)| xor_address(value, &self.transaction)).collect()
    }

    /// The code of an error answer, and its words.
    pub(crate) fn error(&self) -> Option<(u16, &'a str)> {
        let value = self.get(attr::ERROR_CODE)?;
        let code = u16::from(*value.get(2)? & 7) * 100 + u16::from(*value.get(3)?);
        Some((code, std::str::from_utf8(&value[4..]).unwrap_or_default()))
    }

    /// Attributes that must be understood and aren't.
    pub(crate) fn unknown(&self) -> Vec<u16> {
        let ignored = [attr::PRIORITY, attr::USE_CANDIDATE];
        let unknown = |kind: &u16| *kind < 0x8000 && !UNDERSTOOD.contains(kind) && !ignored.contains(kind);
        self.trusted().map(|(kind, _)| kind).filter(unknown).collect()
    }

    /// Whether the message carries a right integrity by this key.
    pub(crate) fn is_signed_by(&self, key: &Key) -> bool {
        let Some((_, at, 20)) = self.positions().find(|(kind, ..)| *kind == attr::MESSAGE_INTEGRITY) else {
            return false;
        };
        let mut mac = mac(key);
        let length = u16::try_from(at + 20 - HEADER).unwrap_or(u16::MAX).to_be_bytes();
        mac.update(&self.raw[..2]);
        mac.update(&length);
        mac.update(&self.raw[4..at - 4]);
        mac.verify_slice(&self.raw[at..at + 20]).is_ok()
    }
}

#[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn mac(key: &[u8]) -> Hmac<Sha1> {
    Hmac::new_from_slice(key).expect("any length")
}

/// The key of long-term credentials.
pub(crate) fn key(username: &str, realm: &str, password: &str) -> Key {
    Md5::new()
        .chain_update(username)
        .chain_update(":")
        .chain_update(realm)
        .chain_update(":")
        .chain_update(password)
        .finalize()
        .into()
}

fn xor_address(value: &[u8], transaction: &Transaction) -> Option<SocketAddr> {
    let port = u16_at(value, 2)? ^ (COOKIE >> 16) as u16;
    let ip: IpAddr = match (value.get(1)?, value.len()) {
        (1, 8) => Ipv4Addr::from(u32_at(value, 4)? ^ COOKIE).into(),
        (2, 20) => {
            let mut octets: [u8; 16] = value[4..].try_into().ok()?;
            let mask = COOKIE.to_be_bytes().into_iter().chain(*transaction);
            octets.iter_mut().zip(mask).for_each(|(octet, mask)| *octet ^= mask);
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Writes an XOR-ed address's value; returns its length, 8 or 20.
fn put_xor_address(out: &mut [u8; 20], address: SocketAddr, transaction: &Transaction) -> usize {
    out[0] = 0;
    out[2..4].copy_from_slice(&(address.port() ^ (COOKIE >> 16) as u16).to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            out[1] = 1;
            out[4..8].copy_from_slice(&(u32::from(ip) ^ COOKIE).to_be_bytes());
            8
        }
        IpAddr::V6(ip) => {
            out[1] = 2;
            let mask = COOKIE.to_be_bytes().into_iter().chain(*transaction);
            for ((to, octet), mask) in out[4..].iter_mut().zip(ip.octets()).zip(mask) {
                *to = octet ^ mask;
            }
            20
        }
    }
}

/// A message that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    transaction: Transaction,
}

impl Writer {
    /// A message without attributes.
    pub(crate) fn new(method: Method, class: Class, transaction: Transaction) -> Self {
        let mut bytes = Vec::with_capacity(192);
        bytes.extend_from_slice(&(method.number() | class.bits()).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction);
        Self { bytes, transaction }
    }

    fn set_length(&mut self, length: usize) {
        self.bytes[2..4].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    }

    /// With an attribute.
    #[must_use]
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = self.bytes.len() - HEADER;
        self.set_length(length);
        self
    }

    /// With an XOR-ed address.
    #[must_use]
    pub(crate) fn with_address(self, kind: u16, address: SocketAddr) -> Self {
        let mut value = [0; 20];
        let length = put_xor_address(&mut value, address, &self.transaction);
        self.with(kind, &value[..length])
    }

    /// With an error code and its words.
    #[must_use]
    pub(crate) fn with_error(self, code: u16, words: &str) -> Self {
        let mut value = vec![0, 0, (code / 100) as u8, (code % 100) as u8];
        value.extend_from_slice(words.as_bytes());
        self.with(attr::ERROR_CODE, &value)
    }

    /// With an integrity over all before it.
    #[must_use]
    pub(crate) fn signed(mut self, key: &Key) -> Self {
        let length = self.bytes.len() - HEADER + 24;
        self.set_length(length);
        let mut mac = mac(key);
        mac.update(&self.bytes);
        let value: [u8; 20] = mac.finalize().into_bytes().into();
        self.with(attr::MESSAGE_INTEGRITY, &value)
    }

    /// With a fingerprint over all before it.
    #[must_use]
    pub(crate) fn fingerprinted(mut self) -> Self {
        let length = self.bytes.len() - HEADER + 8;
        self.set_length(length);
        let value = (crc32(&self.bytes) ^ FINGERPRINT_XOR).to_be_bytes();
        self.with(attr::FINGERPRINT, &value)
    }

    /// The message.
    pub(crate) fn done(self) -> Vec<u8> {
        self.bytes
    }
}

/// Room that [`data_indication`] needs before the payload.
pub(crate) const INDICATION_HEADER: usize = HEADER + 24 + 4;

/// Writes a Data indication around the payload at `buffer[INDICATION_HEADER..INDICATION_HEADER + length]`; returns where it lies. The buffer has 3 bytes
/// more than the payload's end.
pub(crate) fn data_indication(
    buffer: &mut [u8],
    length: usize,
    peer: SocketAddr,
    transaction: &Transaction,
) -> std::ops::Range<usize> {
    let mut address = [0; 20];
    let size = put_xor_address(&mut address, peer, transaction);
    let start = INDICATION_HEADER - (HEADER + 4 + size + 4);
    let end = INDICATION_HEADER + length.next_multiple_of(4);
    buffer[INDICATION_HEADER + length..end].fill(0);
    let put = |buffer: &mut [u8], at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
    let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    put(buffer, start, &(Method::Data.number() | Class::Indication.bits()).to_be_bytes());
    put(buffer, start + 2, &short(end - start - HEADER));
    put(buffer, start + 4, &COOKIE.to_be_bytes());
    put(buffer, start + 8, transaction);
    put(buffer, start + HEADER, &attr::XOR_PEER_ADDRESS.to_be_bytes());
    put(buffer, start + HEADER + 2, &short(size));
    put(buffer, start + HEADER + 4, &address[..size]);
    put(buffer, INDICATION_HEADER - 4, &attr::DATA.to_be_bytes());
    put(buffer, INDICATION_HEADER - 2, &short(length));
    start..end
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut value = n as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[n] = value;
        n += 1;
    }
    table
};

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| CRC_TABLE[usize::from((crc as u8) ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample request of RFC 5769, section 2.1.
    const SAMPLE: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
        \x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\
        \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
        \x80\x28\x00\x04\xe5\x7a\x3b\xcf";

    #[test]
    fn the_sample_of_the_standard_is_read_as_it_says() {
        let message = Message::read(SAMPLE).unwrap();
        assert_eq!((message.method, message.class), (Method::Binding, Class::Request));
        assert_eq!(message.text(attr::USERNAME), Some("evtj:h6vY"));
        assert!(message.unknown().is_empty());
        let (_, at, length) = message.positions().last().unwrap();
        assert_eq!(
            crc32(&SAMPLE[..at - 4]) ^ FINGERPRINT_XOR,
            u32::from_be_bytes(SAMPLE[at..at + length].try_into().unwrap())
        );
        let mut mac = mac(b"VOkJxbRl1RmTxUk/WvJxBt");
        mac.update(&SAMPLE[..2]);
        mac.update(&[0, 0x50]);
        mac.update(&SAMPLE[4..at - 28]);
        assert_eq!(mac.finalize().into_bytes()[..], SAMPLE[at - 24..at - 4]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let key = key("user", "realm", "pass");
        for address in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"] {
            let address: SocketAddr = address.parse().unwrap();
            let bytes = Writer::new(Method::Allocate, Class::Success, [7; 12])
                .with_address(attr::XOR_RELAYED_ADDRESS, address)
                .with_error(486, "full")
                .with(attr::NONCE, b"abcde")
                .signed(&key)
                .fingerprinted()
                .done();
            let message = Message::read(&bytes).unwrap();
            assert_eq!(message.address(attr::XOR_RELAYED_ADDRESS), Some(address));
            assert_eq!(message.error(), Some((486, "full")));
            assert!(message.is_signed_by(&key) && !message.is_signed_by(&[0; 16]));
            let mut forged = bytes.clone();
            forged[HEADER + 9] ^= 1;
            assert!(!Message::read(&forged).unwrap().is_signed_by(&key));
        }
    }

    #[test]
    fn a_data_indication_lies_around_its_payload() {
        for (peer, length) in [("127.0.0.1:9", 5_usize), ("[::1]:9", 8), ("10.0.0.1:65535", 0)] {
            let mut buffer = vec![0xAA; INDICATION_HEADER + length + 3];
            buffer[INDICATION_HEADER..INDICATION_HEADER + length].fill(3);
            let range = data_indication(&mut buffer, length, peer.parse().unwrap(), &[1; 12]);
            let message = Message::read(&buffer[range]).unwrap();
            assert_eq!((message.method, message.class), (Method::Data, Class::Indication));
            assert_eq!(message.address(attr::XOR_PEER_ADDRESS), Some(peer.parse().unwrap()));
            assert_eq!(message.get(attr::DATA).unwrap(), vec![3; length]);
        }
    }

    #[test]
    fn damaged_messages_are_none() {
        for cut in 0..SAMPLE.len() {
            assert!(Message::read(&SAMPLE[..cut]).is_none(), "{cut} bytes");
        }
        for at in 0..SAMPLE.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bytes = SAMPLE.to_vec();
                bytes[at] = value;
                if let Some(message) = Message::read(&bytes) {
                    let _ =
                        (message.unknown(), message.is_signed_by(&[0; 16]), message.addresses(attr::XOR_PEER_ADDRESS));
                }
            }
        }
    }

    #[test]
    fn nothing_after_the_integrity_is_believed() {
        let key = key("user", "realm", "pass");
        let signed = Writer::new(Method::Refresh, Class::Request, [1; 12]).signed(&key);
        let bytes = signed.with(attr::LIFETIME, &[0; 4]).done();
        let message = Message::read(&bytes).unwrap();
        assert!(message.is_signed_by(&key));
        assert_eq!(message.number(attr::LIFETIME), None);
    }
}
