//! Store v3 over the wire: every option of a query, the gate, a lying server, and the archive behind.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prost::Message as _;
use tempfile::TempDir;
use tributary_waku::{
    Archive, ArchiveConfig, ArchiveError, ArchiveLocation, ArchivedMessage, Bytes, ContentTopic, EligibilityStatus,
    Expired, FilterConfig, FilterError, GatedQuery, LightPushConfig, LightPushRequest, MessageHash, Node, NodeConfig,
    NodeHandle, PageQuery, PeerId, PostgresUrl, PubsubTopic, RequestHandler, Retention, STORE_PROTOCOL, Selection,
    ServeLimits, ShardIndex, Sharding, SqliteArchive, StoreConfig, StoreEntry, StoreError, StoreGate, StoreOutcome,
    StoreQueryRequest, StoreQueryResponse, StoreStatus, StoreVerdict, Timestamp, WakuMessage,
    proto::{self, store::v3 as wire},
    request_bytes_without_proof,
};

use crate::{
    common::{
        CLUSTER, NOW, PATIENCE, address, burst, clock, config, connect, message, node, shard, topic, unlimited, within,
    },
    postgres,
    raw::RawPeer,
};

const SECOND: Duration = Duration::from_secs(1);

/// The kinds of archive. What a node stores and answers doesn't depend on it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Sqlite,
    Postgres,
}

/// An archive's place.
struct Place {
    archive: ArchiveConfig,
    _dir: TempDir,
}

impl Kind {
    /// A place where no archive is yet.
    async fn place(self) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let archive = match self {
            Self::Sqlite => ArchiveConfig::new(dir.path().join("archive.sqlite")),
            Self::Postgres => {
                ArchiveConfig::new(postgres::Server::shared().database().await.parse::<PostgresUrl>().unwrap())
            }
        };
        Place { archive, _dir: dir }
    }
}

/// Makes tests of each function, one with each kind of archive.
macro_rules! with_each_archive {
    ($($(#[$attribute:meta])* $test:ident,)*) => {
        mod in_sqlite {
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(super::Kind::Sqlite).await; })*
        }
        mod in_postgres {
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(super::Kind::Postgres).await; })*
        }
    };
}

with_each_archive! {
    relayed_messages_can_be_queried,
    every_option_answers_as_specified,
    random_queries_agree_with_the_specification,
    pages_cover_everything_once_in_both_directions,
    hashes_are_found_with_a_shard_beside_them,
    malformed_queries_are_refused_with_a_reason,
    too_many_and_too_large_queries,
    pages_are_shortened_to_what_may_be_sent,
    the_gate_decides_before_the_archive_is_read,
    retention_deletes_the_oldest,
    a_node_enforces_its_retention,
    a_restart_keeps_the_archive,
    any_content_topic_is_kept_and_found,
    static_shards_are_relayed_pushed_and_stored,
    many_messages_are_paged_quickly,
}

struct Server {
    node: NodeHandle,
    client: NodeHandle,
    _place: Place,
}

/// A node with an archive, and a client connected to it.
async fn server(kind: Kind, gate: Option<Arc<dyn StoreGate>>) -> Server {
    server_with(kind, StoreConfig { gate, limits: StoreConfig::default().limits }).await
}

async fn server_with(kind: Kind, store: StoreConfig) -> Server {
    let place = kind.place().await;
    let clock = clock();
    let setup = NodeConfig {
        archive: Some(place.archive.clone()),
        store: Some(StoreConfig { limits: without_rates(store.limits), ..store }),
        ..config(&clock)
    };
    let node = Node::spawn(setup).await.unwrap();
    let client = Node::spawn(NodeConfig { relay: false, listen: vec![], ..config(&clock) }).await.unwrap();
    connect(&client, &node).await;
    Server { node, client, _place: place }
}

fn without_rates(limits: ServeLimits) -> ServeLimits {
    ServeLimits { rate_per_peer: None, rate_total: None, ..limits }
}

impl Server {
    async fn query(&self, request: &StoreQueryRequest) -> Result<StoreQueryResponse, StoreError> {
        self.client.store_query(self.node.peer_id(), request).await
    }

    async fn hashes(&self, request: &StoreQueryRequest) -> Vec<MessageHash> {
        let response = self.query(request).await.unwrap();
        assert_eq!((response.status, response.status_desc.as_str()), (StoreStatus::OK, "OK"));
        assert_eq!(response.request_id, request.request_id);
        response.messages.iter().map(|entry| entry.hash).collect()
    }

    async fn keep(&self, messages: &[ArchivedMessage]) {
        let new = self.node.archive().unwrap().insert(messages).await.unwrap();
        assert_eq!(new, messages.len() as u64);
    }
}

fn archived(pubsub_topic: PubsubTopic, message: WakuMessage) -> ArchivedMessage {
    ArchivedMessage { hash: message.hash(pubsub_topic), pubsub_topic, message: message.into() }
}

fn other_shard() -> PubsubTopic {
    "/waku/2/rs/42/3".parse().unwrap()
}

/// Messages over two shards and three content topics; four share each timestamp. In the archive's order.
fn history(n: usize) -> Vec<ArchivedMessage> {
    let topics = ["/app/20/a/x", "/app/20/b/x", "not structured"].map(ContentTopic::opaque);
    let mut all: Vec<_> = (0..n)
        .map(|i| {
            let pubsub = if i % 5 == 0 { other_shard() } else { shard() };
            let at = NOW.saturating_add(SECOND * u32::try_from(i / 4).unwrap());
            archived(pubsub, WakuMessage::new(topics[i % 3].clone(), format!("{i}"), at))
        })
        .collect();
    all.sort_by_key(|m| (m.message.timestamp, m.hash));
    all
}

/// What the specification says about a query, read off a sorted list.
fn expected(history: &[ArchivedMessage], request: &StoreQueryRequest) -> (Vec<MessageHash>, Option<MessageHash>) {
    let mut matching: VecDeque<&ArchivedMessage> = history
        .iter()
        .filter(|m| request.pubsub_topic.is_none_or(|topic| topic == m.pubsub_topic))
        .filter(|m| request.content_topics.is_empty() || request.content_topics.contains(&m.message.content_topic))
        .filter(|m| request.time_start.is_none_or(|start| m.message.timestamp.unwrap() >= start))
        .filter(|m| request.time_end.is_none_or(|end| m.message.timestamp.unwrap() <= end))
        .filter(|m| request.message_hashes.is_empty() || request.message_hashes.contains(&m.hash))
        .collect();
    if let Some(cursor) = request.pagination_cursor {
        let cursor = history.iter().find(|m| m.hash == cursor).unwrap();
        let key = (cursor.message.timestamp, cursor.hash);
        matching.retain(|m| {
            let own = (m.message.timestamp, m.hash);
            if request.pagination_forward { own > key } else { own < key }
        });
    }
    let limit = usize::try_from(request.effective_limit()).unwrap();
    let more = matching.len() > limit;
    while matching.len() > limit {
        if request.pagination_forward {
            matching.pop_back()
        } else {
            matching.pop_front()
        };
    }
    let hashes: Vec<_> = matching.iter().map(|m| m.hash).collect();
    let edge = if request.pagination_forward { hashes.last() } else { hashes.first() };
    (hashes.clone(), edge.copied().filter(|_| more))
}

async fn relayed_messages_can_be_queried(kind: Kind) {
    let place = kind.place().await;
    let clock = clock();
    let setup = NodeConfig { archive: Some(place.archive.clone()), ..config(&clock) };
    let store = Node::spawn(setup).await.unwrap();
    let publisher = node(&clock).await;
    connect(&publisher, &store).await;
    publisher.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    let mut received = store.subscribe_all().unwrap();
    let kept = [message("one"), WakuMessage { meta: Some("m".into()), ..message("two") }];
    for m in &kept {
        publisher.publish(m.clone()).await.unwrap();
    }
    let ephemeral = WakuMessage { ephemeral: Some(true), ..message("ephemeral") };
    publisher.publish(ephemeral.clone()).await.unwrap();
    // The store's own messages are archived too.
    let own = message("own");
    store.publish(own.clone()).await.unwrap();
    for _ in 0..4 {
        within("a message", received.recv()).await.unwrap();
    }
    store.flush_archive().await;
    let mut expected: Vec<_> = kept.into_iter().chain([own]).map(|m| archived(shard(), m)).collect();
    expected.sort_by_key(|m| m.hash);

    let request = StoreQueryRequest::by_topics(shard(), [topic()]);
    let response = publisher.store_query(store.peer_id(), &request).await.unwrap();
    let entries: Vec<_> =
        expected.into_iter().map(|m| StoreEntry { hash: m.hash, data: Some((m.pubsub_topic, m.message)) }).collect();
    assert_eq!(response.messages, entries);
    assert_eq!((response.status, response.pagination_cursor, response.eligibility), (StoreStatus::OK, None, None));
    assert_eq!(store.archive().unwrap().count().await.unwrap(), 3);
    assert_eq!(store.stats().archive_lost, 0);
    // The publisher has no archive, and says so.
    let error = store.store_query(publisher.peer_id(), &request).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W302");
}

async fn every_option_answers_as_specified(kind: Kind) {
    let server = server(kind, None).await;
    let history = history(250);
    server.keep(&history).await;
    let at = |s: u32| Some(NOW.saturating_add(SECOND * s));
    let both = [ContentTopic::opaque("/app/20/a/x"), ContentTopic::opaque("not structured")];
    let mut cases = vec![
        StoreQueryRequest::new(),
        StoreQueryRequest::by_topics(shard(), [both[0].clone()]),
        StoreQueryRequest::by_topics(other_shard(), both.clone()),
        StoreQueryRequest::by_topics(shard(), [both[0].clone(), both[0].clone()]),
        StoreQueryRequest::by_topics(shard(), [ContentTopic::opaque("/nothing/1/here/x")]),
        StoreQueryRequest { time_start: at(10), ..StoreQueryRequest::new() },
        StoreQueryRequest { time_end: at(10), ..StoreQueryRequest::new() },
        StoreQueryRequest { time_start: at(10), time_end: at(10), ..StoreQueryRequest::new() },
        StoreQueryRequest { time_start: at(11), time_end: at(10), ..StoreQueryRequest::new() },
        StoreQueryRequest {
            time_start: at(10),
            time_end: at(30),
            ..StoreQueryRequest::by_topics(shard(), both.clone())
        },
        StoreQueryRequest::by_hashes([history[7].hash, history[3].hash, history[3].hash, history[200].hash]),
        StoreQueryRequest::by_hashes([MessageHash::from_bytes([9; 32])]),
        StoreQueryRequest::presence([history[7].hash, MessageHash::from_bytes([9; 32]), history[3].hash]),
        StoreQueryRequest::by_hashes(history.iter().map(|m| m.hash)),
        StoreQueryRequest { include_data: false, ..StoreQueryRequest::by_topics(shard(), both.clone()) },
    ];
    for limit in [0, 1, 20, 99, 100, 101, 1000, u64::MAX] {
        cases.push(StoreQueryRequest { pagination_limit: Some(limit), ..StoreQueryRequest::new() });
    }
    for position in [0, 1, 4, 100, 248, 249] {
        let cursor = Some(history[position].hash);
        cases.push(StoreQueryRequest { pagination_cursor: cursor, ..StoreQueryRequest::new() });
        // The cursor needn't match the filter.
        cases.push(StoreQueryRequest {
            pagination_cursor: cursor,
            time_start: at(20),
            ..StoreQueryRequest::by_topics(shard(), both.clone())
        });
        cases.push(StoreQueryRequest {
            pagination_cursor: cursor,
            ..StoreQueryRequest::by_hashes(history.iter().step_by(2).map(|m| m.hash))
        });
    }
    for case in cases {
        for forward in [false, true] {
            let request = StoreQueryRequest { pagination_forward: forward, ..case.clone() };
            let response = server.query(&request).await.unwrap();
            let (hashes, cursor) = expected(&history, &request);
            let got: Vec<_> = response.messages.iter().map(|entry| entry.hash).collect();
            assert_eq!(got, hashes, "{request:?}");
            assert_eq!(response.pagination_cursor, cursor, "{request:?}");
            assert_eq!((response.status, response.status_desc.as_str()), (StoreStatus::OK, "OK"));
            for entry in &response.messages {
                let original = history.iter().find(|m| m.hash == entry.hash).unwrap();
                let data = request.include_data.then(|| (original.pubsub_topic, original.message.clone()));
                assert_eq!(entry.data, data);
            }
        }
    }
}

async fn random_queries_agree_with_the_specification(kind: Kind) {
    let server = server(kind, None).await;
    let history = history(120);
    server.keep(&history).await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let topics = ["/app/20/a/x", "/app/20/b/x", "not structured", "none"];
    for _ in 0..300 {
        let mut request = if random(4) == 0 {
            StoreQueryRequest::by_hashes(history.iter().filter(|_| random(3) == 0).map(|m| m.hash))
        } else {
            let mut request = StoreQueryRequest::new();
            if random(3) > 0 {
                request.pubsub_topic = Some(if random(4) == 0 { other_shard() } else { shard() });
                let n = 1 + random(3);
                request.content_topics =
                    (0..n).map(|_| ContentTopic::opaque(topics[usize::try_from(random(4)).unwrap()])).collect();
            }
            let mut time = || (random(2) == 0).then(|| NOW.saturating_add(SECOND * u32::try_from(random(35)).unwrap()));
            request.time_start = time();
            request.time_end = time();
            request
        };
        request.include_data = random(2) == 0;
        request.pagination_forward = random(2) == 0;
        request.pagination_limit = Some(random(30));
        if random(2) == 0 {
            request.pagination_cursor = Some(history[usize::try_from(random(120)).unwrap()].hash);
        }
        let response = server.query(&request).await.unwrap();
        let got: Vec<_> = response.messages.iter().map(|entry| entry.hash).collect();
        assert_eq!((got, response.pagination_cursor), expected(&history, &request), "{request:?}");
    }
}

async fn pages_cover_everything_once_in_both_directions(kind: Kind) {
    let server = server(kind, None).await;
    let history = history(250);
    server.keep(&history).await;
    let all: Vec<_> = history.iter().map(|m| m.hash).collect();
    for (forward, limit, pages) in [(true, 100, 3), (false, 100, 3), (true, 50, 5), (false, 7, 36)] {
        let mut request = StoreQueryRequest {
            pagination_forward: forward,
            pagination_limit: Some(limit),
            ..StoreQueryRequest::new()
        };
        let mut collected = VecDeque::new();
        let mut asked = 0;
        loop {
            let response = server.query(&request).await.unwrap();
            asked += 1;
            for entry in response.messages.iter().rev() {
                if !forward {
                    collected.push_front(entry.hash);
                }
            }
            for entry in &response.messages {
                if forward {
                    collected.push_back(entry.hash);
                }
            }
            match request.next_page(&response) {
                Some(next) => {
                    assert_ne!(next.request_id, request.request_id);
                    request = next;
                }
                None => break,
            }
        }
        assert_eq!(collected, all);
        assert_eq!(asked, pages, "a full last page has no cursor");
    }
    // As js-waku goes on: with its own cursor, until a page is empty.
    let beyond = StoreQueryRequest {
        pagination_cursor: all.last().copied(),
        pagination_forward: true,
        ..StoreQueryRequest::new()
    };
    assert_eq!(server.hashes(&beyond).await, []);
}

async fn hashes_are_found_with_a_shard_beside_them(kind: Kind) {
    let server = server(kind, None).await;
    let history = history(20);
    server.keep(&history).await;
    let wanted: Vec<_> = history.iter().filter(|m| m.pubsub_topic == shard()).map(|m| m.hash).take(2).collect();
    let bare = StoreQueryRequest { pagination_forward: true, ..StoreQueryRequest::by_hashes(wanted) };
    let expected = server.hashes(&bare).await;
    assert_eq!(expected.len(), 2);
    // As js-waku asks.
    let with_shard = StoreQueryRequest { pubsub_topic: Some(shard()), ..bare };
    assert_eq!(server.hashes(&with_shard).await, expected);
    let beyond = StoreQueryRequest { pagination_cursor: expected.last().copied(), ..with_shard };
    assert_eq!(server.hashes(&beyond).await, []);
}

/// A peer chooses its content topics: text that a database can't hold or compare must harm neither its messages nor others.
async fn any_content_topic_is_kept_and_found(kind: Kind) {
    let server = server(kind, None).await;
    let topics = ["", "a\0b", "\u{10ffff}'\"\\%_$1", &"long".repeat(5_000), "/app/20/a/x"].map(ContentTopic::opaque);
    let batch: Vec<_> =
        topics.iter().map(|topic| archived(shard(), WakuMessage::new(topic.clone(), "x", NOW))).collect();
    server.keep(&batch).await;
    // The same topics in another shard are others.
    assert_eq!(server.hashes(&StoreQueryRequest::by_topics(other_shard(), topics.clone())).await, []);
    for (topic, kept) in topics.into_iter().zip(&batch) {
        assert_eq!(server.hashes(&StoreQueryRequest::by_topics(shard(), [topic])).await, [kept.hash]);
    }
}

/// Answers of the wire, unchecked.
async fn raw_query(raw: &RawPeer, request: &wire::StoreQueryRequest) -> wire::StoreQueryResponse {
    let answer = raw.exchange(request.encode_length_delimited_to_vec()).await.unwrap();
    wire::StoreQueryResponse::decode_length_delimited(answer.as_slice()).unwrap()
}

async fn malformed_queries_are_refused_with_a_reason(kind: Kind) {
    let gate = Arc::new(Gate::default());
    let server = server(kind, Some(gate.clone())).await;
    let raw = RawPeer::dial(&address(&server.node), STORE_PROTOCOL, &[], &[2, 0x08, 42]).await;
    server.node.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
    let valid = wire::StoreQueryRequest { request_id: "id".to_owned(), ..Default::default() };
    let shard = Some(shard().to_string());
    let hash = Bytes::from(vec![1; 32]);
    let cases = [
        (wire::StoreQueryRequest { pubsub_topic: shard.clone(), ..valid.clone() }, "together"),
        (wire::StoreQueryRequest { content_topics: vec!["/a/1/b/c".to_owned()], ..valid.clone() }, "together"),
        (
            wire::StoreQueryRequest {
                pubsub_topic: Some("/waku/2/default-waku/proto".to_owned()),
                content_topics: vec!["/a/1/b/c".to_owned()],
                ..valid.clone()
            },
            "pubsub topic",
        ),
        (
            wire::StoreQueryRequest {
                pubsub_topic: shard.clone(),
                content_topics: vec!["/a/1/b/c".to_owned(); 101],
                ..valid.clone()
            },
            "101 content topics",
        ),
        (
            wire::StoreQueryRequest { message_hashes: vec![hash.clone()], time_start: Some(1), ..valid.clone() },
            "not both",
        ),
        (
            wire::StoreQueryRequest {
                message_hashes: vec![hash.clone()],
                pubsub_topic: shard.clone(),
                content_topics: vec!["/a/1/b/c".to_owned()],
                ..valid.clone()
            },
            "not both",
        ),
        (wire::StoreQueryRequest { message_hashes: vec![hash.clone(); 1001], ..valid.clone() }, "1001 message hashes"),
        (wire::StoreQueryRequest { message_hashes: vec![hash.slice(..31)], ..valid.clone() }, "message_hashes"),
        (wire::StoreQueryRequest { pagination_cursor: Some(hash.slice(..31)), ..valid.clone() }, "pagination_cursor"),
        (wire::StoreQueryRequest { pagination_cursor: Some(Bytes::new()), ..valid.clone() }, "pagination_cursor"),
        (wire::StoreQueryRequest { pagination_cursor: Some(vec![0; 32].into()), ..valid.clone() }, "all zero"),
        (wire::StoreQueryRequest { request_id: String::new(), ..valid.clone() }, "request_id is empty"),
    ];
    for (request, reason) in cases {
        let response = raw_query(&raw, &request).await;
        let desc = response.status_desc.unwrap();
        assert_eq!(response.status_code, Some(400), "{desc}");
        assert!(desc.contains(reason), "{desc}");
        assert_eq!(response.request_id, request.request_id);
        assert!(response.messages.is_empty());
    }
    let long = wire::StoreQueryRequest { request_id: "x".repeat(257), ..valid.clone() };
    let response = raw_query(&raw, &long).await;
    assert_eq!((response.request_id.as_str(), response.status_code), ("N/A", Some(400)));
    let answer = raw.exchange(vec![2, 0x0a, 9]).await.unwrap();
    let response = wire::StoreQueryResponse::decode_length_delimited(answer.as_slice()).unwrap();
    assert_eq!((response.request_id.as_str(), response.status_code), ("N/A", Some(400)));
    // None of them came to the gate, where it might have cost a ticket.
    assert!(gate.seen.lock().unwrap().is_empty());

    // A cursor that isn't there is well formed, and so is paid for.
    let unknown = wire::StoreQueryRequest { pagination_cursor: Some(hash), ..valid.clone() };
    let response = raw_query(&raw, &unknown).await;
    assert_eq!(response.status_code, Some(400));
    assert!(response.status_desc.unwrap().contains("not in the archive"));
    assert_eq!(gate.seen.lock().unwrap().len(), 1);
    // An empty page is a success with all that decoders require.
    let response = raw_query(&raw, &valid).await;
    assert_eq!(
        response,
        wire::StoreQueryResponse {
            request_id: "id".to_owned(),
            status_code: Some(200),
            status_desc: Some("OK".to_owned()),
            messages: vec![],
            eligibility_status: None,
            pagination_cursor: None,
        }
    );
}

/// Without autosharding a content topic is any text, and says nothing about the shard.
async fn static_shards_are_relayed_pushed_and_stored(kind: Kind) {
    let clock = clock();
    let place = kind.place().await;
    let of = |shards: &[u16]| NodeConfig {
        sharding: Sharding::Static,
        shards: shards.iter().map(|shard| ShardIndex::new(*shard).unwrap()).collect(),
        ..config(&clock)
    };
    let service = NodeConfig {
        archive: Some(place.archive.clone()),
        filter: Some(FilterConfig::default()),
        lightpush: Some(LightPushConfig::default()),
        ..of(&[3, 1023])
    };
    let service = Node::spawn(service).await.unwrap();
    let publisher = Node::spawn(of(&[3, 1023, 5])).await.unwrap();
    let light = Node::spawn(NodeConfig { relay: false, ..of(&[]) }).await.unwrap();
    connect(&publisher, &service).await;
    connect(&light, &service).await;
    let topic = |shard| PubsubTopic::new(CLUSTER, ShardIndex::new(shard).unwrap());
    publisher.wait_for_mesh(topic(1023), 1, PATIENCE).await.unwrap();
    publisher.wait_for_mesh(topic(3), 1, PATIENCE).await.unwrap();
    let content = ContentTopic::opaque("no structure");
    let peer = service.peer_id();
    // A service node says which shards it has, and serves no others.
    let (_, metadata) = light.peers_metadata().await.into_iter().find(|(id, _)| *id == peer).unwrap();
    assert_eq!(metadata.unwrap().shards, service.shards());
    let refused = light.filter_subscribe(peer, topic(5), [content.clone()]).await.unwrap_err();
    assert!(matches!(&refused, FilterError::Status { .. }), "{refused}");
    let mut pushed = light.filter_subscribe(peer, topic(1023), [content.clone()]).await.unwrap();
    let mut heard = publisher.subscribe_shard(topic(3)).unwrap();

    let of_content = |payload: &str| WakuMessage::new(content.clone(), payload.to_owned(), NOW);
    publisher.publish_to(topic(3), of_content("elsewhere")).await.unwrap();
    let relayed = publisher.publish_to(topic(1023), of_content("relayed")).await.unwrap();
    let first = within("the push", pushed.recv()).await.unwrap();
    assert_eq!((first.pubsub_topic, first.hash), (topic(1023), relayed.hash), "of its shard alone");
    let request = LightPushRequest::new(Some(topic(3)), of_content("pushed"));
    assert_eq!(light.lightpush(peer, &request).await.unwrap().relay_peers, Some(1));
    for payload in ["elsewhere", "pushed"] {
        assert_eq!(within("the message", heard.recv()).await.unwrap().message.payload, payload);
    }
    service.flush_archive().await;
    // The same content topic, told apart by shard.
    for (shard, messages) in [(3, 2), (1023, 1), (5, 0)] {
        let request = StoreQueryRequest::by_topics(topic(shard), [content.clone()]);
        let answer = light.store_query(peer, &request).await.unwrap();
        assert_eq!((answer.status, answer.messages.len()), (StoreStatus::OK, messages), "shard {shard}");
    }
    assert_eq!((publisher.stats().relay_published, service.stats().relay_published), (2, 1));
    assert_eq!(publisher.publish(of_content("no shard")).await.unwrap_err().code(), "TRB-W106");
}

async fn too_many_and_too_large_queries(kind: Kind) {
    let clock = clock();
    let place = kind.place().await;
    let limits =
        ServeLimits { rate_per_peer: Some(burst(2.0)), max_request_bytes: 200, ..StoreConfig::default().limits };
    let setup = NodeConfig {
        archive: Some(place.archive.clone()),
        store: Some(StoreConfig { limits, gate: None }),
        ..config(&clock)
    };
    let (node, client) = (Node::spawn(setup).await.unwrap(), node(&clock).await);
    connect(&client, &node).await;
    let ask = |request: StoreQueryRequest| {
        let client = client.clone();
        let peer = node.peer_id();
        async move { client.store_query(peer, &request).await.unwrap() }
    };
    let large = ask(StoreQueryRequest::presence([MessageHash::from_bytes([1; 32]); 10])).await;
    assert_eq!((large.status, large.request_id.as_str()), (StoreStatus::BAD_REQUEST, "N/A"));
    assert!(large.status_desc.contains("at most 200"), "{}", large.status_desc);
    assert!(ask(StoreQueryRequest::new()).await.status.is_success());
    let refused = ask(StoreQueryRequest::new()).await;
    assert_eq!((refused.status, refused.request_id.as_str()), (StoreStatus::TOO_MANY_REQUESTS, "N/A"));
    let error = refused.into_result().unwrap_err();
    assert!(matches!(&error, StoreError::Status { status: StoreStatus(429), .. }), "{error}");
    clock.advance(SECOND);
    assert!(ask(StoreQueryRequest::new()).await.status.is_success());
}

async fn pages_are_shortened_to_what_may_be_sent(kind: Kind) {
    let limits = ServeLimits { max_response_bytes: 300_000, ..StoreConfig::default().limits };
    let server = server_with(kind, StoreConfig { limits, gate: None }).await;
    let mut large: Vec<_> = (0..5_u8).map(|n| archived(shard(), message(vec![n; 100_000]))).collect();
    large.sort_by_key(|m| m.hash);
    server.keep(&large).await;
    let all: Vec<_> = large.iter().map(|m| m.hash).collect();
    for forward in [true, false] {
        let mut request = StoreQueryRequest { pagination_forward: forward, ..StoreQueryRequest::new() };
        let mut pages = Vec::new();
        loop {
            let response = server.query(&request).await.unwrap();
            pages.push(response.messages.iter().map(|e| e.hash).collect::<Vec<_>>());
            match request.next_page(&response) {
                Some(next) => request = next,
                None => break,
            }
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        if !forward {
            pages.reverse();
        }
        assert_eq!(pages.concat(), all);
    }
}

/// Serves what carries the proof "paid", and refuses the rest.
#[derive(Debug, Default)]
struct Gate {
    seen: Mutex<Vec<GatedQuery>>,
    served: Mutex<Vec<(String, StoreOutcome)>>,
    strict: bool,
}

fn verdict(code: u32, desc: &str) -> Option<EligibilityStatus> {
    Some(EligibilityStatus { status_code: code, status_desc: desc.to_owned() })
}

#[async_trait]
impl StoreGate for Gate {
    async fn admit(&self, query: &GatedQuery) -> StoreVerdict {
        self.seen.lock().unwrap().push(query.clone());
        if !self.strict {
            return StoreVerdict::Allow { eligibility: None };
        }
        match query.eligibility_proof.as_deref() {
            Some(b"paid") => StoreVerdict::Allow { eligibility: verdict(200, "thanks") },
            Some(_) => StoreVerdict::Refuse {
                status: StoreStatus::BAD_REQUEST,
                desc: "the ticket is malformed".to_owned(),
                eligibility: verdict(460, "malformed"),
            },
            None => StoreVerdict::Refuse {
                status: StoreStatus::PAYMENT_REQUIRED,
                desc: "payment required: see offer 7".to_owned(),
                eligibility: verdict(402, "offer 7"),
            },
        }
    }

    async fn served(&self, query: &GatedQuery, outcome: StoreOutcome) {
        self.served.lock().unwrap().push((query.request.request_id.clone(), outcome));
    }
}

async fn the_gate_decides_before_the_archive_is_read(kind: Kind) {
    let gate = Arc::new(Gate { strict: true, ..Gate::default() });
    let server = server(kind, Some(gate.clone())).await;
    let history = history(30);
    server.keep(&history).await;

    let unpaid = StoreQueryRequest::new();
    let response = server.query(&unpaid).await.unwrap();
    assert_eq!(response.status, StoreStatus::PAYMENT_REQUIRED);
    assert_eq!(response.status_desc, "payment required: see offer 7");
    assert_eq!(response.eligibility, verdict(402, "offer 7"));
    assert_eq!(response.request_id, unpaid.request_id);
    assert!(response.messages.is_empty());
    let error = response.into_result().unwrap_err();
    assert_eq!(error.code(), "TRB-W501");
    assert!(matches!(error, StoreError::Status { status: StoreStatus(402), .. }));

    let malformed = StoreQueryRequest { eligibility_proof: Some("junk".into()), ..StoreQueryRequest::new() };
    let response = server.query(&malformed).await.unwrap();
    assert_eq!((response.status, response.eligibility), (StoreStatus::BAD_REQUEST, verdict(460, "malformed")));
    assert!(gate.served.lock().unwrap().is_empty());

    let paid = StoreQueryRequest {
        eligibility_proof: Some("paid".into()),
        pagination_limit: Some(3),
        ..StoreQueryRequest::by_topics(shard(), [ContentTopic::opaque("/app/20/a/x")])
    };
    let response = server.query(&paid).await.unwrap();
    assert_eq!((response.status, response.messages.len()), (StoreStatus::OK, 3));
    assert_eq!(response.eligibility, verdict(200, "thanks"));
    {
        let seen = gate.seen.lock().unwrap();
        assert_eq!(seen.iter().map(|q| q.request.clone()).collect::<Vec<_>>(), [unpaid, malformed, paid.clone()]);
        let last = &seen[2];
        assert_eq!(last.peer, server.client.peer_id());
        assert_eq!(last.eligibility_proof.as_deref(), Some(&b"paid"[..]));
        // Buyer and provider sign and check the same bytes.
        assert_eq!(last.signed_bytes, request_bytes_without_proof(&paid));
        assert_ne!(last.signed_bytes, paid.encode());
        let served = gate.served.lock().unwrap();
        assert_eq!(served.len(), 1);
        let (id, outcome) = &served[0];
        assert_eq!((id, outcome.status, outcome.messages), (&paid.request_id, StoreStatus::OK, 3));
        assert!(outcome.bytes > 0);
    }

    // The form in which a query travels doesn't matter: fields in another order, explicit defaults, an unknown field.
    let plain = StoreQueryRequest { request_id: "r".to_owned(), pagination_limit: Some(1), ..StoreQueryRequest::new() };
    let wire = hex::decode("a80301f2010470616964a0030010010a0172a01f01").unwrap();
    let raw = RawPeer::dial(&address(&server.node), STORE_PROTOCOL, &[], &[2, 0x08, 42]).await;
    let framed = [vec![u8::try_from(wire.len()).unwrap()], wire].concat();
    let answer = raw.exchange(framed).await.unwrap();
    assert_eq!(wire::StoreQueryResponse::decode_length_delimited(&answer[..]).unwrap().status_code, Some(200));
    let last = gate.seen.lock().unwrap().pop().unwrap();
    assert_eq!((last.peer, last.eligibility_proof.as_deref()), (raw.peer_id, Some(&b"paid"[..])));
    assert_eq!(last.signed_bytes, request_bytes_without_proof(&plain));

    // Free again.
    assert!(server.node.set_store_gate(None));
    let response = server.query(&StoreQueryRequest::new()).await.unwrap();
    assert_eq!((response.status, response.eligibility), (StoreStatus::OK, None));
    assert!(!server.client.set_store_gate(None), "it serves no Store");
}

#[test]
fn signed_bytes_are_canonical() {
    let request = StoreQueryRequest {
        request_id: "req-1".to_owned(),
        time_start: Some(Timestamp::from_nanos(10)),
        pagination_forward: true,
        pagination_limit: Some(100),
        eligibility_proof: Some("proof".into()),
        ..StoreQueryRequest::by_topics("/waku/2/rs/0/1".parse().unwrap(), [ContentTopic::opaque("/a/1/b/c")])
    };
    // By field: 1, 2, 10, 11, 12 (zig-zag), 52, 53.
    let expected = concat!(
        "0a057265712d31",
        "1001",
        "520e2f77616b752f322f72732f302f31",
        "5a082f612f312f622f63",
        "6014",
        "a00301",
        "a80364",
    );
    assert_eq!(hex::encode(request_bytes_without_proof(&request)), expected);
    // The proof is field 30, between the hashes and the cursor.
    let with_proof = hex::encode(request.encode());
    assert_eq!(with_proof, expected.replace("6014", "6014f2010570726f6f66"));
    let proof = proto::incentivization::v1::EligibilityProof { proof_of_payment: Some("ticket".into()) };
    assert_eq!(hex::encode(proof.encode_to_vec()), "0a067469636b6574");
    let response = StoreQueryResponse {
        request_id: "r".to_owned(),
        status: StoreStatus::PAYMENT_REQUIRED,
        status_desc: "pay".to_owned(),
        messages: vec![],
        pagination_cursor: None,
        eligibility: verdict(402, "o"),
    };
    // Status 402 = 0x192: field 10 and field 30's field 1.
    assert_eq!(hex::encode(response.encode()), "0a0172509203 5a03706179 f20106 089203 12016f".replace(' ', ""));
}

/// Answers what it is told to.
#[derive(Debug)]
struct Liar(Mutex<wire::StoreQueryResponse>);

#[async_trait]
impl RequestHandler for Liar {
    async fn handle(&self, _: PeerId, request: Bytes) -> Option<Bytes> {
        let request = wire::StoreQueryRequest::decode(request).unwrap();
        let mut response = self.0.lock().unwrap().clone();
        response.request_id = response.request_id.replace("{}", &request.request_id);
        Some(response.encode_to_vec().into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_checked() {
    let clock = clock();
    let (client, server) = (node(&clock).await, node(&clock).await);
    connect(&client, &server).await;
    let entry = |n: u32| {
        let at = NOW.saturating_add(SECOND * n);
        let m = archived(shard(), WakuMessage { timestamp: Some(at), ..message(format!("{n}")) });
        wire::WakuMessageKeyValue {
            message_hash: Some(Bytes::copy_from_slice(m.hash.as_bytes())),
            message: Some(m.message.as_ref().clone().into()),
            pubsub_topic: Some(shard().to_string()),
        }
    };
    let honest = wire::StoreQueryResponse {
        request_id: "{}".to_owned(),
        status_code: Some(200),
        messages: vec![entry(1), entry(2)],
        ..Default::default()
    };
    let liar = Arc::new(Liar(Mutex::new(honest.clone())));
    server.serve(STORE_PROTOCOL, unlimited(), liar.clone()).await.unwrap();
    let ask = async |response: wire::StoreQueryResponse| {
        *liar.0.lock().unwrap() = response;
        let request = StoreQueryRequest { pagination_limit: Some(2), ..StoreQueryRequest::new() };
        client.store_query(server.peer_id(), &request).await
    };
    let response = ask(honest.clone()).await.unwrap();
    assert_eq!((response.messages.len(), response.status_desc.as_str()), (2, ""));
    // A hash may be left out: it is computed.
    let unnamed = wire::WakuMessageKeyValue { message_hash: None, ..entry(1) };
    let response = ask(wire::StoreQueryResponse { messages: vec![unnamed], ..honest.clone() }).await.unwrap();
    assert_eq!(response.messages[0].hash.as_bytes(), entry(1).message_hash.unwrap().as_ref());

    let mut injected = entry(1);
    injected.message.as_mut().unwrap().payload = Some("other".into());
    let error = ask(wire::StoreQueryResponse { messages: vec![injected], ..honest.clone() }).await.unwrap_err();
    assert!(matches!(error, StoreError::HashMismatch { .. }), "{error}");
    let malformed = [
        (wire::StoreQueryResponse { request_id: "other".to_owned(), ..honest.clone() }, "another request"),
        (wire::StoreQueryResponse { request_id: "N/A".to_owned(), ..honest.clone() }, "another request"),
        (wire::StoreQueryResponse { status_code: None, ..honest.clone() }, "status code"),
        (wire::StoreQueryResponse { messages: vec![entry(1), entry(2), entry(3)], ..honest.clone() }, "more messages"),
        (wire::StoreQueryResponse { messages: vec![entry(2), entry(1)], ..honest.clone() }, "ascending"),
        (wire::StoreQueryResponse { pagination_cursor: Some("short".into()), ..honest.clone() }, "cursor"),
        (
            wire::StoreQueryResponse {
                messages: vec![wire::WakuMessageKeyValue { message: None, pubsub_topic: None, ..entry(1) }],
                ..honest.clone()
            },
            "missing",
        ),
        (
            wire::StoreQueryResponse {
                messages: vec![wire::WakuMessageKeyValue { pubsub_topic: None, ..entry(1) }],
                ..honest.clone()
            },
            "together",
        ),
        (
            wire::StoreQueryResponse {
                messages: vec![wire::WakuMessageKeyValue { message_hash: Some("short".into()), ..entry(1) }],
                ..honest.clone()
            },
            "32 bytes",
        ),
    ];
    for (response, reason) in malformed {
        let error = ask(response).await.unwrap_err();
        assert_eq!(error.code(), "TRB-W502", "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let mut long_meta = entry(1);
    long_meta.message.as_mut().unwrap().meta = Some(vec![0; 65].into());
    let error = ask(wire::StoreQueryResponse { messages: vec![long_meta], ..honest.clone() }).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W204");
}

async fn page(archive: &dyn Archive) -> Vec<MessageHash> {
    let query = PageQuery {
        selection: Selection::Content { topics: None, time_start: None, time_end: None },
        cursor: None,
        forward: true,
        limit: 100_000,
        include_data: false,
    };
    archive.page(&query).await.unwrap().entries.into_iter().map(|e| e.hash).collect()
}

async fn retention_deletes_the_oldest(kind: Kind) {
    let place = kind.place().await;
    let archive = place.archive.location.open().await.unwrap();
    let none = Retention { max_age: None, max_messages: None, max_bytes: None };
    let history: Vec<_> = (0..3000_u32)
        .map(|n| {
            let at = NOW.saturating_add(SECOND * n);
            archived(shard(), WakuMessage { timestamp: Some(at), ..message(vec![1; 1000]) })
        })
        .collect();
    let hashes: Vec<_> = history.iter().map(|m| m.hash).collect();
    assert_eq!(archive.insert(&history).await.unwrap(), 3000);
    assert_eq!(archive.insert(&history[..10]).await.unwrap(), 0, "each is kept once");
    let now = NOW.saturating_add(SECOND * 3000);
    assert_eq!(archive.expire(&none, now).await.unwrap(), Expired::default());

    // 1500 seconds back from second 3000: second 1500 itself is kept.
    let by_age = Retention { max_age: Some(SECOND * 1500), ..none };
    assert_eq!(archive.expire(&by_age, now).await.unwrap(), Expired { by_age: 1500, ..Expired::default() });
    assert_eq!(page(archive.as_ref()).await, hashes[1500..]);
    let by_count = Retention { max_messages: Some(1200), ..none };
    assert_eq!(archive.expire(&by_count, now).await.unwrap(), Expired { by_count: 300, ..Expired::default() });
    assert_eq!((page(archive.as_ref()).await, archive.count().await.unwrap()), (hashes[1800..].to_vec(), 1200));

    let used = archive.used_bytes().await.unwrap();
    let by_size = Retention { max_bytes: Some(used / 2), ..none };
    let gone = archive.expire(&by_size, now).await.unwrap().by_size;
    let left = archive.count().await.unwrap();
    assert_eq!(left + gone, 1200);
    assert!(archive.used_bytes().await.unwrap() <= used / 2);
    assert!((400..=620).contains(&left), "about half is left: {left}");
    assert_eq!(page(archive.as_ref()).await, hashes[3000 - usize::try_from(left).unwrap()..]);
    // A size that even an empty database exceeds ends, too.
    archive.expire(&Retention { max_bytes: Some(1), ..none }, now).await.unwrap();
    assert_eq!(page(archive.as_ref()).await, []);
}

async fn a_node_enforces_its_retention(kind: Kind) {
    let place = kind.place().await;
    let clock = clock();
    let archive = ArchiveConfig {
        retention_interval: Duration::from_millis(5),
        retention: Retention { max_age: Some(SECOND * 60), ..Retention::default() },
        ..place.archive.clone()
    };
    let node = Node::spawn(NodeConfig { archive: Some(archive), ..config(&clock) }).await.unwrap();
    let archive = node.archive().unwrap();
    let kept = archived(shard(), message("x"));
    archive.insert(std::slice::from_ref(&kept)).await.unwrap();
    clock.advance(SECOND * 60);
    assert!(archive.contains(kept.hash).await.unwrap());
    clock.advance(Duration::from_nanos(1));
    within("the retention", async {
        while archive.contains(kept.hash).await.unwrap() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn a_restart_keeps_the_archive(kind: Kind) {
    let place = kind.place().await;
    let clock = clock();
    let setup = NodeConfig { archive: Some(place.archive.clone()), ..config(&clock) };
    let client = node(&clock).await;
    let mut hashes = Vec::new();
    for round in 0..3 {
        let store = Node::spawn(setup.clone()).await.unwrap();
        connect(&client, &store).await;
        client.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
        let mut received = store.subscribe_all().unwrap();
        hashes.push(client.publish(message(format!("{round}"))).await.unwrap().hash);
        within("the message", received.recv()).await.unwrap();
        // Shutting down writes what waits.
        if round == 2 {
            store.flush_archive().await;
            let mut found: Vec<_> = client
                .store_query(store.peer_id(), &StoreQueryRequest::presence(hashes.clone()))
                .await
                .unwrap()
                .messages
                .iter()
                .map(|e| e.hash)
                .collect();
            found.sort();
            hashes.sort();
            assert_eq!(found, hashes);
            assert_eq!(store.archive().unwrap().count().await.unwrap(), 3);
        }
        store.shutdown().await;
        client.wait_for_disconnect(store.peer_id(), PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_sqlite_survives_a_kill() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = clock();
    let (store, client) = (
        Node::spawn(NodeConfig { archive: Some(ArchiveConfig::new(dir.path().join("a.sqlite"))), ..config(&clock) })
            .await
            .unwrap(),
        node(&clock).await,
    );
    connect(&client, &store).await;
    client.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
    let mut received = store.subscribe_all().unwrap();
    let hash = client.publish(message("kept")).await.unwrap().hash;
    within("the message", received.recv()).await.unwrap();
    store.flush_archive().await;
    // The files as a killed process leaves them: open, the log not merged.
    for file in ["a.sqlite", "a.sqlite-wal"] {
        std::fs::copy(dir.path().join(file), crashed.path().join(file)).unwrap();
    }
    let archive = SqliteArchive::open(&crashed.path().join("a.sqlite")).await.unwrap();
    assert!(archive.contains(hash).await.unwrap());
    assert_eq!(archive.count().await.unwrap(), 1);
}

#[tokio::test]
async fn archives_of_a_newer_version_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive.sqlite");
    SqliteArchive::open(&path).await.unwrap().close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("PRAGMA user_version = 2").execute(&pool).await.unwrap();
    pool.close().await;
    let error = SqliteArchive::open(&path).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Migration { .. }), "{error}");
    let clock = clock();
    let setup = NodeConfig { archive: Some(ArchiveConfig::new(&path)), ..config(&clock) };
    assert_eq!(Node::spawn(setup).await.unwrap_err().code(), "TRB-W402");
}

/// The server's own default would lose the last tenths of a second.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_postgres_survives_its_crash() {
    let mut server = postgres::Server::start(&["synchronous_commit=off", "wal_writer_delay=10s"]);
    let location: ArchiveLocation = server.database().await.parse::<PostgresUrl>().unwrap().into();
    let archive = location.open().await.unwrap();
    let history = history(300);
    for batch in history.chunks(10) {
        assert_eq!(archive.insert(batch).await.unwrap(), batch.len() as u64);
    }
    server.crash();
    // What can't be kept is not said to be kept, and what can't be read is an error.
    let later = archived(shard(), message("later"));
    let error = archive.insert(std::slice::from_ref(&later)).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W401");
    server.restart();
    // The same archive connects again.
    let hashes: Vec<_> = history.iter().map(|m| m.hash).collect();
    assert_eq!((page(archive.as_ref()).await, archive.count().await.unwrap()), (hashes, 300));
    assert_eq!(archive.insert(&[later]).await.unwrap(), 1);
}

/// Relay goes on while the database is away, and what came meanwhile is kept when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_a_postgres_that_restarts() {
    let mut server = postgres::Server::start(&[]);
    let clock = clock();
    let url: PostgresUrl = server.database().await.parse().unwrap();
    let store = Node::spawn(NodeConfig { archive: Some(ArchiveConfig::new(url)), ..config(&clock) }).await.unwrap();
    let client = node(&clock).await;
    connect(&client, &store).await;
    client.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
    let mut received = store.subscribe_all().unwrap();
    server.crash();
    let mut hashes = Vec::new();
    for n in 0..3 {
        hashes.push(client.publish(message(format!("{n}"))).await.unwrap().hash);
        within("the message", received.recv()).await.unwrap();
    }
    let request = StoreQueryRequest::presence(hashes.clone());
    let answer = client.store_query(store.peer_id(), &request).await.unwrap();
    assert_eq!(answer.status, StoreStatus::BAD_RESPONSE);
    server.restart();
    within("the archive", store.flush_archive()).await;
    let answer = client.store_query(store.peer_id(), &request).await.unwrap();
    assert_eq!((answer.status, answer.messages.len()), (StoreStatus::OK, 3));
    assert_eq!(store.stats().archive_lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_a_postgres_archive() {
    let place = Kind::Postgres.place().await;
    let (one, other) = tokio::join!(place.archive.location.open(), place.archive.location.open());
    let (one, other) = (one.unwrap(), other.unwrap());
    let history = history(2000);
    let reversed: Vec<_> = history.iter().rev().cloned().collect();
    // The same messages come to both in another order.
    let feed = async |archive: &dyn Archive, messages: &[ArchivedMessage]| {
        let mut new = 0;
        for batch in messages.chunks(100) {
            new += archive.insert(batch).await.unwrap();
        }
        new
    };
    let new = tokio::join!(feed(one.as_ref(), &history), feed(other.as_ref(), &reversed));
    assert_eq!(new.0 + new.1, 2000);
    assert_eq!((one.count().await.unwrap(), other.count().await.unwrap()), (2000, 2000));
    // Both enforce the same retention; together they delete no more than it asks for.
    let keep = Retention { max_age: None, max_messages: Some(500), max_bytes: None };
    let (a, b) = tokio::join!(one.expire(&keep, NOW), other.expire(&keep, NOW));
    assert_eq!(a.unwrap().by_count + b.unwrap().by_count, 1500);
    let hashes: Vec<_> = history[1500..].iter().map(|m| m.hash).collect();
    assert_eq!(page(other.as_ref()).await, hashes);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_postgres_are_not_told() {
    let server = postgres::Server::shared();
    let database = server.database().await;
    let name = database.rsplit('/').next().unwrap();
    let secret = "hunter2";
    let url: PostgresUrl = server.url(postgres::USER, secret, name).parse().unwrap();
    let location = ArchiveLocation::from(url.clone());
    let setup = NodeConfig { archive: Some(ArchiveConfig::new(url)), ..config(&clock()) };
    let error = Node::spawn(setup.clone()).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W401");
    let unparsable = format!("postgres://u:{secret}@[host/db").parse::<PostgresUrl>().unwrap_err();
    let scheme = format!("mysql://u:{secret}@host/db").parse::<PostgresUrl>().unwrap_err();
    assert_eq!((unparsable.code(), scheme.code()), ("TRB-W405", "TRB-W405"));
    for told in [
        format!("{error} {error:?}"),
        format!("{location} {location:?}"),
        format!("{setup:?}"),
        format!("{unparsable} {unparsable:?} {scheme} {scheme:?}"),
    ] {
        assert!(!told.contains(secret), "{told}");
    }
    assert!(location.to_string().starts_with("postgres://tributary@"), "{location}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_archives_of_a_newer_version_are_left_alone() {
    let url = postgres::Server::shared().database().await;
    let location = ArchiveLocation::from(url.parse::<PostgresUrl>().unwrap());
    location.open().await.unwrap().close().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    sqlx::query("UPDATE tributary_archive SET schema_version = 2").execute(&pool).await.unwrap();
    let error = location.open().await.unwrap_err();
    assert!(matches!(error, ArchiveError::Migration { .. }), "{error}");
    assert!(error.to_string().contains("version 2"), "{error}");
}

/// Messages whose pages are timed, if `ARCHIVE_MESSAGES` names no other number: of a million, to fill the archive takes minutes.
const MANY: u32 = 100_000;

/// The bar is that of a million messages.
async fn many_messages_are_paged_quickly(kind: Kind) {
    // Within the archive's own bounds by number and age.
    let named = std::env::var("ARCHIVE_MESSAGES").ok();
    let measured = named.is_some();
    let total = named.map_or(MANY, |text| text.parse().unwrap());
    assert!((50_000..=1_000_000).contains(&total) && total.is_multiple_of(10_000), "ARCHIVE_MESSAGES is {total}");
    let server = server(kind, None).await;
    let topics: Vec<_> = (0..50).map(|n| ContentTopic::opaque(format!("/app/20/{n}/x"))).collect();
    for chunk in 0..total / 10_000 {
        let batch: Vec<_> = (0..10_000)
            .map(|i| {
                let n = chunk * 10_000 + i;
                let at = NOW.saturating_sub(Duration::from_millis(100) * (total - n));
                let topic = topics[usize::try_from(n.wrapping_mul(2_654_435_761) >> 16).unwrap() % 50].clone();
                archived(shard(), WakuMessage::new(topic, vec![u8::try_from(n % 251).unwrap(); 200], at))
            })
            .collect();
        server.keep(&batch).await;
    }
    // Ten messages a second, over all of which an hour's window moves.
    let (window, span) = (3600, u64::from(total) / 10);
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let mut took = Vec::new();
        for n in 0..1000_u32 {
            let start = NOW.saturating_sub(Duration::from_secs(span - u64::from(n) * (span - window) / 1000));
            let request = StoreQueryRequest {
                time_start: Some(start),
                time_end: Some(start.saturating_add(Duration::from_secs(window))),
                pagination_forward: n % 2 == 0,
                pagination_limit: Some(100),
                ..StoreQueryRequest::by_topics(shard(), [topics[usize::try_from(n).unwrap() % 50].clone()])
            };
            let begun = std::time::Instant::now();
            let response = server.query(&request).await.unwrap();
            took.push(begun.elapsed());
            assert_eq!(response.messages.len(), 100);
        }
        took.sort();
        println!("{kind:?}, {total} messages: median {:?}, p99 {:?}", took[500], took[989]);
        rounds.push(took[989]);
    }
    // Other tests at the same time slow a round: then the best one counts. Of a measurement each does.
    let judged = if measured { rounds.iter().max() } else { rounds.iter().min() };
    assert!(*judged.unwrap() <= Duration::from_millis(20), "p99 of each round: {rounds:?}");
}
