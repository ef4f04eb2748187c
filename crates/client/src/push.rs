//! Lightpush, each message paid by a ticket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tributary_market::ticket::{Reason, Remedy, Verdict};
use tributary_waku::{
    Bytes, LightPushError, LightPushRequest, LightPushStatus, LightPushed, NodeHandle, PeerId,
    lightpush_bytes_without_proof,
};

use crate::ClientError;
use crate::tickets::{TicketSource, pay};

/// How often one message is sent when the provider cannot judge its ticket yet.
const MAX_TRIES: u32 = 8;

/// A message that was published for a ticket.
#[derive(Debug, Clone)]
pub struct PaidPush {
    /// The request as it went out, with its ticket.
    pub request: LightPushRequest,
    /// What the provider answered.
    pub pushed: LightPushed,
    /// From sending to having read the answer.
    pub latency: Duration,
}

/// Pays for messages that a provider publishes.
#[derive(Debug, Clone)]
pub struct PaidLightpush {
    node: NodeHandle,
    provider: PeerId,
    tickets: Arc<dyn TicketSource>,
    tickets_a_message: u8,
}

impl PaidLightpush {
    /// Publishes through `provider`; `tickets_a_message` as its offer says for one message.
    #[must_use]
    pub fn new(node: NodeHandle, provider: PeerId, tickets: Arc<dyn TicketSource>, tickets_a_message: u8) -> Self {
        Self { node, provider, tickets, tickets_a_message }
    }

    /// Publishes a message, paid in the running slot.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the provider's reason. After [`ClientError::LightPush`] the ticket may be spent, and the message published.
    pub async fn push(&self, mut request: LightPushRequest) -> Result<PaidPush, ClientError> {
        request.eligibility_proof = None;
        let signed = lightpush_bytes_without_proof(&request);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let slot = self.tickets.current_slot()?;
            let ticket = self.tickets.take(slot, self.tickets_a_message).await?;
            request.eligibility_proof = Some(Bytes::from(pay(&ticket, &self.tickets.provider(), &signed)));
            let sent = Instant::now();
            let error = match self.node.lightpush(self.provider, &request).await {
                Ok(pushed) => return Ok(PaidPush { request, pushed, latency: sent.elapsed() }),
                Err(error) => error,
            };
            let Some((reason, description)) = refusal(&error) else { return Err(error.into()) };
            let again = match reason.remedy() {
                Remedy::SendAgain => {
                    self.tickets.give_back(ticket);
                    true
                }
                Remedy::NewTicket => true,
                _ => false,
            };
            if !again || attempt >= MAX_TRIES {
                return Err(ClientError::Refused { reason, description });
            }
            self.tickets.next_try().await;
        }
    }
}

/// The refusal of a payment, if the answer is one.
fn refusal(error: &LightPushError) -> Option<(Reason, String)> {
    let LightPushError::Status { status, desc } = error else { return None };
    let Verdict::Refused { reason, description, .. } = Verdict::read_named(desc) else { return None };
    match *status {
        LightPushStatus::PAYMENT_REQUIRED => Some((reason, description)),
        LightPushStatus::SERVICE_NOT_AVAILABLE if reason == Reason::Unavailable => Some((reason, description)),
        _ => None,
    }
}
