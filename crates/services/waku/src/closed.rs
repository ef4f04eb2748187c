//! A gate that lets nobody through.

use async_trait::async_trait;
use tributary_waku::{
    FilterGate, FilterStatus, FilterVerdict, GatedPush, GatedQuery, GatedSubscribe, LightPushGate, LightPushStatus,
    LightPushVerdict, StoreGate, StoreStatus, StoreVerdict,
};

/// Stands before a protocol while the service is not open: before its start, when the node serves already, and after its stop. What is sold is
/// never given away for want of its gate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Closed;

const CLOSED: &str = "the service is closed";

#[async_trait]
impl StoreGate for Closed {
    async fn admit(&self, _query: &GatedQuery) -> StoreVerdict {
        StoreVerdict::Refuse { status: StoreStatus::SERVICE_UNAVAILABLE, desc: CLOSED.to_owned(), eligibility: None }
    }
}

#[async_trait]
impl FilterGate for Closed {
    async fn admit(&self, _subscribe: &GatedSubscribe) -> FilterVerdict {
        FilterVerdict::Refuse { status: FilterStatus::SERVICE_UNAVAILABLE, desc: CLOSED.to_owned() }
    }
}

#[async_trait]
impl LightPushGate for Closed {
    async fn admit(&self, _push: &GatedPush) -> LightPushVerdict {
        LightPushVerdict::Refuse { status: LightPushStatus::SERVICE_NOT_AVAILABLE, desc: CLOSED.to_owned() }
    }
}
