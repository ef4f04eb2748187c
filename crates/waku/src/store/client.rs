//! Asking a Store server.

use libp2p::PeerId;

use super::{STORE_PROTOCOL, StoreError, StoreQueryRequest, StoreQueryResponse};
use crate::{node::NodeHandle, rpc::RequestLimits};

/// Sends one query and checks the answer.
pub(crate) async fn query(
    node: &NodeHandle,
    peer: PeerId,
    request: &StoreQueryRequest,
    limits: RequestLimits,
) -> Result<StoreQueryResponse, StoreError> {
    let answer = node.request(peer, STORE_PROTOCOL, request.encode(), limits).await?;
    StoreQueryResponse::decode(&answer, request, peer)
}
