//! The shared vectors in `vectors/`: written from this crate, held fresh by this test, checked by circom and Solidity
//! too.
//!
//! `TRIBUTARY_WRITE_VECTORS=1 cargo test -p tributary-protocol --test vectors` writes them.

mod support;

use std::{fs, path::PathBuf};

use alloy_primitives::{U256, hex, keccak256};
use ark_ff::{BigInt, One, PrimeField, Zero};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use support::{
    CHAIN_ID, L, PHRASE, POOL, T, World, amount, clock, direct, dummy, fr, keys, rate, relayed, rng, scope, time,
};
use tributary_protocol::{
    Circuit, ErrorCode, ExternalData, FieldElement, Fr, MerkleTree, Mnemonic, Note, Nullifier, Operation, PayerMemo,
    PayerMemoBytes, PayerSecret, PayerTag, PaymentAddress, Price, ProviderDigest, RecordTag, Rho, SealedMemo,
    Statement, StopEntry, StopSchedule, StoppedList, StreamNote, StreamTerms, TicketMessage, TicketNullifier,
    TicketStatement, ValueNote,
    babyjub::Point,
    keys::{MemoKey, PayerKey, SpendKey, SpendPublicKey},
    memo::EphemeralSecret,
    note::Blinding,
    poseidon::{Tag, hash, node, poseidon, sponge},
    statement::ExternalTerms,
    ticket::request_signing_bytes,
    tree::empty_roots,
    witness::{ClaimLane, ClaimRequest, CloseRequest, InsertWitness, Output, TicketWitness, TransactRequest, Witness},
};

/// Every integer and field element in the vectors: `0x` and 64 digits.
trait Word {
    fn word(&self) -> Value;
}

impl Word for Fr {
    fn word(&self) -> Value {
        Value::String(self.to_hex())
    }
}

impl Word for U256 {
    fn word(&self) -> Value {
        Value::String(hex::encode_prefixed(self.to_be_bytes::<32>()))
    }
}

macro_rules! words {
    ($($type:ty),+) => {
        $(impl Word for $type {
            fn word(&self) -> Value {
                self.to_u256().word()
            }
        })+
    };
}
words!(
    tributary_protocol::Amount,
    Blinding,
    tributary_protocol::Commitment,
    Nullifier,
    tributary_protocol::Owner,
    PayerTag,
    Price,
    tributary_protocol::Rate,
    RecordTag,
    Rho,
    tributary_protocol::Root,
    SpendPublicKey,
    TicketMessage,
    TicketNullifier,
    tributary_protocol::UnixTime,
    tributary_protocol::statement::ExternalHash
);

impl Word for u64 {
    fn word(&self) -> Value {
        U256::from(*self).word()
    }
}

fn words<'a, T: Word + 'a>(all: impl IntoIterator<Item = &'a T>) -> Value {
    all.into_iter().map(Word::word).collect()
}

fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    Value::String(hex::encode_prefixed(bytes))
}

fn tag(tag: Tag) -> Value {
    (tag as u64).word()
}

fn poseidon_vectors() -> Value {
    let circomlib: Vec<Value> = (1..=12_u64)
        .map(|n| {
            let inputs: Vec<Fr> = (1..=n).map(Fr::from).collect();
            json!({ "inputs": words(&inputs), "output": poseidon(&inputs).word() })
        })
        .collect();
    let tags: Vec<Value> = Tag::HASHED
        .into_iter()
        .map(|t| {
            let args: Vec<Fr> = (0..t.arity()).map(|i| fr(&format!("poseidon.{t:?}.{i}"))).collect();
            let mut inputs = vec![t.to_fr()];
            inputs.extend(&args);
            if inputs.len() == 4 {
                inputs.push(Fr::zero());
            }
            assert_eq!(poseidon(&inputs), hash(t, &args));
            json!({ "name": format!("{t:?}"), "tag": tag(t), "args": words(&args), "inputs": words(&inputs),
                    "output": hash(t, &args).word() })
        })
        .collect();
    let children: [Fr; 4] = std::array::from_fn(|i| fr(&format!("poseidon.node.{i}")));
    let sponges: Vec<Value> = [Tag::Transact, Tag::Close, Tag::Claim, Tag::Insert]
        .into_iter()
        .map(|t| {
            let x: Vec<Fr> = (0..t.arity()).map(|i| fr(&format!("poseidon.{t:?}.{i}"))).collect();
            json!({ "name": format!("{t:?}"), "tag": tag(t), "x": words(&x), "digest": sponge(t, &x).word() })
        })
        .collect();
    json!({
        "circomlib": circomlib,
        "tags": tags,
        "node": { "children": words(&children), "output": node(&children).word() },
        "sponges": sponges,
    })
}

fn point(point: &Point) -> Value {
    words(&[point.x(), point.y()])
}

fn babyjub_vectors() -> Value {
    let order =
        U256::from_str_radix("2736030358979909402780800718157159386076813972158567259200215660948447373041", 10)
            .unwrap();
    let scalars = [
        U256::from(1_u8),
        U256::from(2_u8),
        U256::from(0xdead_beef_u64),
        (U256::from(1_u8) << 250) - U256::from(1_u8),
        order - U256::from(1_u8),
    ];
    let multiples: Vec<Value> = scalars
        .iter()
        .map(|scalar| {
            let product = Point::BASE8.mul_integer(BigInt::new(scalar.into_limbs()));
            json!({ "scalar": scalar.word(), "point": point(&product), "compressed": bytes(product.compress()) })
        })
        .collect();
    // (0, -1) has order 2; (x, 0) with a x^2 = 1 has order 4.
    let order_2 = Point::new(Fr::zero(), -Fr::one()).unwrap();
    let order_4 = Point::decompress(&[0; 32]).unwrap();
    let shifted = {
        // Base8 + (0, -1) = (-x, -y): on the curve, outside the subgroup.
        Point::new(-Point::BASE8.x(), -Point::BASE8.y()).unwrap()
    };
    let outside: Vec<Value> = [order_2, order_4, shifted]
        .iter()
        .map(|p| {
            assert!(!p.is_in_prime_subgroup());
            json!({ "point": point(p), "compressed": bytes(p.compress()) })
        })
        .collect();
    json!({
        "order": order.word(),
        "base8": point(&Point::BASE8),
        "multiples": multiples,
        "outside_subgroup": outside,
    })
}

fn keys_vectors() -> Value {
    let accounts: Vec<Value> = (0..3)
        .map(|account| {
            let keys = keys(account);
            let scope = scope(account);
            let view = keys.view.public();
            json!({
                "chain_id": scope.pool.chain_id.word(),
                "pool": POOL,
                "account": u64::from(account).word(),
                "sk": keys.spend.expose().word(),
                "k": keys.payer.expose().word(),
                "v": U256::from_limbs(keys.view.expose().0).word(),
                "memo_key": bytes(keys.memo.expose()),
                "pk": keys.spend.public().word(),
                "V": point(view.point()),
                "V_compressed": bytes(view.point().compress()),
                "owner": keys.owner().word(),
                "address": keys.address().to_string(),
                "address_bytes": bytes(keys.address().to_bytes()),
            })
        })
        .collect();
    let good = keys(0).address();
    let encode = |prefix: &str, payload: &[u8]| {
        bech32::encode::<bech32::Bech32m>(bech32::Hrp::parse(prefix).unwrap(), payload).unwrap()
    };
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut payload = good.to_bytes().to_vec();
        change(&mut payload);
        encode("trib", &payload)
    };
    let point_payload = |p: &Point| with(&|payload| payload[33..].copy_from_slice(&p.compress()));
    let neutral = Point::new(Fr::zero(), Fr::one()).unwrap();
    let order_2 = Point::new(Fr::zero(), -Fr::one()).unwrap();
    let outside = Point::new(-Point::BASE8.x(), -Point::BASE8.y()).unwrap();
    let flipped = {
        let mut text = good.to_string().into_bytes();
        let last = text.len() - 1;
        text[last] = if text[last] == b'q' { b'p' } else { b'q' };
        String::from_utf8(text).unwrap()
    };
    let refused: Vec<Value> = [
        ("a flipped character", flipped),
        ("bech32 instead of bech32m", {
            bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("trib").unwrap(), &good.to_bytes()).unwrap()
        }),
        ("another prefix", encode("tribe", &good.to_bytes())),
        ("another version", with(&|payload| payload[0] = 2)),
        ("one byte short", with(&|payload| payload.truncate(64))),
        ("one byte long", with(&|payload| payload.push(0))),
        (
            "pk = r",
            with(&|payload| payload[1..33].copy_from_slice(&tributary_protocol::field::ORDER.to_be_bytes::<32>())),
        ),
        ("V neutral", point_payload(&neutral)),
        ("V of order 2", point_payload(&order_2)),
        ("V outside the subgroup", point_payload(&outside)),
        ("V with a y that no point has", with(&|payload| payload[33..].copy_from_slice(&Fr::from(2_u8).to_be_bytes()))),
        (
            "V neutral with a sign bit",
            with(&|payload| {
                payload[33..].copy_from_slice(&neutral.compress());
                payload[33] |= 0x80;
            }),
        ),
    ]
    .into_iter()
    .map(|(what, address)| {
        let code = address.parse::<PaymentAddress>().expect_err(what).code();
        json!({ "what": what, "address": address, "code": code })
    })
    .collect();
    json!({
        "mnemonic": PHRASE,
        "seed": bytes(Mnemonic::parse(PHRASE).unwrap().seed("").expose()),
        "accounts": accounts,
        "refused_addresses": refused,
    })
}

fn note_vectors() -> Value {
    let bob = keys(1);
    let sk = SpendKey::new(fr("notes.sk"));
    let values: Vec<Value> = [0, 1, 1_000_000, (1_u128 << 120) - 1]
        .into_iter()
        .map(|value| {
            let owner = tributary_protocol::Owner::derive(sk.public(), fr("notes.V.x"), fr("notes.V.y"));
            let note = ValueNote { amount: amount(value), owner, rho: Rho::new(fr("notes.rho")) };
            json!({ "sk": sk.expose().word(), "V": words(&[fr("notes.V.x"), fr("notes.V.y")]), "amount": note.amount.word(),
                    "owner": owner.word(), "rho": note.rho.word(), "cm": note.commitment().word(), "nf": note.nullifier(&sk).word() })
        })
        .collect();
    let max_rate = (1_u128 << 96) - 1;
    let last = (1_u64 << 40) - 1;
    let streams: Vec<Value> = [
        (10, T, T + 3600),
        (1, 0, 1),
        (max_rate, last - (1 << 24) + 1, last),
        (1, 0, last),
    ]
    .into_iter()
    .map(|(per_second, start, end)| {
        let k = PayerKey::new(fr("notes.k"));
        let nf_0 = Nullifier::new(fr("notes.nf_0"));
        let secret = PayerSecret::derive(&k, nf_0);
        let terms = StreamTerms::new(bob.owner(), rate(per_second), time(start), time(end)).unwrap();
        let note = StreamNote { terms, payer_tag: secret.tag(), rho: Rho::new(fr("notes.stream.rho")) };
        let mut stops = vec![0, start, start + (end - start) / 2, end - 1, end, last];
        stops.dedup();
        let refunds: Vec<Value> = stops
            .iter()
            .map(|&stop| json!({ "stop": stop.word(), "refund": terms.refund(time(stop)).word() }))
            .collect();
        let windows = [(0, start), (0, last), (start, end), (start, start + 1), (end - 1, last), (end, last), (0, end)];
        let payouts: Vec<Value> = windows
            .iter()
            .map(|&(t0, t1)| {
                json!({ "t0": t0.word(), "t1": t1.word(), "pay": terms.payout(time(t0), time(t1)).word() })
            })
            .collect();
        json!({
            "k": k.expose().word(), "nf_0": nf_0.word(), "ps": secret.expose().word(), "payer_tag": note.payer_tag.word(),
            "payee": terms.payee().word(), "rate": terms.rate().word(), "start": start.word(), "end": end.word(),
            "rho": note.rho.word(), "deposit": terms.deposit().word(), "cm": note.commitment().word(),
            "tag": note.record_tag().word(), "refunds": refunds, "payouts": payouts,
        })
    })
    .collect();
    let r = Blinding::new(fr("notes.r"));
    let nf_0 = Nullifier::new(fr("notes.nf_0"));
    let seeds: Vec<Value> = [0_u8, 1]
        .into_iter()
        .map(|j| {
            json!({ "nf_0": nf_0.word(), "j": u64::from(j).word(), "r": r.word(), "rho": Rho::of_output(nf_0, j, &r).word() })
        })
        .collect();
    let tag_1 = RecordTag::new(fr("notes.tag_1"));
    json!({
        "values": values,
        "streams": streams,
        "output_seeds": seeds,
        "claim_seed": { "tag_1": tag_1.word(), "t0_1": T.word(), "r": r.word(), "rho": Rho::of_claim(tag_1, time(T), &r).word() },
    })
}

fn memo_vectors() -> Value {
    let bob = keys(1);
    let value =
        |v: u128| Note::Value(ValueNote { amount: amount(v), owner: bob.owner(), rho: Rho::new(fr("memos.rho")) });
    let stream = |r: u128, start: u64, end: u64| {
        let terms = StreamTerms::new(bob.owner(), rate(r), time(start), time(end)).unwrap();
        Note::Stream(StreamNote {
            terms,
            payer_tag: PayerTag::new(fr("memos.payer_tag")),
            rho: Rho::new(fr("memos.rho")),
        })
    };
    let last = (1_u64 << 40) - 1;
    let cases = [
        (value(123_456), 0_u8),
        (value((1 << 120) - 1), 1),
        (value(0), 1),
        (stream(10, T, T + 3600), 0),
        (stream((1 << 96) - 1, last - (1 << 24) + 1, last), 0),
    ];
    let sealed: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(i, (note, j))| {
            let esk = EphemeralSecret::random(&mut rng(&format!("memos.esk.{i}")));
            let view = bob.view.public();
            let memo = SealedMemo::seal(note, &view, *j, &esk);
            let cm = note.commitment();
            assert_eq!(memo.open(&bob.view, bob.owner(), *j, cm), Ok(*note));
            let shared = view.point().mul_integer(esk.to_fr().into_bigint());
            let message: [Fr; 3] = std::array::from_fn(|w| {
                memo.words[w] - hash(Tag::Seal, &[shared.x(), shared.y(), Fr::from(3 * u64::from(*j) + w as u64)])
            });
            json!({
                "kind": u64::from(matches!(note, Note::Stream(_))).word(), "j": u64::from(*j).word(),
                "v": U256::from_limbs(bob.view.expose().0).word(), "V": point(view.point()), "owner": bob.owner().word(),
                "esk": esk.to_fr().word(), "E": words(&[memo.ephemeral_x, memo.ephemeral_y]), "K": point(&shared),
                "message": words(&message), "ct": words(&memo.words), "cm": cm.word(),
            })
        })
        .collect();
    let key = MemoKey::new(keccak256("memos.key").0);
    let k = PayerKey::new(fr("memos.k"));
    let nf_0 = Nullifier::new(fr("memos.nf_0"));
    let terms = StreamTerms::new(bob.owner(), rate(10), time(T), time(T + 3600)).unwrap();
    let payer = PayerMemo { terms, blinding: Blinding::new(fr("memos.r_0")) };
    let secret = PayerSecret::derive(&k, nf_0);
    let note = StreamNote { terms, payer_tag: secret.tag(), rho: Rho::of_output(nf_0, 0, &payer.blinding) };
    let encrypted = payer.encrypt(&key, &mut rng("memos.nonce"));
    assert_eq!(encrypted.decrypt(&key), Ok(payer));
    json!({
        "sealed": sealed,
        "payer": {
            "memo_key": bytes(key.expose()), "k": k.expose().word(), "nf_0": nf_0.word(), "payee": terms.payee().word(),
            "rate": terms.rate().word(), "start": T.word(), "end": (T + 3600).word(), "r_0": payer.blinding.word(),
            "memo": bytes(encrypted.as_bytes()), "cm_0": note.commitment().word(), "tag": note.record_tag().word(),
        },
    })
}

fn external_vectors() -> Value {
    let memo = PayerMemoBytes::filler(&mut rng("external.memo"));
    let last = time((1 << 40) - 1);
    let cases = [
        (Operation::Transact, direct(), Some(memo)),
        (Operation::Transact, relayed(21), Some(memo)),
        (Operation::Close, relayed(21), Some(memo)),
        (Operation::Claim, relayed(21), None),
        (Operation::Transact, ExternalTerms { may_drop_outputs: true, ..relayed(21) }, Some(memo)),
        (Operation::Transact, ExternalTerms { deadline: last, ..relayed((1 << 120) - 1) }, Some(memo)),
    ];
    let cases: Vec<Value> = cases
        .into_iter()
        .map(|(operation, terms, memo)| {
            let external = ExternalData { terms, memo };
            json!({
                "chain_id": CHAIN_ID.word(), "pool": POOL, "operation": tag(operation.tag()),
                "recipient": terms.recipient, "relayer": terms.relayer, "fee": terms.fee.word(),
                "deadline": terms.deadline.word(), "may_drop_outputs": terms.may_drop_outputs,
                "memo": bytes(external.memo_bytes()), "ext": external.hash(&scope(0).pool, operation).word(),
            })
        })
        .collect();
    json!({ "cases": cases })
}

/// A witness of every circuit, checked natively, with its statement.
fn witnesses() -> (Vec<Value>, Vec<(Circuit, Value)>) {
    let world = World::new();
    let mut statements = Vec::new();
    let mut programs: Vec<(Circuit, Value)> = Vec::new();
    for (name, witness) in transacts(&world) {
        let prepared = witness.prepare().expect(name);
        statements.push(statement(name, Circuit::Transact, &prepared.statement));
        programs.push((Circuit::Transact, json!({ "name": name, "input": prepared.inputs.to_json() })));
    }
    for (name, witness) in closes(&world) {
        let prepared = witness.prepare().expect(name);
        statements.push(statement(name, Circuit::Close, &prepared.statement));
        programs.push((Circuit::Close, json!({ "name": name, "input": prepared.inputs.to_json() })));
    }
    for (name, request) in claims(&world) {
        let prepared = request.build(&world.bob, &mut rng(name)).prepare().expect(name);
        statements.push(statement(name, Circuit::Claim, &prepared.statement));
        programs.push((Circuit::Claim, json!({ "name": name, "input": prepared.inputs.to_json() })));
    }
    for (name, from, m) in [("insert_all", 0, 64), ("insert_rest", 64, 8), ("insert_middle", 65, 7)] {
        let prepared = InsertWitness(world.tree.insertion(from, m).unwrap()).prepare().expect(name);
        statements.push(statement(name, Circuit::Insert, &prepared.statement));
        programs.push((Circuit::Insert, json!({ "name": name, "input": prepared.inputs.to_json() })));
    }
    for (name, witness) in tickets(&world) {
        let prepared = witness.prepare().expect(name);
        programs.push((
            Circuit::Ticket,
            json!({ "name": name, "public": words(&prepared.public_inputs), "input": prepared.inputs.to_json() }),
        ));
    }
    (statements, programs)
}

fn transacts(world: &World) -> Vec<(&'static str, tributary_protocol::witness::TransactWitness)> {
    let alice = world.alice.address();
    let bob = world.bob.address();
    let value = |to, v| Output::Value { to, amount: amount(v) };
    let base = TransactRequest {
        root: world.root(),
        inputs: [world.value_input(0), world.value_input(1)],
        amount_in: amount(0),
        amount_out: amount(0),
        outputs: [value(alice, 1077), value(alice, 0)],
        external: direct(),
    };
    let open = Output::Stream { payee: bob, rate: rate(10), start: time(T + 60), end: time(T + 160) };
    [
        (
            "transact_deposit",
            TransactRequest {
                inputs: [dummy("vectors.dummy.0"), dummy("vectors.dummy.1")],
                amount_in: amount(5_000_000),
                outputs: [value(alice, 5_000_000), value(alice, 0)],
                ..base.clone()
            },
        ),
        ("transact_open", TransactRequest { outputs: [open, value(alice, 77)], ..base.clone() }),
        (
            "transact_open_fee",
            TransactRequest {
                outputs: [open, value(alice, 56)],
                amount_out: amount(21),
                external: relayed(21),
                ..base.clone()
            },
        ),
        (
            "transact_withdraw",
            TransactRequest {
                inputs: [world.value_input(0), dummy("vectors.dummy.2")],
                amount_out: amount(1000),
                outputs: [value(alice, 0), value(alice, 0)],
                external: ExternalTerms { may_drop_outputs: true, ..relayed(21) },
                ..base.clone()
            },
        ),
    ]
    .into_iter()
    .map(|(name, request)| (name, request.build(&world.alice, &mut rng(name)).unwrap()))
    .collect()
}

fn closes(world: &World) -> Vec<(&'static str, tributary_protocol::witness::CloseWitness)> {
    let alice = world.alice.address();
    let stop = clock().stop_times(time(T + 1)).unwrap().stop;
    let refund = world.streams[0].0.terms.refund(stop).get();
    let value = |v| Output::Value { to: alice, amount: amount(v) };
    let base = CloseRequest {
        root: world.root(),
        stream: world.stream_input(0),
        stop,
        input: dummy("vectors.dummy.3"),
        amount_out: amount(0),
        outputs: [value(refund), value(0)],
        external: direct(),
    };
    let reopen =
        Output::Stream { payee: world.bob.address(), rate: rate(20), start: stop, end: time(stop.get() + 1200) };
    [
        ("close", base.clone()),
        (
            "close_reopen",
            CloseRequest {
                input: world.value_input(0),
                outputs: [reopen, value(refund + 1000 - 24_000 - 21)],
                amount_out: amount(21),
                external: relayed(21),
                ..base
            },
        ),
    ]
    .into_iter()
    .map(|(name, request)| (name, request.build(&world.alice, &mut rng(name)).unwrap()))
    .collect()
}

fn claims(world: &World) -> Vec<(&'static str, ClaimRequest)> {
    let lane = |i: usize, t0: u64, t1: u64| {
        let stream = world.stream_input(i);
        ClaimLane { note: stream.note, index: stream.index, path: stream.path, t0: time(t0), t1: time(t1) }
    };
    let base = ClaimRequest {
        root: world.root(),
        lanes: vec![lane(0, 0, T + 120), lane(1, T - 60, T + 120), lane(2, 0, T + 60)],
        burn_bps: 250,
        amount_out: amount(300),
        external: relayed(21),
    };
    vec![
        ("claim_three", base.clone()),
        (
            "claim_one",
            ClaimRequest {
                lanes: vec![lane(1, 0, T + 700)],
                burn_bps: 0,
                amount_out: amount(0),
                external: direct(),
                ..base
            },
        ),
    ]
}

fn tickets(world: &World) -> Vec<(&'static str, TicketWitness)> {
    let mut stops = world.stops.clone();
    let mut ticket = |name, i: usize, start: u64, price: u128, j, count, min_streamed: u128, message| {
        let slot = clock().slot_at(time(start)).unwrap();
        let list = stops.list(slot.end()).unwrap();
        let stream = world.stream_input(i);
        let witness = TicketWitness {
            absence: list.absence(stream.record_tag()).unwrap(),
            stopped_root: list.root(),
            root: world.root(),
            stream,
            slot,
            price: Price::new(price).unwrap(),
            min_streamed: amount(min_streamed),
            j,
            count,
            message,
        };
        (name, witness)
    };
    let provider = ProviderDigest::of_peer_id(b"vectors.provider");
    let key = keccak256("vectors.ephemeral").0;
    let message = |start: u64| TicketMessage::of_ticket(&key, &provider, time(start));
    vec![
        ticket("ticket_first", 0, T, 100, 0, 1, 600, message(T)),
        ticket("ticket_last_four", 0, T + 60, 100, 2, 4, 1200, message(T + 60)),
        ticket("ticket_second_stream", 1, T, 1, 7, 2, 1, message(T)),
        ticket("rating", 0, T, 0, 0, 1, 500, TicketMessage::of_rating(b"vectors.rating")),
    ]
}

fn statement(name: &str, circuit: Circuit, statement: &impl Statement) -> Value {
    let x = statement.elements();
    json!({
        "name": name, "circuit": circuit.name(), "x": words(&x), "digest": statement.digest().word(),
        "binding_hash": bytes(statement.binding_hash()), "alpha": statement.alpha().word(),
        "value": statement.value().word(),
    })
}

fn tree_vectors() -> Value {
    let leaf = |i: u64| fr(&format!("tree.leaf.{i}")).into();
    let tree = MerkleTree::from_leaves((0..300).map(leaf)).unwrap();
    let sizes = [0_u64, 1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 255, 256, 257, 300];
    let roots: Vec<Value> =
        sizes.iter().map(|&size| json!({ "size": size.word(), "root": tree.root_at(size).unwrap().word() })).collect();
    let paths: Vec<Value> = [(0_u32, 1_u64), (0, 300), (3, 4), (5, 6), (63, 64), (64, 65), (255, 300), (299, 300)]
        .into_iter()
        .map(|(index, size)| {
            let path = tree.path_at(index, size).unwrap();
            let leaf = fr(&format!("tree.leaf.{index}"));
            assert_eq!(path.root(leaf, index), tree.root_at(size).unwrap());
            json!({ "index": u64::from(index).word(), "size": size.word(), "leaf": leaf.word(), "path": words(&path.flatten()),
                    "root": tree.root_at(size).unwrap().word() })
        })
        .collect();
    let insertions: Vec<Value> = [(0_u64, 1_u8), (0, 64), (1, 2), (1, 64), (63, 64), (64, 1), (200, 64), (256, 44)]
        .into_iter()
        .map(|(from, m)| {
            let insertion = tree.insertion(from, m).unwrap();
            json!({
                "from": from.word(), "batch_index": u64::from(insertion.batch_index).word(), "k": u64::from(insertion.k).word(),
                "m": u64::from(m).word(), "leaves": words(&insertion.leaves), "path": words(&insertion.path.flatten()),
                "old_root": insertion.old_root.word(), "new_root": insertion.new_root.word(),
            })
        })
        .collect();
    json!({
        "empty_leaf": empty_roots()[0].word(),
        "empty_roots": words(empty_roots()),
        "leaf_0_to_299": words(&tree.leaves().collect::<Vec<_>>()),
        "roots": roots,
        "paths": paths,
        "insertions": insertions,
    })
}

fn stopped_vectors() -> Value {
    let sentinel = Fr::try_from_u256((U256::from(1_u8) << 248) - U256::from(1_u8)).unwrap();
    let high_bit = Fr::try_from_u256(U256::from(1_u8) << 252).unwrap();
    let small = Fr::from(1_000_u64);
    let mut entries: Vec<StopEntry> = (0..12_u64)
        .map(|i| StopEntry { stop: time(T + 60 * (i / 4)), tag: fr(&format!("stopped.{i}")).into() })
        .collect();
    entries.extend([
        StopEntry { stop: time(T), tag: Fr::zero().into() },
        StopEntry { stop: time(T), tag: sentinel.into() },
        StopEntry { stop: time(T + 60), tag: Fr::one().into() },
        StopEntry { stop: time(T + 60), tag: small.into() },
        // the same low 248 bits as `small`: skipped
        StopEntry { stop: time(T + 60), tag: (high_bit + small).into() },
        StopEntry { stop: time(T + 120), tag: (sentinel - Fr::one()).into() },
    ]);
    entries.sort();
    let mut schedule = StopSchedule::new();
    for entry in &entries {
        assert!(schedule.insert(*entry));
    }
    let absent =
        [Fr::from(2_u8), high_bit + Fr::from(999_u64), fr("stopped.absent.0"), fr("stopped.absent.1"), -Fr::one()];
    let lists: Vec<Value> = [T, T + 60, T + 61, T + 120, T + 180]
        .into_iter()
        .map(|slot_end| {
            let list = schedule.list(time(slot_end)).unwrap();
            let again = StoppedList::from_entries(entries.iter().copied().filter(|e| e.stop.get() < slot_end)).unwrap();
            assert_eq!(again.root(), list.root());
            let witnesses: Vec<Value> = absent
                .iter()
                .map(|&tag| {
                    let witness = list.absence(tag.into()).unwrap();
                    assert!(witness.shows_absence(tag.into(), list.root()));
                    json!({
                        "tag": tag.word(), "low": witness.low.word(), "next": witness.next.word(),
                        "index": u64::from(witness.index).word(), "path": words(&witness.path.flatten()),
                    })
                })
                .collect();
            json!({ "slot_end": slot_end.word(), "leaves": (list.len() as u64).word(), "root": list.root().word(),
                    "absent": witnesses })
        })
        .collect();
    json!({
        "stops": entries.iter().map(|e| e.stop.word()).collect::<Value>(),
        "tags": entries.iter().map(|e| e.tag.word()).collect::<Value>(),
        "lists": lists,
    })
}

fn ticket_vectors() -> Value {
    let peer_id = hex::decode("00240801122052a8fd4d0ad9c7f4cfef2b0fb4b3c5b4b0b9f0a4c0e7e4a4f6b1f5d2a1c3e7f9").unwrap();
    let provider = ProviderDigest::of_peer_id(&peer_id);
    let key = keccak256("tickets.ephemeral").0;
    let secret = PayerSecret::new(fr("tickets.ps"));
    let cm = fr("tickets.cm").into();
    let nullifiers: Vec<Value> = [(T, 0_u64), (T, 1), (T + 60, 0), (0, 0), (T, (1 << 32) + 2)]
        .into_iter()
        .map(|(slot_start, j)| {
            json!({
                "ps": secret.expose().word(), "cm": fr("tickets.cm").word(), "slot_start": slot_start.word(), "j": j.word(),
                "nf": TicketNullifier::derive(&secret, cm, time(slot_start), j).word(),
            })
        })
        .collect();
    let nf_1 = TicketNullifier::derive(&secret, cm, time(T), 0);
    let request = b"an encoded request without its proof";
    let rating = b"an encoded rating";
    let statement = TicketStatement {
        root: fr("tickets.root").into(),
        stopped_root: fr("tickets.stopped_root").into(),
        payee: fr("tickets.payee").into(),
        price: Price::new(100).unwrap(),
        slot_start: time(T),
        slot_end: time(T + L),
        count: 2,
        min_streamed: amount(600),
        message: TicketMessage::of_ticket(&key, &provider, time(T)),
        nullifiers: [
            nf_1,
            TicketNullifier::derive(&secret, cm, time(T), 1),
            TicketNullifier::UNUSED,
            TicketNullifier::UNUSED,
        ],
    };
    statement.check_shape(&clock()).unwrap();
    json!({
        "nullifiers": nullifiers,
        "message": {
            "ephemeral_key": bytes(key), "peer_id": bytes(&peer_id), "provider": bytes(provider.as_bytes()),
            "slot_start": T.word(), "message": statement.message.word(),
        },
        "rating_message": {
            "rating": bytes(rating), "sha256": bytes(Sha256::digest(rating)),
            "message": TicketMessage::of_rating(rating).word(),
        },
        "request": {
            "provider": bytes(provider.as_bytes()), "nf_1": nf_1.word(), "request": bytes(request),
            "signed_bytes": bytes(request_signing_bytes(&provider, nf_1, request)),
        },
        "public_inputs": words(&statement.public_inputs()),
    })
}

fn clock_vectors() -> Value {
    let clock = clock();
    let stops: Vec<Value> = [T, T + 1, T + 29, T + 30, T + 31, T + 59, T + 60]
        .into_iter()
        .map(|now| {
            let times = clock.stop_times(time(now)).unwrap();
            json!({ "now": now.word(), "stop": times.stop.word(), "deadline": times.deadline.word() })
        })
        .collect();
    let ratings: Vec<Value> = [
        (T, T + 30),
        (T, T + 60),
        (T - 540, T + 60),
        (T - 600, T + 660),
        (T - 7200, T + 660),
        (T - 86_400, T + 660),
        (T - 3 * 86_400, T + 86_400),
    ]
    .into_iter()
    .map(|(start, until)| {
        let slot = clock.rating_slot(time(start), time(until)).map(|rating| rating.slot.start().word());
        json!({ "start": start.word(), "until": until.word(), "slot_start": slot.unwrap_or(Value::Null) })
    })
    .collect();
    json!({
        "slot_length": clock.slot_length().get().word(), "notice": clock.notice().get().word(),
        "margin": clock.margin().get().word(), "stops": stops, "ratings": ratings,
    })
}

fn files() -> Vec<(String, Value)> {
    let (statements, programs) = witnesses();
    let mut files: Vec<(String, Value)> = [
        ("poseidon", poseidon_vectors()),
        ("babyjub", babyjub_vectors()),
        ("keys", keys_vectors()),
        ("notes", note_vectors()),
        ("memos", memo_vectors()),
        ("external", external_vectors()),
        ("statements", json!({ "cases": statements })),
        ("tree", tree_vectors()),
        ("stopped", stopped_vectors()),
        ("tickets", ticket_vectors()),
        ("clock", clock_vectors()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{name}.json"), value))
    .collect();
    for circuit in Circuit::ALL {
        let cases: Vec<&Value> = programs.iter().filter(|(own, _)| *own == circuit).map(|(_, case)| case).collect();
        let object = Map::from_iter([("cases".to_owned(), json!(cases))]);
        files.push((format!("witness_{circuit}.json"), Value::Object(object)));
    }
    files
}

#[test]
fn committed_vectors_are_fresh() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let write = std::env::var_os("TRIBUTARY_WRITE_VECTORS").is_some();
    let mut stale = Vec::new();
    for (name, value) in files() {
        let path = folder.join(&name);
        if write {
            fs::write(&path, serde_json::to_string_pretty(&value).unwrap() + "\n").unwrap();
        } else {
            // Values, not bytes: the order of keys depends on a feature of serde_json.
            let committed = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            if committed.as_ref() != Some(&value) {
                stale.push(name);
            }
        }
    }
    assert!(
        stale.is_empty(),
        "stale vectors {stale:?}; if the change is wanted, write them anew and tell every reader"
    );
}

#[test]
fn every_committed_file_is_generated() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let known: Vec<String> = files().into_iter().map(|(name, _)| name).collect();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || known.contains(&name), "{name} is not written by this test");
    }
}
