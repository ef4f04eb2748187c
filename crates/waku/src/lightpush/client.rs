//! Publishing through a service node.

use libp2p::PeerId;
use prost::Message as _;

use super::{
    LIGHTPUSH_PROTOCOL, LIGHTPUSH_V2_PROTOCOL, LightPushError, LightPushRequest, LightPushStatus, LightPushed,
    request_limits, types::UNREAD_ID,
};
use crate::{
    error::RequestError,
    node::NodeHandle,
    proto::lightpush::{v2, v3},
};

/// Pushes by version 3 or, if the server doesn't speak it and there is no proof to carry, by version 2.
pub(crate) async fn push(
    node: &NodeHandle,
    peer: PeerId,
    request: &LightPushRequest,
) -> Result<LightPushed, LightPushError> {
    request.message.validate(node.now())?;
    match node.request(peer, LIGHTPUSH_PROTOCOL, request.encode(), request_limits()).await {
        Ok(answer) => decode(&answer, request, peer),
        Err(RequestError::UnsupportedProtocol { .. }) if request.eligibility_proof.is_none() => {
            let topic = match request.pubsub_topic {
                Some(topic) => topic,
                None => node.pubsub_topic(&request.message.content_topic)?,
            };
            let wire = request.encode_v2(topic);
            let answer = node.request(peer, LIGHTPUSH_V2_PROTOCOL, wire, request_limits()).await?;
            decode_v2(&answer, request, peer)
        }
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn decode(bytes: &[u8], request: &LightPushRequest, peer: PeerId) -> Result<LightPushed, LightPushError> {
    let malformed = |reason| LightPushError::Malformed { peer, reason };
    let wire = v3::LightPushResponse::decode(bytes).map_err(|_| malformed("it is not a protobuf LightPushResponse"))?;
    let status = LightPushStatus(wire.status_code);
    let unread =
        status == LightPushStatus::TOO_MANY_REQUESTS || (wire.request_id == UNREAD_ID && status != LightPushStatus::OK);
    if wire.request_id != request.request_id && !unread {
        return Err(malformed("it answers another request"));
    }
    if status != LightPushStatus::OK {
        return Err(LightPushError::Status { status, desc: wire.status_desc.unwrap_or_default() });
    }
    match wire.relay_peer_count {
        None | Some(0) => Err(LightPushError::NoPeersToRelay),
        relay_peers => Ok(LightPushed { relay_peers }),
    }
}

pub(crate) fn decode_v2(bytes: &[u8], request: &LightPushRequest, peer: PeerId) -> Result<LightPushed, LightPushError> {
    let malformed = |reason| LightPushError::Malformed { peer, reason };
    let wire = v2::PushRpc::decode(bytes).map_err(|_| malformed("it is not a protobuf PushRPC"))?;
    let response = wire.response.ok_or_else(|| malformed("it has no response"))?;
    if !response.is_success {
        return Err(LightPushError::Refused { info: response.info });
    }
    if wire.request_id != request.request_id {
        return Err(malformed("it answers another request"));
    }
    Ok(LightPushed { relay_peers: None })
}
