//! The book of found peers: bounded, and with a pause before each further try to reach one.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use rand::{Rng as _, seq::SliceRandom as _};
use tokio::sync::watch;

use crate::{
    enr::NodeRecord,
    topics::{ClusterId, ShardIndex},
};

/// First and longest pause between two tries to reach a found peer.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15 * 60));

/// Where a record came from; later ones are surer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FoundBy {
    /// Told by a peer over peer exchange.
    PeerExchange,
    /// Configured.
    Bootstrap,
    /// Found by discv5.
    Discv5,
}

/// A peer that discovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPeer {
    /// Its record.
    pub record: NodeRecord,
    /// How it was found.
    pub by: FoundBy,
}

/// Which records are of use.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) me: PeerId,
    pub(crate) cluster: ClusterId,
    /// Any of them will do; none: all will.
    pub(crate) shards: Vec<ShardIndex>,
    /// Whether addresses that aren't global are dialed.
    pub(crate) local_addresses: bool,
}

impl Wanted {
    pub(crate) fn admits(&self, record: &NodeRecord) -> bool {
        let Some(known) = record.shards() else { return false };
        !record.capabilities().is_empty()
            && record.peer_id() != self.me
            && known.cluster == self.cluster
            && (self.shards.is_empty() || known.shards.iter().any(|shard| self.shards.contains(shard)))
    }

    /// The addresses of a record that may be dialed.
    fn addresses(&self, record: &NodeRecord) -> Vec<Multiaddr> {
        let allowed = |address: &Multiaddr| self.local_addresses || ip(address).is_none_or(is_global);
        record.addresses().into_iter().filter(allowed).collect()
    }
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// Whether strangers can be meant by an address: anybody may put anything into a record, and so make nodes knock at
/// machines of their own network.
pub(crate) fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
                || a == 0
                || (a == 100 && b & 0xc0 == 64)
                || a >= 240)
        }
        // 2000::/3 is all that is assigned to hosts.
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

#[derive(Debug)]
struct Entry {
    found: FoundPeer,
    /// Grows with each new record of the book.
    serial: u64,
    /// Tries since the peer was last connected.
    tries: u32,
    next_try: Duration,
}

#[derive(Debug, Default)]
struct Entries {
    by_peer: HashMap<PeerId, Entry>,
    serial: u64,
}

/// Found peers.
#[derive(Debug)]
pub(crate) struct Book {
    wanted: Wanted,
    capacity: usize,
    per_address: Option<usize>,
    entries: Mutex<Entries>,
    serial: watch::Sender<u64>,
}

impl Book {
    pub(crate) fn new(wanted: Wanted, capacity: usize, per_address: Option<usize>) -> Self {
        Self { wanted, capacity, per_address, entries: Mutex::default(), serial: watch::channel(0).0 }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Writes a record down if it is of use and there is room. Returns whether it says anything new.
    pub(crate) fn offer(&self, record: NodeRecord, by: FoundBy) -> bool {
        if !self.wanted.admits(&record) {
            return false;
        }
        let peer = record.peer_id();
        let mut entries = self.lock();
        let serial = entries.serial + 1;
        if let Some(entry) = entries.by_peer.get_mut(&peer) {
            entry.found.by = entry.found.by.max(by);
            if record.seq() <= entry.found.record.seq() {
                return false;
            }
            // The back-off stays: otherwise new records would make a node dial as often as somebody likes.
            entry.found.record = record;
            entry.serial = serial;
        } else {
            if self.is_crowded(&entries, &record) || !self.make_room(&mut entries) {
                return false;
            }
            let found = FoundPeer { record, by };
            entries.by_peer.insert(peer, Entry { found, serial, tries: 0, next_try: Duration::ZERO });
        }
        entries.serial = serial;
        drop(entries);
        self.serial.send_replace(serial);
        true
    }

    /// Whether enough peers of the record's address are known.
    fn is_crowded(&self, entries: &Entries, record: &NodeRecord) -> bool {
        let Some(max) = self.per_address else { return false };
        let ips = ips(record);
        let same = |entry: &&Entry| ips_of(&entry.found).iter().any(|ip| ips.contains(ip));
        !ips.is_empty() && entries.by_peer.values().filter(same).count() >= max
    }

    /// Forgets a peer that was tried in vain most often. A book full of untried peers takes no more.
    fn make_room(&self, entries: &mut Entries) -> bool {
        if entries.by_peer.len() < self.capacity {
            return true;
        }
        let worst = entries.by_peer.iter().filter(|(_, entry)| entry.tries > 1).max_by_key(|(_, entry)| entry.tries);
        let Some(peer) = worst.map(|(peer, _)| *peer) else { return false };
        entries.by_peer.remove(&peer);
        true
    }

    pub(crate) fn found(&self) -> Vec<FoundPeer> {
        self.lock().by_peer.values().map(|entry| entry.found.clone()).collect()
    }

    /// At most `count` records that discv5 found, drawn at random.
    pub(crate) fn sample(&self, count: usize, except: PeerId) -> Vec<NodeRecord> {
        let entries = self.lock();
        let known: Vec<&Entry> = entries
            .by_peer
            .values()
            .filter(|entry| entry.found.by == FoundBy::Discv5 && entry.found.record.peer_id() != except)
            .collect();
        known.choose_multiple(&mut rand::thread_rng(), count).map(|entry| entry.found.record.clone()).collect()
    }

    /// At most `count` peers to dial now, drawn at random, with their addresses. Each has its next try later.
    pub(crate) fn to_dial(
        &self,
        count: usize,
        now: Duration,
        connected: impl Fn(&PeerId) -> bool,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut random = rand::thread_rng();
        let mut entries = self.lock();
        let due = entries.by_peer.iter().filter(|(peer, entry)| entry.next_try <= now && !connected(peer));
        let due: Vec<(PeerId, Vec<Multiaddr>)> = due
            .map(|(peer, entry)| (*peer, self.wanted.addresses(&entry.found.record)))
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect();
        let chosen: Vec<_> = due.choose_multiple(&mut random, count).cloned().collect();
        for (peer, _) in &chosen {
            if let Some(entry) = entries.by_peer.get_mut(peer) {
                let pause = PAUSE.0.saturating_mul(1 << entry.tries.min(16)).min(PAUSE.1);
                entry.tries = entry.tries.saturating_add(1);
                entry.next_try = now + pause.mul_f64(random.gen_range(0.75..1.25));
            }
        }
        chosen
    }

    /// A peer is connected and of this network: the next loss is tried anew at once.
    pub(crate) fn reached(&self, peer: &PeerId) {
        if let Some(entry) = self.lock().by_peer.get_mut(peer) {
            entry.tries = 0;
        }
    }

    /// The record next after `serial`, and its serial.
    fn after(&self, serial: u64) -> Option<(u64, FoundPeer)> {
        let entries = self.lock();
        let later = entries.by_peer.values().filter(|entry| entry.serial > serial);
        later.min_by_key(|entry| entry.serial).map(|entry| (entry.serial, entry.found.clone()))
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.serial.subscribe()
    }
}

fn ips(record: &NodeRecord) -> Vec<IpAddr> {
    record.addresses().iter().filter_map(ip).chain(record.udp().iter().map(SocketAddr::ip)).collect()
}

fn ips_of(found: &FoundPeer) -> Vec<IpAddr> {
    ips(&found.record)
}

/// Found peers, one after the other: those known already, then new ones and new records of known ones.
#[derive(Debug)]
pub struct FoundPeers {
    pub(super) book: std::sync::Arc<Book>,
    pub(super) serial: u64,
    pub(super) changes: watch::Receiver<u64>,
    pub(super) stopped: tokio_util::sync::CancellationToken,
}

impl FoundPeers {
    /// The next one; `None` when the node has stopped. Safe to cancel. Of a peer whose record changed in the meantime
    /// only the newest comes.
    pub async fn next(&mut self) -> Option<FoundPeer> {
        loop {
            self.changes.borrow_and_update();
            if let Some((serial, found)) = self.book.after(self.serial) {
                self.serial = serial;
                return Some(found);
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = self.stopped.cancelled() => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enr::{Capabilities, RecordContent, RecordShards},
        key::NodeKey,
    };

    const S: Duration = Duration::from_secs(1);

    fn shards(indices: &[u16]) -> Vec<ShardIndex> {
        indices.iter().map(|shard| ShardIndex::new(*shard).unwrap()).collect()
    }

    fn wanted() -> Wanted {
        Wanted {
            me: NodeKey::generate().peer_id(),
            cluster: ClusterId(42),
            shards: shards(&[0, 7]),
            local_addresses: true,
        }
    }

    fn content(last: u8) -> RecordContent {
        RecordContent {
            capabilities: Capabilities::RELAY,
            shards: Some(RecordShards { cluster: ClusterId(42), shards: shards(&[7]) }),
            ip4: Some([10, 0, 0, last].into()),
            tcp4: Some(1),
            ..RecordContent::default()
        }
    }

    fn record(content: &RecordContent) -> NodeRecord {
        content.sign(&NodeKey::generate(), 1).unwrap()
    }

    #[test]
    fn only_records_of_use_are_taken() {
        let book = Book::new(wanted(), 10, None);
        let other = RecordShards { cluster: ClusterId(43), shards: shards(&[7]) };
        let elsewhere = RecordShards { cluster: ClusterId(42), shards: shards(&[1]) };
        for useless in [
            RecordContent { capabilities: Capabilities::default(), ..content(1) },
            RecordContent { shards: None, ..content(1) },
            RecordContent { shards: Some(other), ..content(1) },
            RecordContent { shards: Some(elsewhere), ..content(1) },
        ] {
            assert!(!book.offer(record(&useless), FoundBy::Discv5), "{useless:?}");
        }
        let key = NodeKey::generate();
        assert!(book.offer(content(1).sign(&key, 5).unwrap(), FoundBy::PeerExchange));
        assert!(!book.offer(content(2).sign(&key, 5).unwrap(), FoundBy::PeerExchange), "the same version");
        assert!(!book.offer(content(2).sign(&key, 4).unwrap(), FoundBy::Discv5), "an old version");
        assert!(book.offer(content(2).sign(&key, 6).unwrap(), FoundBy::PeerExchange));
        let [found] = &book.found()[..] else { panic!() };
        assert_eq!((found.record.seq(), found.by), (6, FoundBy::Discv5));
        let own = Wanted { me: key.peer_id(), ..wanted() };
        assert!(!own.admits(&found.record));
    }

    #[test]
    fn floods_stay_bounded() {
        let book = Book::new(wanted(), 10, Some(3));
        for _ in 0..20 {
            book.offer(record(&content(1)), FoundBy::Discv5);
        }
        assert_eq!(book.found().len(), 3, "of one address");
        for last in 2..100 {
            book.offer(record(&content(last)), FoundBy::Discv5);
        }
        assert_eq!(book.found().len(), 10);
        // Only who was tried in vain makes room.
        assert_eq!(book.to_dial(100, S, |_| false).len(), 10);
        assert!(!book.offer(record(&content(200)), FoundBy::Discv5), "one try in vain is none");
        assert_eq!(book.to_dial(100, 100 * S, |_| false).len(), 10);
        assert!(book.offer(record(&content(200)), FoundBy::Discv5));
        assert_eq!(book.found().len(), 10);
        assert_eq!(book.sample(60, wanted().me).len(), 10);
        assert_eq!(book.sample(4, wanted().me).len(), 4);
    }

    #[test]
    fn tries_are_spaced() {
        let book = Book::new(wanted(), 10, None);
        let key = NodeKey::generate();
        book.offer(content(1).sign(&key, 1).unwrap(), FoundBy::Discv5);
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let start = now;
            assert_eq!(book.to_dial(5, now, |_| false).len(), 1);
            // A new record doesn't shorten the pause.
            book.offer(content(2).sign(&key, 2 + u64::try_from(pauses.len()).unwrap()).unwrap(), FoundBy::Discv5);
            assert!(book.to_dial(5, now, |_| false).is_empty(), "too early");
            now = book.lock().by_peer[&key.peer_id()].next_try;
            pauses.push((now - start).as_secs());
        }
        assert!((3..=8).contains(&pauses[0]), "{pauses:?}");
        assert!((600..=1126).contains(&pauses[11]), "{pauses:?}");
        book.reached(&key.peer_id());
        assert!(book.to_dial(5, now, |_| true).is_empty(), "it is connected");
        assert_eq!(book.to_dial(5, now, |_| false).len(), 1);
        assert!(book.to_dial(5, now + 2 * S, |_| false).is_empty());
        assert_eq!(book.to_dial(5, now + 8 * S, |_| false).len(), 1);
    }

    #[test]
    fn strangers_cannot_name_local_addresses() {
        for (ip, global) in [
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("169.254.0.1", false),
            ("0.0.0.0", false),
            ("240.0.0.1", false),
            ("8.8.8.8", true),
            ("100.128.0.1", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("2a00::1", true),
        ] {
            assert_eq!(is_global(ip.parse().unwrap()), global, "{ip}");
        }
        let book = Book::new(Wanted { local_addresses: false, ..wanted() }, 10, None);
        let mapped = "/ip6/::ffff:127.0.0.1/tcp/5/ws".parse().unwrap();
        let local = RecordContent { multiaddrs: vec![mapped], ..content(1) };
        assert!(book.offer(record(&local), FoundBy::Discv5));
        assert!(book.to_dial(1, S, |_| false).is_empty());
        let global = RecordContent { ip4: Some([8, 8, 8, 8].into()), ..local };
        assert!(book.offer(record(&global), FoundBy::Discv5));
        let [(_, addresses)] = &book.to_dial(5, S, |_| false)[..] else { panic!() };
        assert_eq!(addresses.len(), 1);
    }
}
