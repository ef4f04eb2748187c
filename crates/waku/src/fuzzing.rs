//! Every decoder of a peer's bytes, for the fuzz targets and the test of mutated messages. No part of the crate's API.
//!
//! What is understood must mean the same when it is written again: that is asserted here, beside the absence of panics.

use std::sync::LazyLock;

use futures::{FutureExt as _, io::Cursor};
use prost::Message as _;

use crate::{
    Bytes, EligibilityStatus, LightPushRequest, MessageHash, NodeKey, PeerId, PeerMetadata, StoreEntry,
    StoreQueryRequest, StoreQueryResponse, StoreStatus, Timestamp, WakuMessage, filter, lightpush,
    proto::{
        filter::v2::{FilterSubscribeRequest, FilterSubscribeResponse, MessagePush},
        lightpush::{v2, v3},
    },
    relay, rpc,
    topics::{ContentTopic, PubsubTopic},
};

/// One decoder.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Name of its fuzz target.
    pub name: &'static str,
    /// Reads bytes; says whether they were understood.
    pub read: fn(&[u8]) -> bool,
    /// Bytes that it understands.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const DECODERS: &[Decoder] = &[
    Decoder { name: "waku_message", read: waku_message, seeds: || vec![message().encode().into()] },
    Decoder { name: "waku_frame", read: waku_frame, seeds: frames },
    Decoder { name: "waku_store_request", read: waku_store_request, seeds: store_requests },
    Decoder { name: "waku_store_response", read: waku_store_response, seeds: store_responses },
    Decoder { name: "waku_filter", read: waku_filter, seeds: filter_messages },
    Decoder { name: "waku_lightpush_v3", read: waku_lightpush_v3, seeds: lightpush_v3 },
    Decoder { name: "waku_lightpush_v2", read: waku_lightpush_v2, seeds: lightpush_v2 },
    Decoder { name: "waku_metadata", read: waku_metadata, seeds: metadata },
    Decoder { name: "waku_topics", read: waku_topics, seeds: topics },
];

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const MAX_FRAME: u64 = 64 * 1024;

fn shard() -> PubsubTopic {
    PubsubTopic::new(crate::ClusterId(1), crate::ShardIndex::new(7).unwrap_or_default())
}

fn message() -> WakuMessage {
    let mut message = WakuMessage::new(ContentTopic::opaque("/app/20/name/proto"), vec![1; 40], NOW);
    message.meta = Some(vec![2; 64].into());
    message
}

static PEER: LazyLock<PeerId> = LazyLock::new(|| NodeKey::generate().peer_id());

static QUERY: LazyLock<StoreQueryRequest> = LazyLock::new(|| StoreQueryRequest {
    request_id: "query".to_owned(),
    time_start: Some(Timestamp::from_nanos(i64::MIN)),
    pagination_cursor: Some(message().hash(shard())),
    pagination_limit: Some(u64::MAX),
    eligibility_proof: Some("proof".into()),
    ..StoreQueryRequest::by_topics(shard(), [message().content_topic])
});

static PUSH: LazyLock<LightPushRequest> = LazyLock::new(|| LightPushRequest {
    request_id: "push".to_owned(),
    ..LightPushRequest::new(Some(shard()), message())
});

/// A relayed message: decoding, the relay's judgement, its hash.
pub fn waku_message(data: &[u8]) -> bool {
    let judged = relay::validate(data, NOW);
    let Ok(message) = WakuMessage::decode(data) else {
        assert!(judged.is_err(), "the relay passes on what can't be decoded");
        return false;
    };
    let again = WakuMessage::decode(&message.encode()).expect("its own encoding");
    assert_eq!(again, message);
    assert_eq!(again.hash(shard()), message.hash(shard()));
    judged.is_ok()
}

/// A frame of the request-response protocols: length prefix and body.
pub fn waku_frame(data: &[u8]) -> bool {
    let read = rpc::read_frame(&mut Cursor::new(data), MAX_FRAME).now_or_never();
    match read.expect("bytes in memory never have to be waited for") {
        Ok(body) => {
            assert!(body.len() as u64 <= MAX_FRAME && body.len() < data.len());
            true
        }
        Err(_) => false,
    }
}

fn frames() -> Vec<Vec<u8>> {
    vec![vec![3, 1, 2, 3], [&[0x80, 0x01][..], &[7; 128]].concat()]
}

/// A Store query, as its server reads it.
pub fn waku_store_request(data: &[u8]) -> bool {
    let Ok(request) = StoreQueryRequest::decode(data) else { return false };
    assert_eq!(StoreQueryRequest::decode(&request.encode()).expect("its own encoding"), request);
    assert!((1..=crate::MAX_PAGE_LIMIT).contains(&request.effective_limit()));
    let _ = (request.page_query(), crate::request_bytes_without_proof(&request));
    true
}

fn store_requests() -> Vec<Vec<u8>> {
    let hashes = StoreQueryRequest {
        pubsub_topic: None,
        content_topics: Vec::new(),
        time_start: None,
        message_hashes: vec![message().hash(shard()), MessageHash::from_bytes([9; 32])],
        ..QUERY.clone()
    };
    vec![QUERY.encode().into(), hashes.encode().into()]
}

/// The answer to a Store query, as its client reads it.
pub fn waku_store_response(data: &[u8]) -> bool {
    let Ok(response) = StoreQueryResponse::decode(data, &QUERY, *PEER) else { return false };
    let again = StoreQueryResponse::decode(&response.encode(), &QUERY, *PEER).expect("its own encoding");
    assert_eq!(again, response);
    true
}

fn store_responses() -> Vec<Vec<u8>> {
    let response = StoreQueryResponse {
        request_id: QUERY.request_id.clone(),
        status: StoreStatus::OK,
        status_desc: "OK".to_owned(),
        messages: vec![StoreEntry { hash: message().hash(shard()), data: Some((shard(), message().into())) }],
        pagination_cursor: Some(message().hash(shard())),
        eligibility: Some(EligibilityStatus { status_code: 200, status_desc: "OK".to_owned() }),
    };
    vec![response.encode().into()]
}

/// Filter's request, response and push: the bytes are tried as each.
pub fn waku_filter(data: &[u8]) -> bool {
    let subscribe = FilterSubscribeRequest::decode(data).is_ok_and(|request| filter::criteria(request).is_ok());
    let response = FilterSubscribeResponse::decode(data).is_ok();
    let push = MessagePush::decode(data).is_ok_and(|push| {
        let topic = push.pubsub_topic.and_then(|topic| topic.parse::<PubsubTopic>().ok());
        let message = push.waku_message.and_then(|message| WakuMessage::try_from(message).ok());
        let hash = topic.zip(message).map(|(topic, message)| message.hash(topic));
        hash.is_some()
    });
    subscribe || response || push
}

fn filter_messages() -> Vec<Vec<u8>> {
    let topic = Some(shard().to_string());
    let push = MessagePush { waku_message: Some(message().into()), pubsub_topic: topic.clone() };
    let content_topics = vec![message().content_topic.as_str().to_owned()];
    let request_id = "subscribe".to_owned();
    let subscribe = FilterSubscribeRequest {
        request_id: request_id.clone(),
        filter_subscribe_type: 1,
        pubsub_topic: topic,
        content_topics,
    };
    let response = FilterSubscribeResponse { request_id, status_code: 200, status_desc: Some("OK".to_owned()) };
    vec![push.encode_to_vec(), subscribe.encode_to_vec(), response.encode_to_vec()]
}

/// Version 3 of lightpush: the bytes are tried as request and as answer.
pub fn waku_lightpush_v3(data: &[u8]) -> bool {
    let answer = lightpush::decode_answer(data, &PUSH, *PEER).is_ok();
    let Ok(request) = LightPushRequest::decode(data) else { return answer };
    assert_eq!(LightPushRequest::decode(&request.encode()).expect("its own encoding"), request);
    let _ = crate::lightpush_bytes_without_proof(&request);
    true
}

fn lightpush_v3() -> Vec<Vec<u8>> {
    let answer = v3::LightPushResponse {
        request_id: PUSH.request_id.clone(),
        status_code: 200,
        status_desc: Some("OK".to_owned()),
        relay_peer_count: Some(1),
    };
    let paid = LightPushRequest { eligibility_proof: Some(Bytes::from_static(b"proof")), ..PUSH.clone() };
    vec![PUSH.encode().into(), paid.encode().into(), answer.encode_to_vec()]
}

/// Version 2 of lightpush: the bytes are tried as request and as answer.
pub fn waku_lightpush_v2(data: &[u8]) -> bool {
    let answer = lightpush::decode_v2_answer(data, &PUSH, *PEER).is_ok();
    let Ok(request) = LightPushRequest::decode_v2(data) else { return answer };
    let again = LightPushRequest::decode_v2(&request.encode_v2(request.pubsub_topic.unwrap_or_else(shard)));
    assert_eq!(again.expect("its own encoding").message, request.message);
    true
}

fn lightpush_v2() -> Vec<Vec<u8>> {
    let answer = v2::PushRpc {
        request_id: PUSH.request_id.clone(),
        request: None,
        response: Some(v2::PushResponse { is_success: true, info: "OK".to_owned() }),
    };
    vec![PUSH.encode_v2(shard()).into(), answer.encode_to_vec()]
}

/// A peer's metadata.
pub fn waku_metadata(data: &[u8]) -> bool {
    let Ok(metadata) = PeerMetadata::decode(data) else { return false };
    assert_eq!(PeerMetadata::decode(&metadata.encode()).expect("its own encoding"), metadata);
    true
}

fn metadata() -> Vec<Vec<u8>> {
    let shard = shard();
    vec![PeerMetadata { cluster: Some(shard.cluster), shards: vec![shard.shard] }.encode().into()]
}

/// The texts of pubsub and content topics.
pub fn waku_topics(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let pubsub = text.parse::<PubsubTopic>();
    if let Ok(topic) = &pubsub {
        assert_eq!(topic.to_string(), text, "a topic has one spelling");
    }
    let content = text.parse::<ContentTopic>();
    if let Ok(topic) = &content {
        assert_eq!(topic.as_str(), text);
        assert!(topic.shard(8).expect("a parsed topic has a shard").get() < 8);
    }
    pubsub.is_ok() || content.is_ok()
}

fn topics() -> Vec<Vec<u8>> {
    ["/waku/2/rs/1/7", "/0/app/20/name/proto", "/app/20/name/proto", "/app/20/n\u{e4}me/proto"]
        .map(|topic| topic.as_bytes().to_vec())
        .into()
}
