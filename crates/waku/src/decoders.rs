//! No bytes of a peer make a decoder panic.

use prost::Message as _;

use crate::{
    EligibilityStatus, LightPushRequest, NodeKey, NodeRecord, PeerMetadata, RecordContent, StoreEntry,
    StoreQueryRequest, StoreQueryResponse, StoreStatus, Timestamp, WakuMessage, peer_exchange, proto,
    topics::{ContentTopic, PubsubTopic},
};

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
fn mutated_messages_do_not_panic() {
    let peer = NodeKey::generate().peer_id();
    let shard: PubsubTopic = "/waku/2/rs/1/7".parse().unwrap();
    let topic = ContentTopic::opaque("/app/20/name/proto");
    let mut message = WakuMessage::new(topic.clone(), vec![1; 40], Timestamp::from_nanos(-5));
    message.meta = Some(vec![2; 64].into());
    let request = StoreQueryRequest {
        time_start: Some(Timestamp::from_nanos(i64::MIN)),
        pagination_cursor: Some(message.hash(shard)),
        pagination_limit: Some(u64::MAX),
        eligibility_proof: Some("proof".into()),
        ..StoreQueryRequest::by_topics(shard, [topic.clone()])
    };
    let response = StoreQueryResponse {
        request_id: request.request_id.clone(),
        status: StoreStatus::OK,
        status_desc: "OK".to_owned(),
        messages: vec![StoreEntry { hash: message.hash(shard), data: Some((shard, message.clone().into())) }],
        pagination_cursor: Some(message.hash(shard)),
        eligibility: Some(EligibilityStatus { status_code: 200, status_desc: "OK".to_owned() }),
    };
    let push = LightPushRequest::new(Some(shard), message.clone());
    let push_v2 = push.encode_v2(shard);
    let metadata = PeerMetadata { cluster: Some(shard.cluster), shards: vec![shard.shard] };
    let filter = proto::filter::v2::MessagePush {
        waku_message: Some(message.clone().into()),
        pubsub_topic: Some(shard.to_string()),
    };
    let record = RecordContent::default().sign(&NodeKey::generate(), 1).unwrap().encode();
    let peers = proto::peer_exchange::v2::PeerExchangeResponse {
        peer_infos: vec![proto::peer_exchange::v2::PeerInfo { enr: record.clone() }],
        ..Default::default()
    };
    let peers = proto::peer_exchange::v2::PeerExchangeRpc { query: None, response: Some(peers) }.encode_to_vec();
    // Unchanged, each is read.
    assert_eq!(NodeRecord::decode(&record).unwrap().encode(), record);
    assert_eq!(peer_exchange::decode(peer, &peers, 60).unwrap().len(), 1);
    assert_eq!(WakuMessage::decode(&message.encode()).unwrap(), message);
    assert_eq!(StoreQueryRequest::decode(&request.encode()).unwrap(), request);
    assert_eq!(StoreQueryResponse::decode(&response.encode(), &request, peer).unwrap(), response);
    assert_eq!(LightPushRequest::decode(&push.encode()).unwrap(), push);
    assert_eq!(LightPushRequest::decode_v2(&push_v2).unwrap(), push);
    assert_eq!(PeerMetadata::decode(&metadata.encode()).unwrap(), metadata);

    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let outcomes = [
            WakuMessage::decode(&random.mutate(&message.encode())).is_ok(),
            StoreQueryRequest::decode(&random.mutate(&request.encode())).is_ok(),
            StoreQueryResponse::decode(&random.mutate(&response.encode()), &request, peer).is_ok(),
            LightPushRequest::decode(&random.mutate(&push.encode())).is_ok(),
            LightPushRequest::decode_v2(&random.mutate(&push_v2)).is_ok(),
            PeerMetadata::decode(&random.mutate(&metadata.encode())).is_ok(),
            proto::filter::v2::MessagePush::decode(random.mutate(&filter.encode_to_vec()).as_slice()).is_ok(),
        ];
        read += outcomes.iter().filter(|ok| **ok).count();
        refused += outcomes.iter().filter(|ok| !**ok).count();
    }
    // Verifying is slow.
    for _ in 0..2_000 {
        let _ = NodeRecord::decode(&random.mutate(&record));
        let _ = peer_exchange::decode(peer, &random.mutate(&peers), 60);
    }
    assert!(read > 10_000 && refused > 10_000, "{read} read, {refused} refused");
}

#[test]
fn mutated_topics_do_not_panic() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for valid in ["/waku/2/rs/1/7", "/0/app/20/name/proto", "/app/20/näme/proto"] {
        for _ in 0..20_000 {
            let text = String::from_utf8_lossy(&random.mutate(valid.as_bytes())).into_owned();
            if let Ok(topic) = text.parse::<PubsubTopic>() {
                assert_eq!(topic.to_string(), text, "a topic has one spelling");
            }
            if let Ok(topic) = text.parse::<ContentTopic>() {
                assert!(topic.shard(8).unwrap().get() < 8);
            }
        }
    }
}
