use prost::Message as _;
use tributary_market::envelope::{self, PayloadType};
use tributary_market::offer::{
    Attributes, FilterAttributes, LeaseSale, LightpushAttributes, OfferContext, OfferError, RateClassId, Service,
    ServiceId, SignedOffer, UsePrice, UseUnit, VerifiedOffer,
};
use tributary_market::proto;
use tributary_market::sealed::EncryptionSecret;
use tributary_protocol::amount::Price;

use crate::common::*;

fn open(signed: &SignedOffer) -> Result<VerifiedOffer, OfferError> {
    signed.verify(&OfferContext { now: now(), pools: &[pool()] })
}

/// Signs an offer whose fields were changed after encoding.
fn forged(change: impl FnOnce(&mut proto::Offer)) -> SignedOffer {
    let signed = offer().sign(&key(1)).unwrap();
    let envelope = proto::SignedEnvelope::decode(signed.as_bytes()).unwrap();
    let mut content = proto::Offer::decode(envelope.payload.as_slice()).unwrap();
    change(&mut content);
    SignedOffer::from_bytes(envelope::seal(&key(1), PayloadType::Offer, content.encode_to_vec()).unwrap())
}

fn code(change: impl FnOnce(&mut proto::Offer)) -> &'static str {
    open(&forged(change)).unwrap_err().code()
}

#[test]
fn an_offer_survives_the_wire() {
    let mut sent = offer();
    sent.encryption_key = Some(EncryptionSecret::random(&mut rng()).public());
    sent.rate_classes[1].max_duration = None;
    let signed = sent.sign(&key(1)).unwrap();
    assert!(signed.as_bytes().len() < 1024, "{}", signed.as_bytes().len());
    let got = open(&signed).unwrap();
    assert_eq!(got.offer(), &sent);
    assert_eq!(got.peer_id(), key(1).public().to_peer_id());
    assert_eq!(got.id(), open(&signed).unwrap().id());
}

#[test]
fn the_id_names_the_content_and_not_its_envelope() {
    let signed = offer().sign(&key(1)).unwrap();
    let mut envelope = signed.as_bytes().to_vec();
    // An unknown field outside of what is signed.
    envelope.extend_from_slice(&[0x78, 0x01]);
    let other = SignedOffer::from_bytes(envelope);
    assert_ne!(signed, other);
    assert_eq!(open(&signed).unwrap().id(), open(&other).unwrap().id());
}

#[test]
fn time_and_pool_are_checked_by_their_own_codes() {
    let signed = offer().sign(&key(1)).unwrap();
    let at = |now| signed.verify(&OfferContext { now: time(now), pools: &[pool()] }).map(|_| ()).map_err(|e| e.code());
    assert_eq!(at(NOW - 60), Ok(()));
    assert_eq!(at(NOW - 61), Err("TRB-M104"));
    assert_eq!(at(NOW + 3599), Ok(()));
    assert_eq!(at(NOW + 3600), Err("TRB-M103"));
    let error = signed.verify(&OfferContext { now: now(), pools: &[other_pool()] }).unwrap_err();
    assert_eq!(error, OfferError::UnknownPool { pool: pool() });
    assert_eq!(error.code(), "TRB-M106");
    assert_eq!(code(|o| o.expires_at = NOW), "TRB-M105");
    assert_eq!(code(|o| o.expires_at = NOW - 5), "TRB-M105");
    assert_eq!(code(|o| o.expires_at = NOW + 7 * 86_400 + 1), "TRB-M105");
}

#[test]
fn tampering_is_noticed() {
    let signed = offer().sign(&key(1)).unwrap();
    let mut envelope = proto::SignedEnvelope::decode(signed.as_bytes()).unwrap();
    let mut content = proto::Offer::decode(envelope.payload.as_slice()).unwrap();
    content.ticket_price = vec![1];
    envelope.payload = content.encode_to_vec();
    let error = open(&SignedOffer::from_bytes(envelope.encode_to_vec())).unwrap_err();
    assert_eq!(error.code(), "TRB-M013");
}

#[test]
fn an_offer_in_anothers_name_is_refused() {
    let error = open(&forged(|o| o.provider = key(2).public().encode_protobuf())).unwrap_err();
    let expected = OfferError::ForeignKey {
        named: Box::new(key(2).public().to_peer_id()),
        signer: Box::new(key(1).public().to_peer_id()),
    };
    assert_eq!(error, expected);
    assert_eq!(error.code(), "TRB-M101");
}

#[test]
fn a_quote_is_no_offer() {
    let envelope = envelope::seal(&key(1), PayloadType::Quote, Vec::new()).unwrap();
    assert_eq!(open(&SignedOffer::from_bytes(envelope)).unwrap_err().code(), "TRB-M011");
}

#[test]
fn offers_larger_than_4_kib_are_refused_unparsed() {
    let signed = forged(|o| o.payee = "x".repeat(5000));
    assert!(signed.as_bytes().len() > 4096);
    assert_eq!(open(&signed).unwrap_err().code(), "TRB-M001");
    let mut large = offer();
    let Attributes::Store(store) = &mut large.services[0].attributes else { unreachable!() };
    store.content_topics = (0..32).map(|n| format!("/{}/1/{n}/proto", "x".repeat(200))).collect();
    assert_eq!(large.sign(&key(1)).unwrap_err().code(), "TRB-M001");
}

#[test]
fn each_malformed_field_is_refused() {
    assert_eq!(code(|o| o.version = 2), "TRB-M003");
    assert_eq!(code(|o| o.provider = vec![1, 2]), "TRB-M012");
    assert_eq!(code(|o| o.payee = "trib1qqq".into()), "TRB-M102");
    assert_eq!(code(|o| o.payee = o.payee.to_uppercase()), "TRB-M102");
    assert_eq!(code(|o| o.pool = None), "TRB-M004");
    assert_eq!(code(|o| o.pool.as_mut().unwrap().contract = vec![1; 19]), "TRB-M005");
    assert_eq!(code(|o| o.ticket_price = Vec::new()), "TRB-M008");
    assert_eq!(code(|o| o.ticket_price = vec![0, 60]), "TRB-M006");
    assert_eq!(code(|o| o.ticket_price = vec![1; 13]), "TRB-M006");
    assert_eq!(code(|o| o.min_streamed = vec![1; 16]), "TRB-M006");
    assert_eq!(code(|o| o.rate_classes.clear()), "TRB-M007");
    assert_eq!(code(|o| o.rate_classes = vec![o.rate_classes[0].clone(); 9]), "TRB-M007");
    assert_eq!(code(|o| o.rate_classes[1].id = 1), "TRB-M107");
    assert_eq!(code(|o| o.rate_classes[0].rate.clear()), "TRB-M008");
    assert_eq!(code(|o| o.rate_classes[0].max_duration = 599), "TRB-M007");
    assert_eq!(code(|o| o.slot_carry = 86_401), "TRB-M007");
    assert_eq!(code(|o| o.root_depth = 1025), "TRB-M007");
    assert_eq!(code(|o| o.services.clear()), "TRB-M007");
    assert_eq!(code(|o| o.services.extend_from_within(..)), "TRB-M107");
    assert_eq!(code(|o| o.services[0].id = "Store".into()), "TRB-M008");
    assert_eq!(code(|o| o.services[0].id = String::new()), "TRB-M007");
    assert_eq!(code(|o| o.services[0].uses.clear()), "TRB-M007");
    assert_eq!(code(|o| o.services[0].uses[0].tickets = 0), "TRB-M007");
    assert_eq!(code(|o| o.services[0].uses[0].quantity = 0), "TRB-M007");
    assert_eq!(code(|o| o.services[0].uses.extend_from_within(..)), "TRB-M008");
    assert_eq!(code(|o| o.multiaddrs[0] = vec![0xff; 4]), "TRB-M008");
    assert_eq!(code(|o| o.multiaddrs = vec![o.multiaddrs[0].clone(); 9]), "TRB-M007");
    assert_eq!(code(|o| o.encryption_key = vec![1; 31]), "TRB-M005");
    assert_eq!(code(|o| o.issued_at = u64::MAX), "TRB-M007");
}

#[test]
fn addresses_of_other_peers_are_refused() {
    // A buyer would dial a peer that the provider has no say over.
    let foreign: libp2p::Multiaddr =
        format!("/ip4/127.0.0.1/tcp/1/p2p/{}", key(9).public().to_peer_id()).parse().unwrap();
    assert_eq!(code(|o| o.multiaddrs = vec![foreign.to_vec()]), "TRB-M008");
}

#[test]
fn terminal_escapes_in_topics_are_refused() {
    let store = |o: &mut proto::Offer, topic: &str| {
        let Some(proto::service::Attributes::Store(store)) = &mut o.services[0].attributes else { unreachable!() };
        store.content_topics = vec![topic.into()];
    };
    assert_eq!(code(|o| store(o, "\u{1b}[2J")), "TRB-M008");
    assert_eq!(code(|o| store(o, "")), "TRB-M007");
    assert_eq!(code(|o| store(o, &"x".repeat(257))), "TRB-M007");
}

#[test]
fn services_and_units_of_later_versions_are_carried_but_not_sold() {
    let got = open(&forged(|o| {
        o.services[0].attributes = None;
        o.services[0].uses.push(proto::Use { unit: 99, quantity: 1, tickets: 1 });
    }))
    .unwrap();
    let service = got.service(&ServiceId::store()).unwrap();
    assert_eq!(service.attributes, Attributes::Unknown);
    assert_eq!(service.uses.len(), 1);
}

#[test]
fn a_root_depth_of_none_is_one() {
    assert_eq!(open(&forged(|o| o.root_depth = 0)).unwrap().root_depth, 1);
}

#[test]
fn prices_and_classes_are_looked_up() {
    let offer = offer();
    let class = offer.rate_class(RateClassId(2)).unwrap();
    assert_eq!(class.tickets_per_slot(offer.ticket_price, seconds(60)), 20);
    assert_eq!(class.tickets_per_slot(Price::new(1201).unwrap(), seconds(60)), 0);
    assert!(class.allows(seconds(600)) && !class.allows(seconds(599)) && !class.allows(seconds(86_401)));
    let mut price = offer.service(&ServiceId::store()).unwrap().price_of(UseUnit::Page).unwrap();
    price.quantity = 3;
    price.tickets = 2;
    assert_eq!(price.tickets_for(0), Some(0));
    assert_eq!(price.tickets_for(1), Some(2));
    assert_eq!(price.tickets_for(7), Some(6));
    price.quantity = 1;
    assert_eq!(price.tickets_for(u64::MAX), None);
}

#[test]
fn services_sold_by_the_slot_are_read_as_written() {
    let lease = |unit, grace| Some(LeaseSale { unit, max_quota: 20, grace: seconds(grace) });
    let with = |grace| {
        let mut offer = offer();
        let pubsub_topics = vec![SHARD.to_owned()];
        let price = |unit, quantity| vec![UsePrice { unit, quantity, tickets: 2 }];
        offer.services.push(Service {
            id: ServiceId::filter(),
            uses: price(UseUnit::TopicMinute, 10),
            attributes: Attributes::Filter(FilterAttributes {
                pubsub_topics: pubsub_topics.clone(),
                lease: lease(UseUnit::TopicMinute, grace),
            }),
        });
        offer.services.push(Service {
            id: ServiceId::lightpush(),
            uses: price(UseUnit::Message, 5),
            attributes: Attributes::Lightpush(LightpushAttributes {
                pubsub_topics,
                lease: lease(UseUnit::Message, grace),
                max_payload: 1000,
            }),
        });
        offer.sign(&key(1))
    };
    let signed = with(600).unwrap();
    let read = verify(&signed);
    let filter = read.service(&ServiceId::filter()).unwrap();
    // A begun minute and a begun quantity count whole.
    assert_eq!([1, 5, 6].map(|quota| filter.lease_tickets(quota, seconds(61))), [2, 2, 4].map(Some));
    assert_eq!(read.service(&ServiceId::lightpush()).unwrap().lease_tickets(11, seconds(60)), Some(6));
    assert_eq!(read.service(&ServiceId::store()).unwrap().lease_tickets(1, seconds(60)), None);
    assert_eq!(read.offer().sign(&key(1)).unwrap(), signed);
    assert_eq!(with(601).unwrap_err().code(), "TRB-M007");
}
