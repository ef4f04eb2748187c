//! What quotes still bind the provider to, on disk: an offer that leaves one is proof of misbehaviour in its buyer's hands
//! ([`tributary_market::negotiate::broken::BrokenQuote`]), so a changed configuration is stopped before it makes one.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tributary_market::negotiate::policy::{Ask, Draft, Policy};
use tributary_market::negotiate::{Refusal, RefusalCode, binds_until};
use tributary_market::offer::ServiceId;
use tributary_protocol::UnixTime;

use crate::files;
use crate::offers::SaleTerms;

/// Services whose promises are kept; an offer has fewer.
const MAX_SERVICES: usize = 64;

/// Why a provider can't sell by these terms.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromiseError {
    /// Quotes that were given bind the provider to other terms.
    #[error(
        "quotes that were given promise {what} {promised} until {until} (Unix time), configured is {configured}; keep it until then, or sell \
         under another node key: a buyer could prove that the quotes were broken"
    )]
    Promised {
        /// What was promised.
        what: &'static str,
        /// As it was promised.
        promised: String,
        /// As it is configured.
        configured: String,
        /// Until when.
        until: u64,
    },
    /// The file can't be read or written.
    #[error("promises can't be kept at {path}: {reason}; make the folder writable", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file holds something else.
    #[error("{path} holds no promises; move it away if nobody holds a quote of this provider", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl PromiseError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Promised { .. } => "TRB-5506",
            Self::File { .. } => "TRB-5507",
            Self::Damaged { .. } => "TRB-5508",
        }
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    payee: String,
    ticket_price: u128,
    /// Until when quotes for each service bind, Unix seconds.
    services: BTreeMap<String, u64>,
}

/// Judges nothing: writes down what the quote will promise, before it leaves.
#[derive(Debug)]
pub(crate) struct Promises {
    path: PathBuf,
    kept: Mutex<Kept>,
}

impl Promises {
    /// Holds the terms against what was promised before.
    ///
    /// # Errors
    /// [`PromiseError`].
    pub(crate) fn open(
        path: PathBuf,
        terms: &SaleTerms,
        services: &[ServiceId],
        now: UnixTime,
    ) -> Result<Self, PromiseError> {
        let (payee, ticket_price) = (terms.payee.to_string(), terms.ticket_price.get());
        let read = match std::fs::read(&path) {
            Ok(bytes) => {
                Some(serde_json::from_slice::<Kept>(&bytes).map_err(|_| PromiseError::Damaged { path: path.clone() })?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(PromiseError::File { path, reason: e.to_string() }),
        };
        let mut kept = read.unwrap_or_else(|| Kept { payee: payee.clone(), ticket_price, services: BTreeMap::new() });
        kept.services.retain(|_, until| *until > now.get());
        if let Some(until) = kept.services.values().max().copied() {
            let promised = |what, promised: String, configured: String| {
                if promised == configured {
                    Ok(())
                } else {
                    Err(PromiseError::Promised { what, promised, configured, until })
                }
            };
            promised("the payee", kept.payee.clone(), payee.clone())?;
            promised("the ticket price", kept.ticket_price.to_string(), ticket_price.to_string())?;
        }
        let missing = kept.services.iter().find(|(id, _)| !services.iter().any(|sold| sold.as_str() == id.as_str()));
        if let Some((id, until)) = missing {
            let sold: Vec<_> = services.iter().map(ServiceId::as_str).collect();
            return Err(PromiseError::Promised {
                what: "the service",
                promised: id.clone(),
                configured: sold.join(", "),
                until: *until,
            });
        }
        (kept.payee, kept.ticket_price) = (payee, ticket_price);
        Ok(Self { path, kept: Mutex::new(kept) })
    }

    /// On disk when it returns.
    async fn keep(&self, service: &ServiceId, until: UnixTime) -> Result<(), PromiseError> {
        let failed = |reason: String| PromiseError::File { path: self.path.clone(), reason };
        let mut kept = self.kept.lock().await;
        if kept.services.get(service.as_str()).is_some_and(|known| *known >= until.get()) {
            return Ok(());
        }
        let mut next = kept.clone();
        next.services.insert(service.to_string(), until.get());
        if next.services.len() > MAX_SERVICES {
            return Err(failed(format!("it would name more than {MAX_SERVICES} services")));
        }
        let bytes = serde_json::to_vec(&next).map_err(|e| failed(e.to_string()))?;
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || files::write(&path, &bytes))
            .await
            .map_err(|e| failed(e.to_string()))?
            .map_err(|e| failed(e.to_string()))?;
        *kept = next;
        Ok(())
    }
}

#[async_trait]
impl Policy for Promises {
    fn name(&self) -> &'static str {
        "promises"
    }

    async fn judge(&self, ask: &Ask<'_>, draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let until = binds_until(draft.start_deadline, ask.request.duration);
        if let Err(error) = self.keep(&ask.request.service, until).await {
            tracing::error!(code = error.code(), %error, "no quotes can be given");
            return Err(ask.refuse(self.name(), RefusalCode::Unavailable, "the provider can't keep its promises now"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::{Amount, Mnemonic, PoolId, PoolScope, Price, Seconds};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::new(seconds).unwrap()
    }

    fn terms(account: u32, price: u128) -> SaleTerms {
        let pool = PoolId { chain_id: 31_337, address: [0xaa; 20].into() };
        let mnemonic = Mnemonic::parse(
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
        );
        SaleTerms {
            payee: mnemonic.unwrap().seed("").account(PoolScope { pool, account }).unwrap().address(),
            pool,
            ticket_price: Price::new(price).unwrap(),
            min_streamed: Amount::new(0).unwrap(),
            rate_classes: vec![],
            slot_carry: Seconds::ZERO,
            root_depth: 1,
        }
    }

    #[tokio::test]
    async fn a_changed_configuration_is_stopped_while_quotes_bind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("promises.json");
        let open =
            |terms: &SaleTerms, services: &[ServiceId], now| Promises::open(path.clone(), terms, services, at(now));
        let both = [ServiceId::store(), ServiceId::filter()];
        let promises = open(&terms(0, 50), &both, NOW).unwrap();
        promises.keep(&ServiceId::store(), at(NOW + 600)).await.unwrap();
        // An earlier end takes nothing back.
        promises.keep(&ServiceId::store(), at(NOW + 300)).await.unwrap();
        drop(promises);

        open(&terms(0, 50), &both, NOW + 599).unwrap();
        // What nobody was quoted may go.
        open(&terms(0, 50), &[ServiceId::store()], NOW + 599).unwrap();
        for (changed, sold, what) in [
            (terms(0, 51), &both[..], "the ticket price"),
            (terms(1, 50), &both[..], "the payee"),
            (terms(0, 50), &both[1..], "the service"),
        ] {
            let error = open(&changed, sold, NOW + 599).unwrap_err();
            assert_eq!(error.code(), "TRB-5506");
            assert!(
                matches!(error, PromiseError::Promised { what: named, until, .. } if named == what && until == NOW + 600)
            );
            open(&changed, sold, NOW + 600).unwrap();
        }
    }

    #[tokio::test]
    async fn what_can_not_be_written_down_is_not_promised() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("gone");
        let path = folder.join("promises.json");
        let promises = Promises::open(path.clone(), &terms(0, 50), &[ServiceId::store()], at(NOW)).unwrap();
        assert_eq!(promises.keep(&ServiceId::store(), at(NOW + 1)).await.unwrap_err().code(), "TRB-5507");
        // Nor remembered as if it were.
        std::fs::create_dir(&folder).unwrap();
        promises.keep(&ServiceId::store(), at(NOW + 1)).await.unwrap();
        assert!(path.exists());
        std::fs::write(&path, "nonsense").unwrap();
        let error = Promises::open(path, &terms(0, 50), &[ServiceId::store()], at(NOW)).unwrap_err();
        assert_eq!(error.code(), "TRB-5508");
    }
}
