//! Each witness is accepted as it should be, and each fault is found natively with its own error.

use alloy_primitives::{Address, U256};
use ark_ff::Zero;
use tributary_protocol::{
    Amount, Circuit, ErrorCode, FieldElement, Fr, Note, PayerSecret, Price, StreamTerms, TicketMessage,
    TicketNullifier,
    error::{NoteError, TicketError, TreeError, WitnessError},
    memo::PayerMemoBytes,
    statement::{ExternalTerms, Statement},
    witness::{
        ClaimLane, ClaimRequest, ClaimWitness, CloseRequest, CloseWitness, Dummy, InsertWitness, Output, TicketWitness,
        TransactRequest, TransactWitness, ValueInput, Witness,
    },
};

use crate::support::{POOL, T, World, amount, clock, direct, dummy, fr, rate, relayed, rng, time};

fn value(to: tributary_protocol::PaymentAddress, v: u128) -> Output {
    Output::Value { to, amount: amount(v) }
}

fn open_request(world: &World) -> TransactRequest {
    let stream = Output::Stream { payee: world.bob.address(), rate: rate(10), start: time(T), end: time(T + 100) };
    TransactRequest {
        root: world.root(),
        inputs: [world.value_input(0), world.value_input(1)],
        amount_in: Amount::ZERO,
        amount_out: amount(21),
        outputs: [stream, value(world.alice.address(), 56)],
        external: relayed(21),
    }
}

pub(crate) fn open(world: &World) -> TransactWitness {
    open_request(world).build(&world.alice, &mut rng("witness.open")).unwrap()
}

fn close_request(world: &World) -> CloseRequest {
    CloseRequest {
        root: world.root(),
        stream: world.stream_input(0),
        stop: time(T + 600),
        input: world.value_input(1),
        amount_out: amount(77),
        outputs: [value(world.alice.address(), 30_000), value(world.carol.address(), 0)],
        external: relayed(7),
    }
}

pub(crate) fn close(world: &World) -> CloseWitness {
    close_request(world).build(&world.alice, &mut rng("witness.close")).unwrap()
}

fn lane(world: &World, i: usize, t0: u64, t1: u64) -> ClaimLane {
    let stream = world.stream_input(i);
    ClaimLane { note: stream.note, index: stream.index, path: stream.path, t0: time(t0), t1: time(t1) }
}

fn claim_request(world: &World) -> ClaimRequest {
    ClaimRequest {
        root: world.root(),
        lanes: vec![lane(world, 0, 0, T + 100), lane(world, 1, T, T + 100)],
        burn_bps: 333,
        amount_out: amount(500),
        external: relayed(9),
    }
}

pub(crate) fn claim(world: &World) -> ClaimWitness {
    claim_request(world).build(&world.bob, &mut rng("witness.claim"))
}

pub(crate) fn insert(world: &World) -> InsertWitness {
    InsertWitness(world.tree.insertion(64, 5).unwrap())
}

fn ticket(world: &World) -> TicketWitness {
    let mut stops = world.stops.clone();
    let slot = clock().slot_at(time(T + 60)).unwrap();
    let list = stops.list(slot.end()).unwrap();
    let stream = world.stream_input(0);
    TicketWitness {
        absence: list.absence(stream.record_tag()).unwrap(),
        stopped_root: list.root(),
        root: world.root(),
        stream,
        slot,
        price: Price::new(100).unwrap(),
        min_streamed: amount(1200),
        j: 2,
        count: 4,
        message: TicketMessage::new(fr("witness.message")),
    }
}

/// Spoils a good witness and returns the error that validation finds.
fn spoilt<W: Witness>(mut witness: W, change: impl FnOnce(&mut W)) -> WitnessError {
    witness.validate().expect("good before it is spoilt");
    change(&mut witness);
    let error = witness.validate().unwrap_err();
    assert!(witness.prepare().is_err(), "nothing is prepared from a bad witness");
    error
}

fn external(reason: &'static str) -> WitnessError {
    WitnessError::External { reason }
}

#[test]
fn an_opened_stream_is_its_payees_and_its_payer_finds_it_again() {
    let world = World::new();
    let witness = open(&world);
    let prepared = witness.prepare().unwrap();
    assert_eq!(prepared.circuit, Circuit::Transact);
    assert_eq!(prepared.public_inputs, Statement::public_inputs(&prepared.statement));
    let [stream, change] = witness.notes();
    for (j, (note, keys)) in [(stream, &world.bob), (change, &world.alice)].into_iter().enumerate() {
        let output = &prepared.statement.outputs[j];
        let j = u8::try_from(j).unwrap();
        assert_eq!(output.memo.open(&keys.view, keys.owner(), j, output.commitment), Ok(note));
    }
    let memo = witness.external.memo.unwrap().decrypt(&world.alice.memo).unwrap();
    let nf_0 = prepared.statement.nullifiers[0];
    let found = memo.recover(&world.alice.payer, nf_0, stream.commitment()).unwrap();
    assert_eq!(Note::Stream(found.note), stream);
}

/// Fresh randomness each time, but the same nullifiers: of two attempts only one can be mined (protocol sections 2
/// and 6).
#[test]
fn a_repeated_transaction_keeps_its_nullifiers_and_nothing_else() {
    let world = World::new();
    let [first, second] = [Dummy::random(&mut rng("a")), Dummy::random(&mut rng("b"))];
    let stored = Dummy::from_secret_bytes(&first.to_secret_bytes()).unwrap();
    let deposit = |dummies: [&Dummy; 2], label: &str| {
        let request = TransactRequest {
            inputs: dummies.map(ValueInput::dummy),
            amount_in: amount(1000),
            amount_out: Amount::ZERO,
            outputs: [value(world.alice.address(), 1000), value(world.alice.address(), 0)],
            external: direct(),
            ..open_request(&world)
        };
        request.build(&world.alice, &mut rng(label)).unwrap().prepare().unwrap().statement
    };
    let once = deposit([&first, &second], "once");
    let again = deposit([&stored, &second], "again");
    assert_eq!(once.nullifiers, again.nullifiers);
    assert_ne!(once.outputs[0].commitment, again.outputs[0].commitment);
    assert_ne!(once.outputs[0].memo.ephemeral_x, again.outputs[0].memo.ephemeral_x);
    assert_ne!(once.ext, again.ext, "the filler memo is fresh too");
}

#[test]
fn transact_faults() {
    let world = World::new();
    let fault = |change: &dyn Fn(&mut TransactWitness)| spoilt(open(&world), |w| change(w));

    let unbalanced = fault(&|w| w.amount_in = amount(1));
    assert_eq!(unbalanced, WitnessError::NotConserved { inputs: U256::from(1078), outputs: U256::from(1077) });
    assert_eq!(unbalanced.code(), "TRB-1701");
    let full = [Amount::MAX; 2];
    let wrapped = fault(&|w| (w.inputs[0].amount, w.amount_in) = (full[0], full[1]));
    assert_eq!(wrapped, WitnessError::NotInTree { what: "a value note" });
    assert_eq!(fault(&|w| w.inputs[0].path.0[3][1] += Fr::from(1_u8)), wrapped);
    assert_eq!(fault(&|w| w.inputs[1].index += 1), wrapped);
    assert_eq!(fault(&|w| w.root = fr("another").into()), wrapped);
    assert_eq!(fault(&|w| w.inputs[0].spend = world.bob.spend.clone()), wrapped);
    assert_eq!(wrapped.code(), "TRB-1702");

    assert_eq!(fault(&|w| w.inputs[1] = w.inputs[0].clone()), WitnessError::RepeatedNullifier);
    assert_eq!(
        fault(&|w| w.outputs.secrets[0].to = world.carol.address()),
        WitnessError::NotOwned { what: "the new stream" }
    );
    let deposit = fault(&|w| w.outputs.secrets[0].amount = amount(999));
    assert_eq!(deposit, WitnessError::NotConserved { inputs: U256::from(999), outputs: U256::from(1000) });

    assert_eq!(fault(&|w| w.external.terms.fee = amount(22)), external("the fee exceeds what is paid out"));
    let nobody = external("there is a fee, but the relayer is zero or the pool itself");
    assert_eq!(fault(&|w| w.external.terms.relayer = Address::ZERO), nobody);
    assert_eq!(fault(&|w| w.external.terms.relayer = POOL), nobody);
    assert_eq!(nobody.code(), "TRB-1713");
    let lost = external("something is paid out, but the recipient is zero or the pool itself");
    for recipient in [Address::ZERO, POOL] {
        assert_eq!(fault(&|w| (w.external.terms.fee, w.external.terms.recipient) = (amount(20), recipient)), lost);
    }
    let memo = external("transact and close carry a payer's memo of 128 bytes, a claim none");
    assert_eq!(fault(&|w| w.external.memo = None), memo);
    let drop = external("outputs may be dropped only by a withdrawal that leaves nothing in them");
    assert_eq!(fault(&|w| w.external.terms.may_drop_outputs = true), drop);
}

#[test]
fn outputs_may_be_dropped_by_an_empty_withdrawal_only() {
    let world = World::new();
    let alice = world.alice.address();
    let withdrawal = TransactRequest {
        amount_out: amount(1077),
        outputs: [value(alice, 0), value(alice, 0)],
        external: ExternalTerms { may_drop_outputs: true, ..relayed(21) },
        ..open_request(&world)
    };
    let build = |request: TransactRequest| request.build(&world.alice, &mut rng("drop")).unwrap();
    assert_eq!(build(withdrawal.clone()).validate(), Ok(()));
    let drop = Err(external("outputs may be dropped only by a withdrawal that leaves nothing in them"));
    let change =
        TransactRequest { amount_out: amount(1076), outputs: [value(alice, 1), value(alice, 0)], ..withdrawal.clone() };
    assert_eq!(build(change).validate(), drop);
    let deposits = TransactRequest { amount_in: amount(5), amount_out: amount(1082), ..withdrawal };
    assert_eq!(build(deposits).validate(), drop);
}

#[test]
fn requests_that_no_witness_can_meet() {
    let world = World::new();
    let build = |request: TransactRequest| request.build(&world.alice, &mut rng("request")).unwrap_err();
    let request = open_request(&world);
    let [stream, change] = request.outputs;
    let swapped = TransactRequest { outputs: [change, stream], ..request.clone() };
    assert_eq!(
        (build(swapped), WitnessError::StreamInSecondOutput.code()),
        (WitnessError::StreamInSecondOutput, "TRB-1703")
    );
    let empty = Output::Stream { payee: world.bob.address(), rate: rate(1), start: time(T), end: time(T) };
    let refused = WitnessError::Note(NoteError::EmptyStream { start: T, end: T });
    assert_eq!(build(TransactRequest { outputs: [empty, change], ..request }), refused);

    let (note, index) = world.values[0];
    let path = world.tree.path(index).unwrap();
    let stolen = ValueInput::spend(&world.bob, &note, index, path).unwrap_err();
    assert_eq!((stolen.code(), stolen), ("TRB-1707", WitnessError::NotOwned { what: "the value note" }));
}

#[test]
fn close_refunds_what_has_not_accrued() {
    let world = World::new();
    let witness = close(&world);
    assert_eq!(witness.refund(), amount(30_000));
    let statement = witness.prepare().unwrap().statement;
    assert_eq!(statement.tag, world.streams[0].0.record_tag());
    // Before it starts everything comes back, after its end nothing.
    for (stop, refund) in [(0, 36_000), (T, 36_000), (T + 3599, 10), (T + 3600, 0), (T + 9999, 0)] {
        let mut witness = close(&world);
        witness.stop = time(stop);
        witness.outputs.secrets[0].amount = amount(refund);
        assert_eq!(witness.validate(), Ok(()), "stop at {stop}");
    }
}

#[test]
fn close_faults() {
    let world = World::new();
    let fault = |change: &dyn Fn(&mut CloseWitness)| spoilt(close(&world), |w| change(w));
    let early = fault(&|w| w.stop = time(T + 601));
    assert_eq!(early, WitnessError::NotConserved { inputs: U256::from(30_067), outputs: U256::from(30_077) });
    let secret = fault(&|w| w.stream.secret = world.streams[1].1.clone());
    assert_eq!((secret.code(), secret), ("TRB-1708", WitnessError::WrongPayerSecret));
    let absent = WitnessError::NotInTree { what: "the stream" };
    assert_eq!(fault(&|w| w.stream.index += 1), absent);
    let cheaper = |w: &mut CloseWitness| {
        let t = w.stream.note.terms;
        w.stream.note.terms = StreamTerms::new(t.payee(), rate(11), t.start(), t.end()).unwrap();
    };
    assert_eq!(fault(&cheaper), absent);
    assert_eq!(fault(&|w| w.input.index += 1), WitnessError::NotInTree { what: "a value note" });
    assert_eq!(fault(&|w| w.external.terms.fee = amount(78)), external("the fee exceeds what is paid out"));
    let memo = external("transact and close carry a payer's memo of 128 bytes, a claim none");
    assert_eq!(fault(&|w| w.external.memo = None), memo);
}

/// A close reopens at its stop, with the refund, under a new secret from the value note's nullifier.
#[test]
fn close_and_reopen_derives_a_new_secret() {
    let world = World::new();
    let stop = time(T + 600);
    let request = CloseRequest {
        input: dummy("reopen"),
        amount_out: Amount::ZERO,
        outputs: [
            Output::Stream { payee: world.bob.address(), rate: rate(20), start: stop, end: time(T + 2100) },
            value(world.alice.address(), 0),
        ],
        external: direct(),
        ..close_request(&world)
    };
    let witness = request.build(&world.alice, &mut rng("reopen")).unwrap();
    let prepared = witness.prepare().unwrap();
    let secret = PayerSecret::derive(&world.alice.payer, prepared.statement.nullifier);
    let [Note::Stream(stream), _] = witness.notes() else { panic!("output 0 is a stream") };
    assert_eq!(stream.payer_tag, secret.tag());
    assert_ne!(stream.payer_tag, world.streams[0].0.payer_tag);
    assert_eq!(prepared.inputs.get("outPayerTag"), Some([secret.tag().to_fr()].as_slice()));
}

#[test]
fn claims_sum_burn_and_pay() {
    let world = World::new();
    let witness = claim(&world);
    let totals = witness.totals();
    // 10 * 100 + 7 * 100 = 1700; 3.33 % of it is 56.61
    assert_eq!((totals.sum, totals.burn, totals.rem), (U256::from(1700), U256::from(56), U256::from(6100)));
    assert_eq!(witness.note().amount, amount(1700 - 56 - 500));
    let prepared = witness.prepare().unwrap();
    let output = &prepared.statement.output;
    let bob = &world.bob;
    let opened = output.memo.open(&bob.view, bob.owner(), 0, output.commitment);
    assert_eq!(opened, Ok(Note::Value(witness.note())));
    assert_eq!(prepared.statement.elements()[16..], [Fr::zero(); 42], "unused lanes");
    let active = prepared.inputs.get("active").unwrap();
    assert_eq!(active.iter().filter(|flag| !flag.is_zero()).count(), 2);
}

#[test]
fn claim_faults() {
    let world = World::new();
    let fault = |change: &dyn Fn(&mut ClaimWitness)| spoilt(claim(&world), |w| change(w));
    let none = fault(&|w| w.lanes.clear());
    assert_eq!((none.code(), none), ("TRB-1709", WitnessError::LaneCount { found: 0 }));
    assert_eq!(fault(&|w| w.lanes = vec![w.lanes[0].clone(); 17]), WitnessError::LaneCount { found: 17 });
    for t1 in [T, T - 1] {
        let empty = fault(&|w| w.lanes[1].t1 = time(t1));
        assert_eq!((empty.code(), empty), ("TRB-1710", WitnessError::EmptyWindow { lane: 1, t0: T, t1 }));
    }
    let foreign = WitnessError::NotOwned { what: "a claimed stream" };
    assert_eq!(fault(&|w| w.spend = world.alice.spend.clone()), foreign);
    assert_eq!(fault(&|w| w.view = world.alice.view.public()), foreign);
    assert_eq!(fault(&|w| w.lanes[1].index += 1), WitnessError::NotInTree { what: "a claimed stream" });
    let overlap = fault(&|w| w.lanes.push(w.lanes[0].clone()));
    assert_eq!((overlap.code(), overlap), ("TRB-1711", WitnessError::RepeatedStream { first: 0, second: 2 }));
    let burn = fault(&|w| w.burn_bps = 10_001);
    assert_eq!((burn.code(), burn), ("TRB-1712", WitnessError::BurnTooLarge { found: 10_001 }));
    let too_much = fault(&|w| w.amount_out = amount(1645));
    assert_eq!(too_much, WitnessError::NotConserved { inputs: U256::from(1644), outputs: U256::from(1645) });
    let memo = external("transact and close carry a payer's memo of 128 bytes, a claim none");
    assert_eq!(fault(&|w| w.external.memo = Some(PayerMemoBytes::filler(&mut rng("memo")))), memo);
}

/// The contract writes each lane before it reads the next, so one stream may appear again where its first window ended.
#[test]
fn one_stream_may_be_claimed_in_two_adjacent_windows() {
    let world = World::new();
    let mut witness = claim(&world);
    witness.lanes.push(lane(&world, 0, T + 100, T + 150));
    assert_eq!(witness.validate(), Ok(()));
    assert_eq!(witness.totals().sum, U256::from(2200));
}

#[test]
fn everything_may_be_burnt() {
    let world = World::new();
    let mut witness = claim(&world);
    (witness.burn_bps, witness.amount_out, witness.external.terms) = (10_000, Amount::ZERO, direct());
    assert_eq!(witness.validate(), Ok(()));
    assert_eq!((witness.totals().burn, witness.note().amount), (U256::from(1700), Amount::ZERO));
}

#[test]
fn insertion_faults() {
    let world = World::new();
    let fault = |change: &dyn Fn(&mut InsertWitness)| spoilt(insert(&world), |w| change(w));
    let (old, new) = (WitnessError::WrongRoot { which: "old" }, WitnessError::WrongRoot { which: "new" });
    assert_eq!(fault(&|w| w.0.old_root = fr("root").into()), old);
    assert_eq!(fault(&|w| w.0.new_root = fr("root").into()), new);
    assert_eq!(fault(&|w| w.0.leaves[2] = fr("leaf").into()), new);
    assert_eq!(fault(&|w| w.0.path.0[0][0] += Fr::from(1_u8)), old);
    assert_eq!(fault(&|w| w.0.batch_index = 0), old);
    let beyond = WitnessError::Tree(TreeError::Full { len: 1 << 32, adding: 5 });
    assert_eq!(fault(&|w| w.0.batch_index = 1 << 26), beyond);
    assert_eq!(old.code(), "TRB-1715");
    let batch = fault(&|w| w.0.k = 5);
    assert_eq!((batch.code(), batch), ("TRB-1714", WitnessError::Tree(TreeError::BadBatch { from: 69, m: 5, min: 6 })));
    assert!(matches!(fault(&|w| w.0.leaves.truncate(4)), WitnessError::Tree(TreeError::BadBatch { .. })));
}

#[test]
fn tickets_are_numbered_and_ratings_are_not() {
    let world = World::new();
    let witness = ticket(&world);
    let statement = witness.prepare().unwrap().statement;
    let (stream, secret, _) = &world.streams[0];
    let nullifier = |j| TicketNullifier::derive(secret, stream.commitment(), time(T + 60), j);
    assert_eq!(statement.nullifiers, [2, 3, 4, 5].map(nullifier));
    assert!(statement.check_shape(&clock()).is_ok());
    assert_eq!(witness.tickets_in_slot(), Some(U256::from(6)));

    let rating = TicketWitness { price: Price::ZERO, j: 0, count: 1, ..witness };
    let statement = rating.prepare().unwrap().statement;
    assert_eq!(statement.nullifiers[0], TicketNullifier::of_rating(secret, stream.commitment()));
    assert_eq!(statement.nullifiers[1..], [TicketNullifier::UNUSED; 3]);
    assert_eq!(rating.tickets_in_slot(), None);
}

#[test]
fn ticket_faults() {
    let world = World::new();
    let fault = |change: &dyn Fn(&mut TicketWitness)| spoilt(ticket(&world), |w| change(w));
    for count in [0, 5] {
        assert_eq!(fault(&|w| w.count = count), WitnessError::Ticket(TicketError::Count { found: count.into() }));
    }
    let overspent = fault(&|w| w.j = 3);
    assert_eq!(overspent.code(), "TRB-1717");
    assert_eq!(overspent, WitnessError::SlotOverspent { needed: U256::from(700), available: U256::from(600) });
    assert!(matches!(fault(&|w| w.j = u32::MAX), WitnessError::SlotOverspent { .. }));
    let streamed = fault(&|w| w.min_streamed = amount(1201));
    assert_eq!(streamed.code(), "TRB-1718");
    assert_eq!(streamed, WitnessError::StreamedTooLittle { streamed: U256::from(1200), needed: U256::from(1201) });
    assert_eq!(fault(&|w| w.stream.secret = world.streams[1].1.clone()), WitnessError::WrongPayerSecret);
    assert_eq!(fault(&|w| w.stream.index += 1), WitnessError::NotInTree { what: "the stream" });
    assert_eq!(fault(&|w| w.root = fr("root").into()), WitnessError::NotInTree { what: "the stream" });
    assert_eq!(fault(&|w| w.stopped_root = fr("root").into()), WitnessError::NotAbsent);
    assert_eq!(fault(&|w| w.absence.low += Fr::from(1_u8)), WitnessError::NotAbsent);
    assert_eq!(WitnessError::NotAbsent.code(), "TRB-1721");
    let rating = fault(&|w| w.price = Price::ZERO);
    assert_eq!(rating, WitnessError::Ticket(TicketError::Count { found: 4 }), "a rating has count 1");
    let numbered = fault(&|w| (w.price, w.count) = (Price::ZERO, 1));
    assert_eq!((numbered.code(), numbered), ("TRB-1720", WitnessError::RatingIndex { found: 2 }));

    for start in [T - 60, T + 3600] {
        let uncovered = fault(&|w| w.slot = clock().slot_at(time(start)).unwrap());
        let expected =
            WitnessError::SlotNotCovered { start: T, end: T + 3600, slot_start: start, slot_end: start + 60 };
        assert_eq!((uncovered.code(), uncovered), ("TRB-1716", expected));
    }
    let mut last = ticket(&world);
    last.slot = clock().slot_at(time(T + 3540)).unwrap();
    assert_eq!(last.validate(), Ok(()), "the stream's last slot");
}

/// The stream of another payer: the stopped list cannot be got round with another stream's absence.
#[test]
fn absence_of_another_tag_shows_nothing() {
    let mut world = World::new();
    let stream = world.streams[0].0;
    world.stops.insert(tributary_protocol::StopEntry { stop: time(T + 100), tag: stream.record_tag() });
    let slot = clock().slot_at(time(T + 60)).unwrap();
    let list = world.stops.list(slot.end()).unwrap();
    assert!(list.absence(stream.record_tag()).is_err());
    let mut witness = ticket(&World::new());
    witness.stopped_root = list.root();
    witness.absence = list.absence(world.streams[1].0.record_tag()).unwrap();
    assert_eq!(witness.validate(), Err(WitnessError::NotAbsent));
}

/// Names, order and shapes are those of the encodings page.
#[test]
fn inputs_have_the_published_names_and_shapes() {
    let page = include_str!("../../../../docs/src/encodings.md");
    let section = page.split("## Circuit inputs").nth(1).unwrap().split("\n## ").next().unwrap();
    let world = World::new();
    let all = [
        ("transact", open(&world).inputs_unchecked()),
        ("close", close(&world).inputs_unchecked()),
        ("claim", claim(&world).inputs_unchecked()),
        ("insert", insert(&world).inputs_unchecked()),
        ("ticket", ticket(&world).inputs_unchecked()),
    ];
    for (name, inputs) in all {
        let text = section.split(&format!("**{name}**:")).nth(1).unwrap().split("\n- ").next().unwrap();
        // Words such as `inV[2][2]`; remarks in brackets and after the last name are left out.
        let mut depth = 0;
        let plain: String = text
            .chars()
            .filter(|c| {
                depth += i32::from(*c == '(');
                let keep = depth == 0;
                depth -= i32::from(*c == ')');
                keep
            })
            .collect();
        let published: Vec<(String, usize)> = plain
            .split('.')
            .next()
            .unwrap()
            .split([',', ';'])
            .map(|word| {
                let word = word.trim();
                let (name, shape) = word.split_at(word.find('[').unwrap_or(word.len()));
                let extents = shape.split(['[', ']']).filter(|e| !e.is_empty()).map(|e| e.parse::<usize>().unwrap());
                (name.to_owned(), extents.product())
            })
            .collect();
        let ours: Vec<(String, usize)> = inputs.iter().map(|(name, values)| (name.to_owned(), values.len())).collect();
        assert_eq!(ours, published, "{name}");
    }
}

#[test]
fn json_nests_arrays() {
    let inputs = open(&World::new()).inputs_unchecked();
    let json = inputs.to_json();
    assert_eq!(json["inPath"].as_array().unwrap().len(), 2);
    assert_eq!(json["inPath"][1].as_array().unwrap().len(), 16);
    assert_eq!(json["inPath"][1][15].as_array().unwrap().len(), 3);
    assert_eq!(json["inPath"][1][15][2].as_str().unwrap(), inputs.get("inPath").unwrap()[95].to_decimal());
    assert_eq!(json["amountOut"].as_str(), Some("21"));
    assert!(inputs.get("nothing").is_none());
}
