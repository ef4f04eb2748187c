//! Store queries, each page paid by a ticket.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tributary_market::ticket::{Reason, Remedy, Verdict};
use tributary_protocol::{Slot, UnixTime};
use tributary_reputation::store::Ending;
use tributary_waku::{
    Bytes, Multiaddr, NodeHandle, PeerId, StoreEntry, StoreError, StoreQueryRequest, StoreQueryResponse, StoreStatus,
    Timestamp, request_bytes_without_proof,
};
use tributary_wallet::tickets::MadeTicket;

use crate::{
    ClientError,
    buyer::unanswered,
    route::Route,
    store::{DeliveredMessage, DeliveredPage, Delivery},
    tickets::{RequestTickets, TicketSource, pay},
};

/// How often one page is asked for: the provider cannot judge its ticket yet, or the connection was lost.
const MAX_TRIES: u32 = 8;

/// A page that was asked for and paid.
#[derive(Debug, Clone)]
pub struct PaidPage {
    /// The request as it went out, with its ticket.
    pub request: StoreQueryRequest,
    /// The answer.
    pub response: StoreQueryResponse,
    /// From sending to having read the answer.
    pub latency: Duration,
    /// Time spent on taking the ticket and binding it to the request.
    pub payment: Duration,
    /// The ticket, spent now.
    pub ticket: MadeTicket,
    /// Tickets that were spent for this page before, and whose answers were lost with the connection.
    pub lost_tickets: u32,
}

/// What the provider's offer asks for a page of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagePrice {
    /// Tickets for one page, 1 to 4.
    pub tickets: u8,
    /// Messages that one page has at the most; a request for more pays for more pages.
    pub page_size: u32,
}

impl PagePrice {
    /// Tickets that one proof holds at the most.
    const MOST: u64 = 4;

    /// Shortens a request to what one proof can pay for, and says how many tickets it takes.
    fn fit(self, request: &mut StoreQueryRequest) -> u8 {
        let (size, each) = (u64::from(self.page_size.max(1)), u64::from(self.tickets.max(1)));
        let pages = request.effective_limit().div_ceil(size).max(1);
        let affordable = (Self::MOST / each).max(1);
        if pages > affordable {
            request.pagination_limit = Some(affordable * size);
        }
        u8::try_from(pages.min(affordable) * each).unwrap_or(u8::MAX)
    }
}

/// Pays for Store queries with tickets.
#[derive(Debug, Clone)]
pub struct PaidStore {
    route: Route,
    tickets: Arc<dyn TicketSource>,
    price: PagePrice,
}

impl PaidStore {
    /// Queries `provider`; `price` as its offer says.
    #[must_use]
    pub fn new(node: NodeHandle, provider: PeerId, tickets: Arc<dyn TicketSource>, price: PagePrice) -> Self {
        Self { route: Route::new(node, provider), tickets, price }
    }

    /// Comes back to the provider at these addresses when the connection is lost, and looks for it that long.
    #[must_use]
    pub fn returning(mut self, addresses: Vec<Multiaddr>, patience: Duration) -> Self {
        (self.route.addresses, self.route.patience) = (addresses, patience);
        self
    }

    /// The tickets.
    #[must_use]
    pub const fn tickets(&self) -> &Arc<dyn TicketSource> {
        &self.tickets
    }

    /// Asks for one page, paid in the running slot. If the connection is lost, the very same request is sent again over the next one; if its ticket turns
    /// out to be spent, the page is paid anew.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] with the provider's reason.
    pub async fn page(&self, request: StoreQueryRequest) -> Result<PaidPage, ClientError> {
        self.page_in(request, None).await
    }

    /// Asks for one page, paid in a given slot: one that is over serves as long as the provider carries it.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub async fn page_in(&self, mut request: StoreQueryRequest, slot: Option<Slot>) -> Result<PaidPage, ClientError> {
        request.eligibility_proof = None;
        let tickets = self.price.fit(&mut request);
        let signed = request_bytes_without_proof(&request);
        let (mut own, mut lost_tickets, mut attempt) = (RequestTickets::default(), 0, 0);
        'tickets: loop {
            let started = Instant::now();
            let slot = slot.map_or_else(|| self.tickets.current_slot(), Ok)?;
            let ticket = own.take(&*self.tickets, slot, tickets).await?;
            request.eligibility_proof = Some(Bytes::from(pay(&ticket, &self.tickets.provider(), &signed)));
            let payment = started.elapsed();
            let mut sent_before = false;
            loop {
                attempt += 1;
                let sent = Instant::now();
                let response = match self.route.node.store_query(self.route.provider, &request).await {
                    Ok(response) => response,
                    Err(StoreError::Request(lost)) if self.route.is_lost(&lost) && attempt < MAX_TRIES => {
                        self.route.reconnect(attempt).await?;
                        sent_before = true;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let latency = sent.elapsed();
                match verdict(&response) {
                    Verdict::Accepted if response.status == StoreStatus::OK => {
                        return Ok(PaidPage { request, response, latency, payment, ticket, lost_tickets });
                    }
                    // The answer to the first sending is lost, and with it what the ticket bought.
                    Verdict::Refused { reason: Reason::AlreadyServed | Reason::SpentUnserved, .. }
                        if sent_before && attempt < MAX_TRIES =>
                    {
                        lost_tickets += 1;
                        continue 'tickets;
                    }
                    Verdict::Refused { reason, description, .. } => {
                        if !own.refused(ticket, reason) || attempt >= MAX_TRIES {
                            return Err(ClientError::Refused { reason, description });
                        }
                        self.tickets.next_try().await;
                        continue 'tickets;
                    }
                    // It has just started, or has much to do.
                    _ if attempt < MAX_TRIES
                        && [StoreStatus::SERVICE_UNAVAILABLE, StoreStatus::TOO_MANY_REQUESTS]
                            .contains(&response.status) =>
                    {
                        self.tickets.next_try().await;
                        sent_before = true;
                    }
                    _ => {
                        return Err(ClientError::Failed {
                            status: response.status.0,
                            description: response.status_desc.clone(),
                        });
                    }
                }
            }
        }
    }

    /// Asks for pages until the last one or `max_pages`. What was delivered before a failure is in the delivery.
    pub async fn query(
        &self,
        request: StoreQueryRequest,
        max_pages: u32,
    ) -> (Delivery, Vec<PaidPage>, Option<ClientError>) {
        let now = self.tickets.now().map_or(0, UnixTime::get);
        let mut delivery = Delivery::begin(self.route.provider, &request, now);
        let mut pages = Vec::new();
        let mut next = Some(request);
        while let Some(request) = next.take() {
            if pages.len() >= usize::try_from(max_pages).unwrap_or(usize::MAX) {
                break;
            }
            let page = match self.page(request).await {
                Ok(page) => page,
                Err(error) => {
                    delivery.ending = match error {
                        // It is gone, or doesn't answer.
                        ClientError::Store(_) | ClientError::Transport(_) | ClientError::Dial(_) => {
                            unanswered(&self.route.node, self.route.provider).await
                        }
                        _ => ending(&error),
                    };
                    return (delivery, pages, Some(error));
                }
            };
            next = page.request.next_page(&page.response);
            delivery.pages.push(DeliveredPage {
                latency_us: u64::try_from(page.latency.as_micros()).unwrap_or(u64::MAX),
                messages: page.response.messages.len(),
                more: next.is_some(),
            });
            delivery.messages.extend(page.response.messages.iter().map(delivered));
            delivery.exhausted = next.is_none();
            pages.push(page);
        }
        (delivery, pages, None)
    }

    /// Pays for another request with a ticket that was used before, as a cheat would: only the ticket's owner can sign it.
    ///
    /// # Errors
    /// When there is no answer; a refusal is the answer that is wanted.
    pub async fn replay(&self, page: &PaidPage) -> Result<Verdict, ClientError> {
        let mut request = StoreQueryRequest::new();
        request.include_data = page.request.include_data;
        request.pubsub_topic = page.request.pubsub_topic;
        request.content_topics.clone_from(&page.request.content_topics);
        let signed = request_bytes_without_proof(&request);
        request.eligibility_proof = Some(Bytes::from(pay(&page.ticket, &self.tickets.provider(), &signed)));
        Ok(verdict(&self.route.node.store_query(self.route.provider, &request).await?))
    }
}

/// What a failed query says of the provider.
fn ending(error: &ClientError) -> Ending {
    match error {
        ClientError::Refused { reason, description } => match reason.remedy() {
            Remedy::SendAgain => Ending::Unavailable { reason: description.clone() },
            // A ticket that was made by the offer, and verified before it was sent, is refused: the stream pays for nothing.
            Remedy::Spent | Remedy::ReadOffer | Remedy::Report => {
                Ending::FailedAfterPayment { reason: description.clone() }
            }
            Remedy::NewTicket => Ending::BuyerError { reason: description.clone() },
        },
        ClientError::Failed { description, .. } => Ending::FailedAfterPayment { reason: description.clone() },
        other => Ending::BuyerError { reason: other.to_string() },
    }
}

fn delivered(entry: &StoreEntry) -> DeliveredMessage {
    let data = entry.data.as_ref();
    DeliveredMessage {
        hash: *entry.hash.as_bytes(),
        content_hash: data.map(|(topic, message)| *message.hash(*topic).as_bytes()),
        pubsub_topic: data.map(|(topic, _)| topic.to_string()).unwrap_or_default(),
        content_topic: data.map(|(_, message)| message.content_topic.to_string()).unwrap_or_default(),
        timestamp: data.and_then(|(_, message)| message.timestamp).map_or(0, Timestamp::as_nanos),
    }
}

/// Asks without paying.
///
/// # Errors
/// When there is no answer.
pub async fn unpaid(
    node: &NodeHandle,
    provider: PeerId,
    request: &StoreQueryRequest,
) -> Result<(StoreQueryResponse, Verdict), ClientError> {
    let response = node.store_query(provider, request).await?;
    let verdict = verdict(&response);
    Ok((response, verdict))
}

/// What the answer says about payment; an answer without field 30 is judged by its status.
fn verdict(response: &StoreQueryResponse) -> Verdict {
    match &response.eligibility {
        Some(status) => Verdict::read(status.status_code, &status.status_desc),
        None if response.status == StoreStatus::OK => Verdict::Accepted,
        None => Verdict::read(response.status.0, &response.status_desc),
    }
}

/// Whether a refusal is the one that a spent ticket gets.
#[must_use]
pub const fn is_replay_refusal(reason: Reason) -> bool {
    matches!(reason, Reason::Replayed | Reason::AlreadyServed | Reason::SpentUnserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(price: PagePrice, limit: Option<u64>) -> (u8, Option<u64>) {
        let mut request = StoreQueryRequest::new();
        request.pagination_limit = limit;
        let tickets = price.fit(&mut request);
        (tickets, request.pagination_limit)
    }

    #[test]
    fn larger_requests_pay_for_more_pages_up_to_what_a_proof_holds() {
        let price = PagePrice { tickets: 1, page_size: 20 };
        assert_eq!(fitted(price, None), (1, None));
        assert_eq!(fitted(price, Some(20)), (1, Some(20)));
        assert_eq!(fitted(price, Some(21)), (2, Some(21)));
        assert_eq!(fitted(price, Some(80)), (4, Some(80)));
        assert_eq!(fitted(price, Some(81)), (4, Some(80)), "shortened");
        assert_eq!(fitted(PagePrice { tickets: 3, page_size: 10 }, Some(100)), (3, Some(10)));
        assert_eq!(fitted(PagePrice { tickets: 2, page_size: 50 }, Some(100)), (4, Some(100)));
    }
}
