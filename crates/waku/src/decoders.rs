//! No bytes of a peer make a decoder panic, and none of them mean something else when they are written again.

use prost::Message as _;

use crate::{NodeKey, NodeRecord, RecordContent, fuzzing::DECODERS, peer_exchange, proto::peer_exchange::v2};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % n
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }

    /// Changes, cuts, lengthens or repeats parts of valid bytes.
    fn mutate(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 if at < bytes.len() => bytes[at] = self.byte(),
                1 => bytes.truncate(at),
                2 => bytes.insert(at, self.byte()),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    }
}

#[test]
fn mutated_bytes_do_not_panic() {
    for (n, decoder) in (1..).zip(DECODERS) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n));
        let seeds = (decoder.seeds)();
        assert!(!seeds.is_empty(), "{}", decoder.name);
        for seed in &seeds {
            assert!((decoder.read)(seed), "{} reads its seed", decoder.name);
            let mut read = 0;
            for _ in 0..20_000 {
                read += u32::from((decoder.read)(&random.mutate(seed)));
            }
            // Some changes leave a meaning, some don't.
            assert!((50..19_950).contains(&read), "{} reads {read} of 20000", decoder.name);
        }
    }
}

#[test]
fn arbitrary_bytes_do_not_panic() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for decoder in DECODERS {
        for _ in 0..5000 {
            let length = random.below(300);
            let bytes: Vec<u8> = (0..length).map(|_| random.byte()).collect();
            (decoder.read)(&bytes);
        }
    }
}

/// Apart from the others: records are signed, and verifying is slow.
#[test]
fn mutated_records_and_peer_exchange_answers_do_not_panic() {
    let peer = NodeKey::generate().peer_id();
    let record = RecordContent::default().sign(&NodeKey::generate(), 1).unwrap().encode();
    let response =
        v2::PeerExchangeResponse { peer_infos: vec![v2::PeerInfo { enr: record.clone() }], ..Default::default() };
    let peers = v2::PeerExchangeRpc { query: None, response: Some(response) }.encode_to_vec();
    // Unchanged, each is read.
    assert_eq!(NodeRecord::decode(&record).unwrap().encode(), record);
    assert_eq!(peer_exchange::decode(peer, &peers, 60).unwrap().len(), 1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2_000 {
        let _ = NodeRecord::decode(&random.mutate(&record));
        let _ = peer_exchange::decode(peer, &random.mutate(&peers), 60);
    }
}
