//! `tributary rate`, `providers`.

use std::time::Duration;

use serde_json::{Value, json};
use tributary_client::{Buyer, ClientError, RateOrder, Reputed};
use tributary_market::{
    offer::{ServiceId, VerifiedOffer},
    rating::RatingScore,
};
use tributary_protocol::slot::RatingCrowd;
use tributary_prover::Circuit;

use crate::{
    args::{Providers, Rate},
    commands::buyer::{offers_table, parse_peer},
    context::Context,
    error::CliError,
    output::{Fields, table, tokens},
};

/// Failures that `providers show` lists.
const SHOWN: u32 = 5;

pub(crate) async fn rate(context: &Context, args: &Rate) -> Result<(), CliError> {
    let _lock = context.lock()?;
    if args.due {
        let buyer = context.buyer_for(&[]).await?;
        let published = buyer.publish_ratings().await?;
        context.format.emit(&format!("{published} ratings published"), &json!({ "published": published }));
        buyer.node().shutdown().await;
        return Ok(());
    }
    if let Some(score) = args.score
        && !(0.0..=1.0).contains(&score)
    {
        return Err(CliError::Input { reason: format!("--score {score} is not within 0 to 1") });
    }
    let buyer = context.buyer_for(&[Circuit::Ticket]).await?;
    let order = RateOrder {
        provider: args.provider.as_deref().map(parse_peer).transpose()?,
        service: args.service.as_deref().map(str::parse).transpose().map_err(ClientError::from)?,
        score: args.score.map(RatingScore::rounded),
        delay: Duration::from_secs(args.delay.unwrap_or(context.config.reputation.rating_delay)),
    };
    context.format.progress("proving that the stream paid");
    let made = buyer.rate(&order).await?;
    if made.crowd == RatingCrowd::Slot {
        context.format.progress(
            "the stream has covered no first slot of ten minutes yet: few others rate by the same slot, so it hides little which stream it was",
        );
    }
    let token = &buyer.wallet().ledger().manifest().token;
    let text = Fields::new()
        .row("rated", format!("{} {}", made.provider, made.service))
        .row("score", format!("{:.2}", made.score.share()))
        .row("proves", format!("at least {} paid", tokens(made.tier.get(), token.decimals, &token.symbol)))
        .row("hides among", format!("{:?}", made.crowd))
        .row("proof", format!("{} ms", made.proving.as_millis()))
        .row(
            "published",
            if made.published { "now".to_owned() } else { format!("from {} on, by any command", made.due) },
        )
        .row("replaces an earlier one", made.replaces)
        .text();
    context.format.emit(
        &text,
        &json!({
            "provider": made.provider.to_string(), "service": made.service.as_str(), "score": made.score.share(),
            "paid_at_least": made.tier.get().to_string(), "crowd": format!("{:?}", made.crowd), "due": made.due.get(),
            "published": made.published, "replaces": made.replaces, "prove_ms": made.proving.as_millis() as u64,
        }),
    );
    buyer.node().shutdown().await;
    Ok(())
}

pub(crate) async fn providers(context: &Context, command: &Providers) -> Result<(), CliError> {
    let buyer = context.buyer_for(&[]).await?;
    match command {
        Providers::List => list(context, &buyer).await?,
        Providers::Show { provider } => show(context, &buyer, provider).await?,
    }
    buyer.node().shutdown().await;
    Ok(())
}

async fn list(context: &Context, buyer: &Buyer) -> Result<(), CliError> {
    let offers = buyer.directory().offers();
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for offer in &offers {
        for service in &offer.services {
            let known = buyer.reputed(offer.peer_id(), &service.id).await?;
            rows.push(vec![
                offer.peer_id().to_string(),
                service.id.to_string(),
                format!("{:.2}", known.combined.value),
                format!("{:.2} from {:.1}", known.combined.own, known.combined.own_weight),
                known.network.as_ref().map_or_else(String::new, |network| {
                    format!("{:.2} from {} ({:.0} paid)", network.value, network.ratings, network.paid)
                }),
                notes(&known),
            ]);
            values.push(json!({ "provider": offer.peer_id().to_string(), "reputation": value(&service.id, &known) }));
        }
    }
    let ids: Vec<String> = offers.iter().map(|offer| offer.peer_id().to_string()).collect();
    let scores = table(&["provider", "service", "score", "own", "ratings", "notes"], &rows);
    let text = if rows.is_empty() { offers_table(&offers) } else { format!("{}\n\n{scores}", offers_table(&offers)) };
    context.format.emit(&text, &json!({ "providers": ids, "services": values }));
    Ok(())
}

fn notes(known: &Reputed) -> String {
    let suspended = known.own.suspension.as_ref().map(|suspension| format!("suspended: {suspension}"));
    let failed = known.failures.as_ref().map(|failures| format!("failed: {}", failures.reason));
    suspended.into_iter().chain(failed).collect::<Vec<_>>().join("; ")
}

async fn show(context: &Context, buyer: &Buyer, provider: &str) -> Result<(), CliError> {
    let peer = parse_peer(provider)?;
    let offer = buyer.directory().offer(peer)?;
    let mut fields = Fields::new()
        .row("provider", peer)
        .row("offer", format!("{} (number {}, until {})", offer.id(), offer.sequence, offer.expires_at.get()))
        .row("payee", &offer.payee)
        .row("ticket price", offer.ticket_price.get())
        .row("minimum streamed", offer.min_streamed.get());
    let mut services = Vec::new();
    for service in &offer.services {
        let known = buyer.reputed(peer, &service.id).await?;
        fields = fields.row("service", &service.id).row("  score", explained(&known));
        fields = fields.row("  own experience", &known.own);
        if let Some(network) = &known.network {
            let token = &buyer.wallet().ledger().manifest().token;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Shown rounded.
            let paid = tokens(network.paid as u128, token.decimals, &token.symbol);
            let age = network.age.map_or(String::new(), |age| format!(", {:.1} days old on average", age / 86_400.0));
            fields = fields
                .row("  ratings", format!("{} that count, by streams that paid at least {paid}{age}", network.ratings))
                .row(
                    "  they say",
                    format!("{:.2} (over weeks {:.2}, of late {:.2})", network.value, network.long, network.recent),
                )
                .row(
                    "  they count",
                    format!(
                        "as {:.2} uses of your own (agreement with you {:.2})",
                        known.combined.network_weight, network.agreement.value
                    ),
                );
        }
        let failures = failures(buyer, &offer, &service.id).await?;
        for failure in &failures {
            fields = fields.row("  failed", failure);
        }
        if let Some(suspension) = &known.own.suspension {
            fields = fields.row("  suspended", suspension);
        }
        let mut value = value(&service.id, &known);
        value["failures"] = json!(failures);
        services.push(value);
    }
    let first = services.first().cloned().unwrap_or(Value::Null);
    context.format.emit(
        &fields.text(),
        &json!({
            "provider": peer.to_string(), "offer": offer.offer(), "score": first["score"], "experience": first["experience"],
            "services": services,
        }),
    );
    Ok(())
}

fn explained(known: &Reputed) -> String {
    let combined = &known.combined;
    let mut text = format!("{:.2}", combined.value);
    if combined.own_weight <= 0.0 && combined.network_weight <= 0.0 {
        text.push_str(" (nothing known: counts as average)");
    }
    if let Some(outdone) = combined.outdone {
        text.push_str(&format!(" (others are preferred: {outdone})"));
    }
    text
}

/// The latest uses of a service that were worth nothing.
async fn failures(buyer: &Buyer, offer: &VerifiedOffer, service: &ServiceId) -> Result<Vec<String>, CliError> {
    let subject = tributary_reputation::Subject {
        provider: tributary_reputation::ProviderName::new(offer.peer_id().to_string()).map_err(ClientError::from)?,
        service: tributary_reputation::ServiceName::new(service.as_str()).map_err(ClientError::from)?,
    };
    let history = buyer.reputation().history(&subject, 128).await.map_err(ClientError::from)?;
    let failed = history.iter().filter(
        |assessment| matches!(assessment.verdict, tributary_reputation::Verdict::Scored { score, .. } if score <= 0.0),
    );
    Ok(failed
        .take(SHOWN as usize)
        .map(|assessment| format!("at {}: {}", assessment.at, assessment.evidence["ending"]))
        .collect())
}

fn value(service: &ServiceId, known: &Reputed) -> Value {
    json!({
        "service": service.as_str(), "score": known.combined.value, "own": known.combined.own, "own_weight": known.combined.own_weight,
        "experience": known.own.experience, "network": known.network, "network_weight": known.combined.network_weight,
        "suspension": known.own.suspension, "failing": known.failures, "outdone": known.combined.outdone,
    })
}
