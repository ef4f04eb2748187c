//! Node records (31/WAKU2-ENR): what a node says about itself, signed by its key, in at most 300 bytes.
//!
//! | key | value |
//! | --- | --- |
//! | `ip`, `tcp`, `udp`, `ip6`, `tcp6`, `udp6` | plain addresses, as every ENR has them |
//! | `waku2` | one byte of [`Capabilities`] |
//! | `rs` | u16 cluster, u8 count, one u16 for each shard, big-endian |
//! | `rsv` | u16 cluster and 128 bytes, one bit a shard; read (byte i/8, lowest bit first), never written |
//! | `multiaddrs` | other addresses: u16 length and the binary multiaddr without its `/p2p`, repeated |
//! | `trb` | one byte of [`ServiceFamilies`]: what the node sells. Our own; further bytes are left for later versions |

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::BitOr,
    str::FromStr,
};

use ::enr::{CombinedKey, CombinedPublicKey, EnrPublicKey as _};
use alloy_rlp::Decodable as _;
use libp2p::{
    Multiaddr, PeerId,
    identity::{PublicKey, secp256k1},
    multiaddr::Protocol,
};
use prost::bytes::Bytes;

use crate::{
    key::NodeKey,
    topics::{ClusterId, MAX_SHARDS_PER_CLUSTER, PubsubTopic, ShardIndex},
};

/// Largest record, in bytes (EIP-778).
pub const MAX_RECORD_BYTES: usize = 300;

/// Shards that a record can name with `rs`.
pub const MAX_RECORD_SHARDS: usize = 64;

const WAKU2: &str = "waku2";
const RS: &str = "rs";
const RSV: &str = "rsv";
const MULTIADDRS: &str = "multiaddrs";
const SELLS: &str = "trb";

/// Length of `rsv`: the cluster and a bit for each shard.
const RSV_BYTES: usize = 2 + MAX_SHARDS_PER_CLUSTER as usize / 8;

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$flag_doc:meta])* $flag:ident = $bit:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(u8);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self(1 << $bit);)*

            /// From the byte in a record; unknown bits are kept.
            #[must_use]
            pub const fn from_bits(bits: u8) -> Self {
                Self(bits)
            }

            /// The byte in a record.
            #[must_use]
            pub const fn bits(self) -> u8 {
                self.0
            }

            /// Whether all of `other` are among these.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether there are none.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

flags! {
    /// Waku protocols that a node serves: `waku2` of its record.
    Capabilities {
        /// Relay.
        RELAY = 0,
        /// Store.
        STORE = 1,
        /// Filter.
        FILTER = 2,
        /// Lightpush.
        LIGHTPUSH = 3,
        /// Store sync.
        SYNC = 4,
        /// Mix.
        MIX = 5,
    }
}

flags! {
    /// Families of services that a node sells: `trb` of its record. A hint whom to ask; only signed offers bind.
    ServiceFamilies {
        /// Waku Store.
        STORE = 0,
        /// Waku Filter.
        FILTER = 1,
        /// Waku lightpush.
        LIGHTPUSH = 2,
        /// STUN.
        STUN = 3,
        /// TURN.
        TURN = 4,
        /// AI inference.
        INFERENCE = 5,
        /// Anything else.
        OTHER = 7,
    }
}

/// The shards that a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordShards {
    /// The network.
    pub cluster: ClusterId,
    /// The shards, ascending, at most [`MAX_RECORD_SHARDS`] to be written.
    pub shards: Vec<ShardIndex>,
}

/// What a record says, to be signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordContent {
    /// Protocols that the node serves; other nodes ignore a record without any.
    pub capabilities: Capabilities,
    /// Its network and shards.
    pub shards: Option<RecordShards>,
    /// Its IPv4 address.
    pub ip4: Option<Ipv4Addr>,
    /// Its plain TCP port at `ip4`.
    pub tcp4: Option<u16>,
    /// Its discv5 port at `ip4`.
    pub udp4: Option<u16>,
    /// Its IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// Its plain TCP port at `ip6`.
    pub tcp6: Option<u16>,
    /// Its discv5 port at `ip6`.
    pub udp6: Option<u16>,
    /// Other addresses, without `/p2p`: websocket, names.
    pub multiaddrs: Vec<Multiaddr>,
    /// What it sells.
    pub sells: ServiceFamilies,
}

impl RecordContent {
    /// Signs this as version `seq`, which must grow with each change.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`], [`RecordError::TooManyShards`], [`RecordError::Signing`], and
    /// [`RecordError::Malformed`] for a multiaddr of more than 65535 bytes.
    pub fn sign(&self, key: &NodeKey, seq: u64) -> Result<NodeRecord, RecordError> {
        let mut builder = discv5::Enr::builder();
        builder.seq(seq).add_value(WAKU2, &Bytes::copy_from_slice(&[self.capabilities.bits()]));
        self.ip4.map(|ip| builder.ip4(ip));
        self.ip6.map(|ip| builder.ip6(ip));
        self.tcp4.map(|port| builder.tcp4(port));
        self.tcp6.map(|port| builder.tcp6(port));
        self.udp4.map(|port| builder.udp4(port));
        self.udp6.map(|port| builder.udp6(port));
        if let Some(shards) = &self.shards {
            builder.add_value(RS, &encode_rs(shards)?);
        }
        if !self.multiaddrs.is_empty() {
            builder.add_value(MULTIADDRS, &encode_multiaddrs(&self.multiaddrs)?);
        }
        if !self.sells.is_empty() {
            builder.add_value(SELLS, &Bytes::copy_from_slice(&[self.sells.bits()]));
        }
        let enr = builder.build(&signing_key(key)?).map_err(|e| match e {
            ::enr::Error::ExceedsMaxSize => RecordError::TooLarge { max: MAX_RECORD_BYTES },
            e => RecordError::Signing { reason: e.to_string() },
        })?;
        NodeRecord::from_enr(enr)
    }

    /// [`RecordContent::sign`], leaving out the last multiaddrs if the record would be too large. Returns their number
    /// too.
    ///
    /// # Errors
    /// Those of [`RecordContent::sign`].
    pub fn sign_fitting(&self, key: &NodeKey, seq: u64) -> Result<(NodeRecord, usize), RecordError> {
        let mut content = self.clone();
        loop {
            match content.sign(key, seq) {
                Err(RecordError::TooLarge { .. }) if !content.multiaddrs.is_empty() => {
                    content.multiaddrs.pop();
                }
                signed => return signed.map(|record| (record, self.multiaddrs.len() - content.multiaddrs.len())),
            }
        }
    }
}

pub(crate) fn signing_key(key: &NodeKey) -> Result<CombinedKey, RecordError> {
    CombinedKey::secp256k1_from_bytes(key.to_bytes().as_mut_slice())
        .map_err(|e| RecordError::Signing { reason: e.to_string() })
}

fn encode_rs(shards: &RecordShards) -> Result<Bytes, RecordError> {
    let mut indices = shards.shards.clone();
    indices.sort_unstable();
    indices.dedup();
    let too_many = RecordError::TooManyShards { count: indices.len(), max: MAX_RECORD_SHARDS };
    let count = u8::try_from(indices.len()).ok().filter(|n| usize::from(*n) <= MAX_RECORD_SHARDS).ok_or(too_many)?;
    let mut bytes = shards.cluster.0.to_be_bytes().to_vec();
    bytes.push(count);
    bytes.extend(indices.iter().flat_map(|shard| shard.get().to_be_bytes()));
    Ok(bytes.into())
}

fn encode_multiaddrs(addresses: &[Multiaddr]) -> Result<Bytes, RecordError> {
    let mut bytes = Vec::new();
    for address in addresses {
        let binary: Multiaddr = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        let len = u16::try_from(binary.len())
            .map_err(|_| RecordError::Malformed { key: MULTIADDRS, reason: "an address is too long" })?;
        bytes.extend(len.to_be_bytes());
        bytes.extend(binary.to_vec());
    }
    Ok(bytes.into())
}

fn decode_rs(bytes: &[u8]) -> Option<RecordShards> {
    let (cluster, rest) = bytes.split_first_chunk()?;
    let (count, rest) = rest.split_first()?;
    let (shards, []) = rest.as_chunks::<2>() else { return None };
    if shards.len() != usize::from(*count) {
        return None;
    }
    let shards = shards.iter().map(|shard| ShardIndex::new(u16::from_be_bytes(*shard)).ok());
    Some(sorted(*cluster, shards.collect::<Option<_>>()?))
}

/// The bit order of nwaku and go-waku. The specification's, and js-waku's, are others.
fn decode_rsv(bytes: &[u8]) -> Option<RecordShards> {
    let (cluster, bits) = bytes.split_first_chunk()?;
    if bytes.len() != RSV_BYTES {
        return None;
    }
    let set = |shard: &u16| bits[usize::from(shard / 8)] & (1 << (shard % 8)) != 0;
    let shards = (0..MAX_SHARDS_PER_CLUSTER).filter(set).map(|shard| ShardIndex::new(shard).ok());
    Some(sorted(*cluster, shards.collect::<Option<_>>()?))
}

fn sorted(cluster: [u8; 2], mut shards: Vec<ShardIndex>) -> RecordShards {
    shards.sort_unstable();
    shards.dedup();
    RecordShards { cluster: ClusterId(u16::from_be_bytes(cluster)), shards }
}

/// Addresses of kinds that this node doesn't know are left out, as are those of another peer.
fn decode_multiaddrs(mut bytes: &[u8], peer: PeerId) -> Option<Vec<Multiaddr>> {
    let mut addresses = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk()?;
        let (address, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        bytes = rest;
        let Ok(mut address) = Multiaddr::try_from(address.to_vec()) else { continue };
        if let Some(Protocol::P2p(named)) = address.iter().last() {
            if named != peer {
                continue;
            }
            address.pop();
        }
        if !address.is_empty() {
            addresses.push(address);
        }
    }
    Some(addresses)
}

/// A record whose signature was verified.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeRecord {
    enr: discv5::Enr,
    peer_id: PeerId,
    capabilities: Capabilities,
    shards: Option<RecordShards>,
    multiaddrs: Vec<Multiaddr>,
    sells: ServiceFamilies,
}

impl NodeRecord {
    /// Reads the binary form (RLP) and verifies the signature.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`], [`RecordError::Invalid`], [`RecordError::Malformed`], [`RecordError::KeyType`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge { max: MAX_RECORD_BYTES });
        }
        let mut rest = bytes;
        let enr = discv5::Enr::decode(&mut rest).map_err(|e| RecordError::Invalid { reason: e.to_string() })?;
        if !rest.is_empty() {
            return Err(RecordError::Invalid { reason: format!("{} bytes follow the record", rest.len()) });
        }
        Self::from_enr(enr)
    }

    pub(crate) fn from_enr(enr: discv5::Enr) -> Result<Self, RecordError> {
        let CombinedPublicKey::Secp256k1(key) = enr.public_key() else { return Err(RecordError::KeyType) };
        let key = secp256k1::PublicKey::try_from_bytes(key.encode().as_ref()).map_err(|_| RecordError::KeyType)?;
        let peer_id = PublicKey::from(key).to_peer_id();
        let value = |key: &'static str| match enr.get_decodable::<Bytes>(key) {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(_)) => Err(RecordError::Malformed { key, reason: "it is not a byte string" }),
        };
        let malformed = |key, reason| move || RecordError::Malformed { key, reason };
        let capabilities = match value(WAKU2)?.as_deref() {
            None => Capabilities::default(),
            Some([bits]) => Capabilities(*bits),
            Some(_) => return Err(malformed(WAKU2, "it is not one byte")()),
        };
        let shards = match (value(RS)?, value(RSV)?) {
            (Some(rs), _) => {
                let reason = "it is not a cluster, a count and as many shards below 1024";
                Some(decode_rs(&rs).ok_or_else(malformed(RS, reason))?)
            }
            (None, Some(rsv)) => {
                Some(decode_rsv(&rsv).ok_or_else(malformed(RSV, "it is not a cluster and 128 bytes"))?)
            }
            (None, None) => None,
        };
        let multiaddrs = match value(MULTIADDRS)? {
            Some(bytes) => {
                decode_multiaddrs(&bytes, peer_id).ok_or_else(malformed(MULTIADDRS, "a length exceeds the bytes"))?
            }
            None => Vec::new(),
        };
        // Whoever else uses this key for something else doesn't thereby become unreadable.
        let sells =
            value(SELLS).ok().flatten().and_then(|bytes| bytes.first().copied()).map(ServiceFamilies::from_bits);
        Ok(Self { enr, peer_id, capabilities, shards, multiaddrs, sells: sells.unwrap_or_default() })
    }

    pub(crate) fn enr(&self) -> &discv5::Enr {
        &self.enr
    }

    /// The binary form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        alloy_rlp::encode(&self.enr).into()
    }

    /// The node's identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The record's version; a higher one replaces a lower one.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.enr.seq()
    }

    /// Protocols that the node serves.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Its network and shards, if it names them.
    #[must_use]
    pub fn shards(&self) -> Option<&RecordShards> {
        self.shards.as_ref()
    }

    /// Whether it names a shard.
    #[must_use]
    pub fn relays(&self, topic: PubsubTopic) -> bool {
        self.shards.as_ref().is_some_and(|known| known.cluster == topic.cluster && known.shards.contains(&topic.shard))
    }

    /// What it sells.
    #[must_use]
    pub fn sells(&self) -> ServiceFamilies {
        self.sells
    }

    /// Where discv5 reaches it.
    #[must_use]
    pub fn udp(&self) -> Vec<SocketAddr> {
        let v4 = self.enr.udp4_socket().map(SocketAddr::from);
        v4.into_iter().chain(self.enr.udp6_socket().map(SocketAddr::from)).collect()
    }

    /// Where libp2p reaches it: the plain TCP addresses, then the other ones, each with `/p2p/<peer id>`.
    #[must_use]
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let v4 = self.enr.tcp4_socket().map(SocketAddr::from);
        let plain = v4.into_iter().chain(self.enr.tcp6_socket().map(SocketAddr::from)).map(|socket| {
            let ip = match socket.ip() {
                IpAddr::V4(ip) => Protocol::Ip4(ip),
                IpAddr::V6(ip) => Protocol::Ip6(ip),
            };
            Multiaddr::empty().with(ip).with(Protocol::Tcp(socket.port()))
        });
        plain.chain(self.multiaddrs.iter().cloned()).map(|address| address.with(Protocol::P2p(self.peer_id))).collect()
    }

    /// The addresses of `multiaddrs` alone, without `/p2p`.
    #[must_use]
    pub fn multiaddrs(&self) -> &[Multiaddr] {
        &self.multiaddrs
    }
}

impl FromStr for NodeRecord {
    type Err = RecordError;

    /// Reads the text form, `enr:..`.
    fn from_str(s: &str) -> Result<Self, RecordError> {
        // Four characters are three bytes.
        if s.len() > "enr:".len() + MAX_RECORD_BYTES / 3 * 4 {
            return Err(RecordError::TooLarge { max: MAX_RECORD_BYTES });
        }
        if !s.starts_with("enr:") {
            return Err(RecordError::Invalid { reason: "the text form begins with enr:".to_owned() });
        }
        let enr: discv5::Enr = s.parse().map_err(|reason| RecordError::Invalid { reason })?;
        Self::from_enr(enr)
    }
}

impl fmt::Display for NodeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.enr.to_base64())
    }
}

impl fmt::Debug for NodeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeRecord")
            .field("peer_id", &self.peer_id.to_string())
            .field("seq", &self.seq())
            .field("capabilities", &self.capabilities)
            .field("shards", &self.shards)
            .field("udp", &self.udp())
            .field("addresses", &self.addresses())
            .field("sells", &self.sells)
            .finish_non_exhaustive()
    }
}

/// Why a record can't be read or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Too many bytes.
    #[error("a node record has at most {max} bytes; name fewer shards or addresses")]
    TooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// No ENR, or its signature is wrong.
    #[error("not a valid node record: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// A Waku key's value.
    #[error("the node record's key {key} is malformed: {reason}")]
    Malformed {
        /// The key.
        key: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Not a secp256k1 key.
    #[error("the node record isn't signed by a secp256k1 key, and Waku nodes have no other")]
    KeyType,
    /// More shards than fit.
    #[error("{count} shards don't fit into a node record, at most {max} do; relay fewer, or run without discovery")]
    TooManyShards {
        /// Shards given.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The record couldn't be signed.
    #[error("the node record can't be signed: {reason}")]
    Signing {
        /// Why.
        reason: String,
    },
}

impl RecordError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TRB-W601",
            Self::Invalid { .. } => "TRB-W602",
            Self::Malformed { .. } => "TRB-W603",
            Self::KeyType => "TRB-W604",
            Self::TooManyShards { .. } => "TRB-W605",
            Self::Signing { .. } => "TRB-W606",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bootstrap node of The Waku Network's sandbox, as it was published: 277 bytes.
    const LIVE: &str = concat!(
        "enr:-QESuEB4Dchgjn7gfAvwB00CxTA-nGiyk-aALI-H4dYSZD3rUk7bZHmP8d2U6xDiQ2vZffpo45Jp7zKNdnwDUx6g4o6XAYJp",
        "ZIJ2NIJpcIRA4VDAim11bHRpYWRkcnO4XAArNiZub2RlLTAxLmRvLWFtczMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQZ2XwAtNiZu",
        "b2RlLTAxLmRvLWFtczMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQYfQN4DgnJzkwABCAAAAAEAAgADAAQABQAGAAeJc2VjcDI1Nmsx",
        "oQOvD3S3jUNICsrOILlmhENiWAMmMVlAl6-Q8wRB7hidY4N0Y3CCdl-DdWRwgiMohXdha3UyDw",
    );

    fn shards(cluster: u16, shards: impl IntoIterator<Item = u16>) -> RecordShards {
        RecordShards {
            cluster: ClusterId(cluster),
            shards: shards.into_iter().map(|shard| ShardIndex::new(shard).unwrap()).collect(),
        }
    }

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn full() -> RecordContent {
        RecordContent {
            capabilities: Capabilities::RELAY | Capabilities::STORE,
            shards: Some(shards(42, [0, 7])),
            ip4: Some([10, 1, 2, 3].into()),
            tcp4: Some(30303),
            udp4: Some(9000),
            ip6: Some("2001:db8::1".parse().unwrap()),
            tcp6: Some(30304),
            udp6: Some(9001),
            multiaddrs: addresses(&["/dns4/node.example/tcp/8000/wss"]),
            sells: ServiceFamilies::STORE | ServiceFamilies::INFERENCE,
        }
    }

    #[test]
    fn record_of_a_live_node() {
        let record: NodeRecord = LIVE.parse().unwrap();
        assert_eq!(record.encode().len(), 277);
        assert_eq!(record.peer_id().to_string(), "16Uiu2HAmQSMNExfUYUqfuXWkD5DaNZnMYnigRxFKbk3tcEFQeQeE");
        let raw = |key: &str| hex::encode(record.enr.get_decodable::<Bytes>(key).unwrap().unwrap());
        assert_eq!(raw("rs"), "00010800000001000200030004000500060007");
        assert_eq!(raw("waku2"), "0f");
        assert_eq!((raw("tcp"), raw("udp")), ("765f".to_owned(), "2328".to_owned()));
        assert_eq!(record.shards(), Some(&shards(1, 0..8)));
        assert_eq!(record.capabilities().bits(), 0x0f);
        assert!(record.capabilities().contains(Capabilities::LIGHTPUSH | Capabilities::RELAY));
        assert!(!record.capabilities().contains(Capabilities::SYNC));
        let [plain, websocket] = record.multiaddrs() else { panic!("{record:?}") };
        assert!(plain.to_string().starts_with("/dns4/") && plain.to_string().ends_with("/tcp/30303"), "{plain}");
        assert!(websocket.to_string().ends_with("/tcp/8000/wss"), "{websocket}");
        assert_eq!(record.to_string(), LIVE);
        assert_eq!(record.addresses().len(), 3);
        assert!(record.sells().is_empty());
        // What it says, said by us, has the same size and the same values.
        let content = RecordContent {
            capabilities: record.capabilities(),
            shards: record.shards().cloned(),
            ip4: record.enr.ip4(),
            tcp4: record.enr.tcp4(),
            udp4: record.enr.udp4(),
            multiaddrs: record.multiaddrs().to_vec(),
            ..RecordContent::default()
        };
        let ours = content.sign(&NodeKey::generate(), record.seq()).unwrap();
        assert_eq!(ours.encode().len(), 277);
        for key in [RS, WAKU2, MULTIADDRS, "tcp", "udp", "ip"] {
            assert_eq!(ours.enr.get_raw_rlp(key), record.enr.get_raw_rlp(key), "{key}");
        }
    }

    #[test]
    fn shards_vector() {
        let vector = hex::decode("0049020001000a").unwrap();
        assert_eq!(decode_rs(&vector).unwrap(), shards(73, [1, 10]));
        assert_eq!(encode_rs(&shards(73, [10, 1, 10])).unwrap(), vector);
        for wrong in [
            "",
            "00",
            "0049",
            "004902",
            "0049020001",
            "004902000100",
            "0049020001000a00",
            "004901000100ff",
            "0049010400",
        ] {
            assert_eq!(decode_rs(&hex::decode(wrong).unwrap()), None, "{wrong}");
        }
        let mut rsv = vec![0, 73, 0b10, 0b100];
        rsv.resize(RSV_BYTES, 0);
        assert_eq!(decode_rsv(&rsv), Some(shards(73, [1, 10])));
        assert_eq!(decode_rsv(&rsv[..RSV_BYTES - 1]), None);
        let error = encode_rs(&shards(1, 0..65)).unwrap_err();
        assert_eq!((error.code(), error), ("TRB-W605", RecordError::TooManyShards { count: 65, max: 64 }));
    }

    #[test]
    fn what_is_signed_is_read() {
        let key = NodeKey::generate();
        let record = full().sign(&key, 7).unwrap();
        assert_eq!(record.peer_id(), key.peer_id());
        assert_eq!(record.seq(), 7);
        assert_eq!(record.shards(), full().shards.as_ref());
        assert!(record.relays("/waku/2/rs/42/7".parse().unwrap()));
        assert!(!record.relays("/waku/2/rs/43/7".parse().unwrap()));
        assert_eq!(record.sells(), full().sells);
        assert_eq!(record.udp(), ["10.1.2.3:9000".parse().unwrap(), "[2001:db8::1]:9001".parse().unwrap()]);
        let p2p = format!("/p2p/{}", key.peer_id());
        let expected = ["/ip4/10.1.2.3/tcp/30303", "/ip6/2001:db8::1/tcp/30304", "/dns4/node.example/tcp/8000/wss"]
            .map(|a| a.to_owned() + &p2p);
        assert_eq!(record.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        assert_eq!(NodeRecord::decode(&record.encode()).unwrap(), record);
        assert_eq!(record.to_string().parse::<NodeRecord>().unwrap(), record);
    }

    #[test]
    fn forged_and_broken_records_are_refused() {
        let record = full().sign(&NodeKey::generate(), 7).unwrap().encode();
        for at in 0..record.len() {
            let mut forged = record.to_vec();
            forged[at] ^= 1;
            assert!(NodeRecord::decode(&forged).is_err(), "byte {at}");
            assert!(NodeRecord::decode(&record[..at]).is_err(), "{at} bytes");
        }
        let mut longer = record.to_vec();
        longer.push(0);
        assert_eq!(NodeRecord::decode(&longer).unwrap_err().code(), "TRB-W602");
        assert_eq!(NodeRecord::decode(&[0; 301]).unwrap_err().code(), "TRB-W601");
        assert_eq!("enr:".parse::<NodeRecord>().unwrap_err().code(), "TRB-W602");
        assert_eq!(LIVE[4..].parse::<NodeRecord>().unwrap_err().code(), "TRB-W602");
        assert_eq!(format!("enr:{}", "A".repeat(401)).parse::<NodeRecord>().unwrap_err().code(), "TRB-W601");
        let other = CombinedKey::generate_ed25519();
        assert_eq!(NodeRecord::from_enr(discv5::Enr::empty(&other).unwrap()).unwrap_err().code(), "TRB-W604");
        // Rightly signed nonsense.
        let key = signing_key(&NodeKey::generate()).unwrap();
        for (name, value) in [("waku2", &[1, 2][..]), ("rs", &[0]), ("rsv", &[0, 1]), ("multiaddrs", &[0, 5, 1])] {
            let mut builder = discv5::Enr::builder();
            builder.add_value(name, &Bytes::copy_from_slice(value));
            let error = NodeRecord::from_enr(builder.build(&key).unwrap()).unwrap_err();
            assert!(matches!(error, RecordError::Malformed { key, .. } if key == name), "{error}");
        }
    }

    #[test]
    fn addresses_that_do_not_fit_are_left_out() {
        let long = format!("/dns4/{}.example/tcp/8000/wss", "a".repeat(50));
        let content = RecordContent { multiaddrs: addresses(&[&long, &long, &long]), ..full() };
        assert_eq!(content.sign(&NodeKey::generate(), 1).unwrap_err().code(), "TRB-W601");
        let (record, left_out) = content.sign_fitting(&NodeKey::generate(), 1).unwrap();
        assert_eq!((record.multiaddrs().len(), left_out), (1, 2));
        assert!(record.encode().len() <= MAX_RECORD_BYTES);
        // All shards that can be named fit.
        let many = RecordContent {
            shards: Some(shards(1, 0..64)),
            ip6: None,
            tcp6: None,
            udp6: None,
            multiaddrs: vec![],
            ..full()
        };
        assert_eq!(many.sign(&NodeKey::generate(), 1).unwrap().shards().unwrap().shards.len(), 64);
    }

    #[test]
    fn unknown_and_foreign_addresses_are_skipped() {
        let key = NodeKey::generate();
        let other = NodeKey::generate().peer_id();
        let mut bytes = vec![0, 2, 0xff, 0x7f];
        for address in
            [format!("/ip4/1.2.3.4/tcp/1/ws/p2p/{other}"), format!("/ip4/1.2.3.4/tcp/2/ws/p2p/{}", key.peer_id())]
        {
            let address: Multiaddr = address.parse().unwrap();
            bytes.extend(u16::try_from(address.len()).unwrap().to_be_bytes());
            bytes.extend(address.to_vec());
        }
        assert_eq!(decode_multiaddrs(&bytes, key.peer_id()).unwrap(), addresses(&["/ip4/1.2.3.4/tcp/2/ws"]));
    }
}
