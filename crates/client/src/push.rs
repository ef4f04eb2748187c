//! Lightpush, each message paid by a ticket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tributary_market::ticket::{Reason, Verdict};
use tributary_waku::{
    Bytes, LightPushError, LightPushRequest, LightPushStatus, LightPushed, Multiaddr, NodeHandle, PeerId,
    lightpush_bytes_without_proof,
};

use crate::ClientError;
use crate::route::Route;
use crate::tickets::{RequestTickets, TicketSource, pay};

/// How often one message is sent: the provider cannot judge its ticket yet, or the connection was lost.
const MAX_TRIES: u32 = 8;

/// A message that was published for a ticket.
#[derive(Debug, Clone)]
pub struct PaidPush {
    /// The request as it went out, with its ticket.
    pub request: LightPushRequest,
    /// What the provider answered. It names no number of peers if the answer was lost with the connection, and the provider said
    /// afterwards that it had published the message.
    pub pushed: LightPushed,
    /// From sending to having read the answer, the last time that it was sent.
    pub latency: Duration,
    /// Tickets of this message that the provider took and gave nothing for: it broke down between the two.
    pub lost_tickets: u32,
}

/// Pays for messages that a provider publishes.
#[derive(Debug, Clone)]
pub struct PaidLightpush {
    route: Route,
    tickets: Arc<dyn TicketSource>,
    tickets_a_message: u8,
}

impl PaidLightpush {
    /// Publishes through `provider`; `tickets_a_message` as its offer says for one message.
    #[must_use]
    pub fn new(node: NodeHandle, provider: PeerId, tickets: Arc<dyn TicketSource>, tickets_a_message: u8) -> Self {
        Self { route: Route::new(node, provider), tickets, tickets_a_message }
    }

    /// Comes back to the provider at these addresses when the connection is lost, and looks for it that long.
    #[must_use]
    pub fn returning(mut self, addresses: Vec<Multiaddr>, patience: Duration) -> Self {
        (self.route.addresses, self.route.patience) = (addresses, patience);
        self
    }

    /// Publishes a message, paid in the running slot. If the connection is lost, the very same request is sent again over the next one: a provider that
    /// has seen it says whether the message was published, and it is never paid twice for a message that was.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the provider's reason. After [`ClientError::LightPush`] and [`ClientError::Transport`] the ticket may be spent, and the
    /// message published.
    pub async fn push(&self, mut request: LightPushRequest) -> Result<PaidPush, ClientError> {
        request.eligibility_proof = None;
        let signed = lightpush_bytes_without_proof(&request);
        let (mut own, mut lost_tickets, mut attempt) = (RequestTickets::default(), 0, 0);
        'tickets: loop {
            let slot = self.tickets.current_slot()?;
            let ticket = own.take(&*self.tickets, slot, self.tickets_a_message).await?;
            request.eligibility_proof = Some(Bytes::from(pay(&ticket, &self.tickets.provider(), &signed)));
            let mut sent_before = false;
            let (reason, description) = loop {
                attempt += 1;
                let sent = Instant::now();
                let error = match self.route.node.lightpush(self.route.provider, &request).await {
                    Ok(pushed) => return Ok(PaidPush { request, pushed, latency: sent.elapsed(), lost_tickets }),
                    Err(error) => error,
                };
                if let LightPushError::Request(lost) = &error
                    && self.route.is_lost(lost)
                    && attempt < MAX_TRIES
                {
                    self.route.reconnect(attempt).await?;
                    sent_before = true;
                    continue;
                }
                let Some((reason, description)) = refusal(&error) else {
                    if is_passing(&error) && attempt < MAX_TRIES {
                        self.tickets.next_try().await;
                        sent_before = true;
                        continue;
                    }
                    return Err(error.into());
                };
                match reason {
                    Reason::AlreadyServed if sent_before => {
                        let pushed = LightPushed { relay_peers: None };
                        return Ok(PaidPush { request, pushed, latency: sent.elapsed(), lost_tickets });
                    }
                    Reason::SpentUnserved if sent_before && attempt < MAX_TRIES => {
                        lost_tickets += 1;
                        continue 'tickets;
                    }
                    _ => break (reason, description),
                }
            };
            if !own.refused(ticket, reason) || attempt >= MAX_TRIES {
                return Err(ClientError::Refused { reason, description });
            }
            self.tickets.next_try().await;
        }
    }
}

/// Whether the provider may be able to publish in a moment: it has just started, or has much to do. The same request sent again tells, too, what became of
/// a ticket that was taken before.
fn is_passing(error: &LightPushError) -> bool {
    matches!(
        error,
        LightPushError::Status {
            status: LightPushStatus::NO_PEERS_TO_RELAY
                | LightPushStatus::SERVICE_NOT_AVAILABLE
                | LightPushStatus::TOO_MANY_REQUESTS,
            ..
        }
    )
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
