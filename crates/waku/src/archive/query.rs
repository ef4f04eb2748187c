//! The statement of a page, which both databases understand, and the reading of its rows.

use std::sync::Arc;

use sqlx::{Database, QueryBuilder};

use super::{ArchiveError, Page, PageEntry, PageQuery, Selection};
use crate::{
    message::{MessageHash, WakuMessage},
    topics::{ContentTopic, PubsubTopic},
};

/// What the databases write differently.
pub(super) trait Dialect: Database<Arguments: Default> {
    /// The table of messages, with the columns id, timestamp, hash, pubsub_topic and body.
    const TABLE: &'static str;

    fn push_integer(builder: &mut QueryBuilder<Self>, value: i64);

    fn push_bytes(builder: &mut QueryBuilder<Self>, value: Vec<u8>);

    /// Appends the condition that a message is of this shard and content topic.
    fn push_topic(builder: &mut QueryBuilder<Self>, pubsub: PubsubTopic, content: &ContentTopic);
}

/// Appends the conditions of cursor and direction, the order and the limit.
fn push_window<D: Dialect>(
    builder: &mut QueryBuilder<D>,
    query: &PageQuery,
    cursor: Option<(i64, MessageHash)>,
    limit: i64,
) {
    if let Some((timestamp, hash)) = cursor {
        builder.push(if query.forward { " AND (timestamp, hash) > (" } else { " AND (timestamp, hash) < (" });
        D::push_integer(builder, timestamp);
        builder.push(", ");
        D::push_bytes(builder, hash.as_bytes().to_vec());
        builder.push(")");
    }
    builder.push(if query.forward {
        " ORDER BY timestamp, hash LIMIT "
    } else {
        " ORDER BY timestamp DESC, hash DESC LIMIT "
    });
    D::push_integer(builder, limit);
}

/// The statement of a page. Each content topic is its own walk along the index, so that the cost of a page doesn't
/// grow with the archive; the walks are merged, and only the winners' bodies are read.
pub(super) fn page_statement<D: Dialect>(query: &PageQuery, cursor: Option<(i64, MessageHash)>) -> QueryBuilder<D> {
    let limit = i64::from(query.limit) + 1;
    let mut builder = QueryBuilder::<D>::new("SELECT m.timestamp AS timestamp, m.hash AS hash");
    if query.include_data {
        builder.push(", m.pubsub_topic AS pubsub_topic, m.body AS body");
    }
    builder.push(" FROM (");
    match &query.selection {
        Selection::Content { topics, time_start, time_end } => {
            let walks = match topics {
                Some((pubsub, topics)) => {
                    let mut topics: Vec<_> = topics.iter().collect();
                    topics.sort();
                    topics.dedup();
                    topics.into_iter().map(|topic| Some((*pubsub, topic))).collect()
                }
                None => vec![None],
            };
            for (index, walk) in walks.into_iter().enumerate() {
                if index > 0 {
                    builder.push(" UNION ALL ");
                }
                builder.push("SELECT * FROM (SELECT id, timestamp, hash FROM ").push(D::TABLE).push(" WHERE ");
                match walk {
                    Some((pubsub, content)) => D::push_topic(&mut builder, pubsub, content),
                    None => {
                        builder.push("TRUE");
                    }
                }
                if let Some(start) = time_start {
                    builder.push(" AND timestamp >= ");
                    D::push_integer(&mut builder, start.as_nanos());
                }
                if let Some(end) = time_end {
                    builder.push(" AND timestamp <= ");
                    D::push_integer(&mut builder, end.as_nanos());
                }
                push_window(&mut builder, query, cursor, limit);
                builder.push(") AS walk");
            }
        }
        Selection::Hashes(hashes) => {
            builder.push("SELECT id, timestamp, hash FROM ").push(D::TABLE).push(" WHERE hash IN (");
            for (index, hash) in hashes.iter().enumerate() {
                if index > 0 {
                    builder.push(", ");
                }
                D::push_bytes(&mut builder, hash.as_bytes().to_vec());
            }
            builder.push(")");
            push_window(&mut builder, query, cursor, limit);
        }
    }
    builder.push(") AS k JOIN ").push(D::TABLE).push(" AS m ON m.id = k.id");
    builder.push(if query.forward {
        " ORDER BY k.timestamp, k.hash LIMIT "
    } else {
        " ORDER BY k.timestamp DESC, k.hash DESC LIMIT "
    });
    D::push_integer(&mut builder, limit);
    builder
}

/// The page in the rows of its statement, of which there is one more than the limit if the page isn't the last.
pub(super) fn page<R>(
    query: &PageQuery,
    mut rows: Vec<R>,
    decode: impl Fn(&R, bool) -> Result<PageEntry, ArchiveError>,
) -> Result<Page, ArchiveError> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let mut entries = rows.iter().map(|row| decode(row, query.include_data)).collect::<Result<Vec<_>, _>>()?;
    if !query.forward {
        entries.reverse();
    }
    Ok(Page { entries, more })
}

/// An entry as it was read: the hash, and the shard and the message if they were wanted.
pub(super) fn entry(raw: &[u8], data: Option<(&str, &[u8])>) -> Result<PageEntry, ArchiveError> {
    let corrupt = || ArchiveError::Corrupt { hash: hex::encode(raw) };
    let hash = MessageHash::try_from(raw).map_err(|_| corrupt())?;
    let data = match data {
        Some((topic, body)) => {
            let topic: PubsubTopic = topic.parse().map_err(|_| corrupt())?;
            let message = WakuMessage::decode(body).map_err(|_| corrupt())?;
            Some((topic, Arc::new(message)))
        }
        None => None,
    };
    Ok(PageEntry { hash, data })
}
