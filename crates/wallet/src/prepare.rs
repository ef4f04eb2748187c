//! From an intent to a proved transaction.

use std::sync::PoisonError;

use alloy::primitives::Address;
use rand::rngs::OsRng;
use tributary_ledger::KnownRoot;
use tributary_protocol::{
    Amount, Commitment, ExternalTerms, Nullifier, PaymentAddress, Rate, Root, UnixTime,
    statement::CLAIM_LANES,
    ticket::OfferTerms,
    tree::CAPACITY,
    witness::{ClaimLane, ClaimRequest, CloseRequest, Dummy, Output, StreamInput, TransactRequest, ValueInput},
};

use crate::{
    Wallet, WalletError,
    balance::{Notes, SpendableNote},
    calldata::{self, TokensFrom},
    deposit::{DepositFrom, sign_authorization},
    operation::{AttemptId, Intent, OpenStream, OperationId, OperationStatus, PreparedTransaction, SendTerms},
    proving,
    store::{InputRef, OperationRow, Role, insert_attempt, insert_offer, insert_operation},
    stream::PayerStream,
};

/// A close or reopen whose deadline is nearer than this is made for the next slot instead, so that it can still be proved and sent.
const LEAST_VALIDITY: u64 = 15;

impl Wallet {
    /// Chooses inputs, reserves them, proves, and writes the transaction down. It is not sent.
    ///
    /// A deposit is one from an approved account; see [`Wallet::prepare_deposit`] for others.
    ///
    /// # Errors
    /// [`WalletError`]; nothing stays reserved then.
    pub async fn prepare(&self, intent: Intent, terms: SendTerms) -> Result<PreparedTransaction, WalletError> {
        self.prepare_from(intent, terms, DepositFrom::Approved).await
    }

    /// A deposit of `amount`, from which the relayer's fee is taken.
    ///
    /// # Errors
    /// As [`Wallet::prepare`].
    pub async fn prepare_deposit(
        &self,
        amount: Amount,
        from: DepositFrom<'_>,
        terms: SendTerms,
    ) -> Result<PreparedTransaction, WalletError> {
        self.prepare_from(Intent::Deposit { amount }, terms, from).await
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// As [`Wallet::prepare`].
    pub async fn prepare_open(&self, stream: OpenStream, terms: SendTerms) -> Result<PreparedTransaction, WalletError> {
        self.prepare(Intent::Open(stream), terms).await
    }

    /// Claims what accrued on the streams that hold most, at most 16 of them.
    ///
    /// # Errors
    /// [`WalletError::NothingToClaim`] and as [`Wallet::prepare`].
    pub async fn prepare_claim(&self, terms: SendTerms) -> Result<PreparedTransaction, WalletError> {
        let streams = self.worth_claiming().await?;
        self.prepare(Intent::Claim { streams }, terms).await
    }

    /// The streams that a claim should take now: those with most to claim, at most 16, none below
    /// [`WalletConfig::least_claim`](crate::WalletConfig::least_claim), none that a pending claim has.
    ///
    /// # Errors
    /// [`WalletError::NothingToClaim`].
    pub async fn worth_claiming(&self) -> Result<Vec<Commitment>, WalletError> {
        let least = self.inner.config.least_claim;
        let reserved = self.reserved().await?;
        let inserted = self.ledger().inserted();
        let mut streams: Vec<_> = self
            .payee_streams(false)
            .await?
            .into_iter()
            .filter(|s| s.claimable >= least && !s.claimable.is_zero())
            .filter(|s| s.position.is_some_and(|p| u64::from(p) < inserted) && !reserved.contains_key(&s.commitment))
            .collect();
        if streams.is_empty() {
            return Err(WalletError::NothingToClaim { least });
        }
        streams.sort_by_key(|stream| std::cmp::Reverse(stream.claimable));
        Ok(streams.iter().take(CLAIM_LANES).map(|stream| stream.commitment).collect())
    }

    /// Prepares another transaction for the same operation: for another relayer, with another fee or a later deadline (and a close's later
    /// stop), with fresh randomness and the same inputs, so that only one of the two can be mined.
    ///
    /// # Errors
    /// [`WalletError::AlreadyConfirmed`], [`WalletError::UnknownOperation`], and as [`Wallet::prepare`].
    pub async fn prepare_again(
        &self,
        operation: OperationId,
        terms: SendTerms,
    ) -> Result<PreparedTransaction, WalletError> {
        self.prepare_again_from(operation, terms, DepositFrom::Approved).await
    }

    /// As [`Wallet::prepare_again`], for deposits.
    ///
    /// # Errors
    /// As [`Wallet::prepare_again`].
    pub async fn prepare_again_from(
        &self,
        operation: OperationId,
        terms: SendTerms,
        from: DepositFrom<'_>,
    ) -> Result<PreparedTransaction, WalletError> {
        let row = self.inner.store.operation(operation).await?;
        match self.info(&row).await?.status {
            OperationStatus::Confirmed { block, .. } => Err(WalletError::AlreadyConfirmed { operation, block }),
            OperationStatus::Expired | OperationStatus::Abandoned => Err(WalletError::UnknownOperation { operation }),
            _ => self.attempt(&row, terms, from).await,
        }
    }

    async fn prepare_from(
        &self,
        intent: Intent,
        terms: SendTerms,
        from: DepositFrom<'_>,
    ) -> Result<PreparedTransaction, WalletError> {
        let id = OperationId::random();
        let _proving = Proving::begin(self, id);
        let row = self.begin(id, intent, terms.fee).await?;
        match self.attempt(&row, terms, from).await {
            Ok(prepared) => Ok(prepared),
            Err(error) => {
                self.inner.store.end_operation(id, crate::store::Ended::Abandoned).await?;
                Err(error)
            }
        }
    }

    /// Chooses what goes in and reserves it.
    async fn begin(&self, id: OperationId, intent: Intent, fee: Amount) -> Result<OperationRow, WalletError> {
        let _one = self.inner.choosing.lock().await;
        let now = self.now()?;
        let mut reserve = Vec::new();
        let mut offer = None;
        let inputs = match &intent {
            Intent::Deposit { amount } => {
                nonzero(*amount)?;
                vec![dummy(), dummy()]
            }
            Intent::Transfer { amount, .. } | Intent::Withdraw { amount, .. } => {
                nonzero(*amount)?;
                self.choose(2, amount.checked_add(fee)?).await?
            }
            Intent::Merge => {
                let notes = self.notes().await?;
                // The smallest ones: the large ones can be spent as they are.
                let mut smallest = notes.available.iter().rev();
                let (Some(first), Some(second)) = (smallest.next(), smallest.next()) else {
                    return Err(WalletError::NothingToMerge { notes: notes.available.len() });
                };
                vec![InputRef::Note(first.row.commitment), InputRef::Note(second.row.commitment)]
            }
            Intent::Open(stream) => {
                let deposit = self.open_terms(stream)?;
                offer = stream.offer.map(|terms| (terms, stream.payee));
                self.choose(2, deposit.checked_add(fee)?).await?
            }
            Intent::Close { stream } => {
                let stream = self.to_close(*stream).await?;
                reserve.push(stream.commitment);
                let stop = self.stop_times(now)?.stop;
                let refund = stream.note.terms.refund(stop);
                if refund.is_zero() {
                    let end = stream.note.terms.end().get();
                    return Err(WalletError::NothingToRefund { end, stop: stop.get() });
                }
                self.choose_beside(refund, fee).await?
            }
            Intent::Reopen { stream, payee, rate, end, offer: terms } => {
                let stream = self.to_close(*stream).await?;
                reserve.push(stream.commitment);
                let stop = self.stop_times(now)?.stop;
                let deposit = self.reopen_deposit(payee, *rate, stop, *end)?;
                offer = terms.map(|terms| (terms, *payee));
                self.choose_beside(stream.note.terms.refund(stop), deposit.checked_add(fee)?).await?
            }
            Intent::Claim { streams } => {
                let reserved = self.reserved().await?;
                for stream in streams {
                    if let Some(operation) = reserved.get(stream) {
                        return Err(WalletError::Busy { operation: *operation });
                    }
                }
                reserve.extend(streams);
                Vec::new()
            }
        };
        reserve.extend(inputs.iter().filter_map(|input| match input {
            InputRef::Note(commitment) => Some(*commitment),
            InputRef::Dummy(_) => None,
        }));
        let nf_0 = match inputs.first() {
            Some(input) => Some(self.nullifier(input).await?),
            None => None,
        };
        let row = OperationRow { id, intent, inputs, nf_0, created: now, ended: 0 };
        let mut tx = self.inner.store.begin().await?;
        insert_operation(&mut tx, &row, &reserve).await?;
        if let (Some(nf_0), Some((terms, payee))) = (nf_0, offer) {
            insert_offer(&mut tx, nf_0, &terms, Some(&payee)).await?;
        }
        tx.commit().await?;
        Ok(row)
    }

    /// Proves one attempt and writes it down.
    async fn attempt(
        &self,
        row: &OperationRow,
        terms: SendTerms,
        from: DepositFrom<'_>,
    ) -> Result<PreparedTransaction, WalletError> {
        let prepared = match &row.intent {
            Intent::Close { stream } => self.prove_close(row, *stream, None, terms).await?,
            Intent::Reopen { stream, payee, rate, end, .. } => {
                self.prove_close(row, *stream, Some((*payee, *rate, *end)), terms).await?
            }
            Intent::Claim { streams } => self.prove_claim(row, streams, terms).await?,
            _ => self.prove_transact(row, terms, from).await?,
        };
        let mut tx = self.inner.store.begin().await?;
        // Its inputs may be somebody else's meanwhile, if proving took so long that it was given up.
        if !insert_attempt(&mut tx, &prepared).await? {
            return Err(WalletError::UnknownOperation { operation: row.id });
        }
        tx.commit().await?;
        Ok(prepared)
    }

    async fn prove_transact(
        &self,
        row: &OperationRow,
        terms: SendTerms,
        from: DepositFrom<'_>,
    ) -> Result<PreparedTransaction, WalletError> {
        let fee = terms.fee;
        let now = self.now()?;
        let me = self.address();
        let (root, inputs) = self.inputs(&row.inputs).await?;
        let [first, second] = <[ValueInput; 2]>::try_from(inputs)
            .map_err(|_| WalletError::Corrupt { what: "an operation's inputs".to_owned() })?;
        let sum = first.amount.checked_add(second.amount)?;
        let mut amount_in = Amount::ZERO;
        let mut amount_out = fee;
        let mut recipient = Address::ZERO;
        let mut latest = now.saturating_add(self.inner.config.validity);
        let to_me = |amount| Output::Value { to: me, amount };
        let outputs = match &row.intent {
            Intent::Deposit { amount } => {
                amount_in = *amount;
                let rest = amount.checked_sub(fee).map_err(|_| WalletError::FeeTooHigh { fee, amount: *amount })?;
                [to_me(rest), to_me(sum)]
            }
            Intent::Transfer { to, amount } => {
                [Output::Value { to: *to, amount: *amount }, to_me(change(sum, amount.checked_add(fee)?)?)]
            }
            Intent::Merge => {
                let rest = sum.checked_sub(fee).map_err(|_| WalletError::FeeTooHigh { fee, amount: sum })?;
                [to_me(rest), to_me(Amount::ZERO)]
            }
            Intent::Withdraw { recipient: to, amount } => {
                amount_out = amount.checked_add(fee)?;
                recipient = *to;
                [to_me(Amount::ZERO), to_me(change(sum, amount_out)?)]
            }
            Intent::Open(stream) => {
                let deposit = self.open_terms(stream)?;
                latest = latest.min(self.ledger().clock().latest_open_deadline(stream.start, now)?);
                let OpenStream { payee, rate, start, end, .. } = *stream;
                [Output::Stream { payee, rate, start, end }, to_me(change(sum, deposit.checked_add(fee)?)?)]
            }
            _ => return Err(WalletError::Corrupt { what: "an operation's kind".to_owned() }),
        };
        let deadline = match (&row.intent, terms.deadline) {
            // The rule for opens is the protocol's, for others the user may wait as long as wanted.
            (Intent::Open(stream), Some(deadline)) => {
                let latest = self.ledger().clock().latest_open_deadline(stream.start, now)?;
                within(deadline, now, latest)?
            }
            (_, Some(deadline)) => within(deadline, now, UnixTime::MAX)?,
            (_, None) => latest,
        };
        let empty = outputs.iter().all(|o| matches!(o, Output::Value { amount, .. } if amount.is_zero()));
        let external = self.external(recipient, terms, deadline, empty && amount_in.is_zero() && !amount_out.is_zero());
        let request = TransactRequest { root, inputs: [first, second], amount_in, amount_out, outputs, external };
        let witness = request.build(&self.inner.keys, &mut OsRng)?;
        let data = witness.external.clone();
        let (statement, proof) = proving::prove(self.prover(), witness).await?;
        let tokens = match from {
            DepositFrom::Approved => TokensFrom::Sender,
            DepositFrom::Permit(permit) => TokensFrom::Permit(permit.0.clone()),
            DepositFrom::Authorization { signer, domain } => {
                let nonce = calldata::authorization_nonce(&statement);
                let pool = self.ledger().pool().address;
                // EIP-3009 is valid before, the pool's deadline is the last second.
                let before = deadline.saturating_add(tributary_protocol::Seconds::new(1)?);
                TokensFrom::Authorization(sign_authorization(signer, domain, pool, amount_in, before, nonce).await?)
            }
        };
        Ok(PreparedTransaction {
            attempt: AttemptId::random(),
            operation: row.id,
            kind: row.intent.kind(),
            pool: self.ledger().pool(),
            calldata: calldata::transact(&statement, &data, &proof, tokens),
            external: data.terms,
            nullifiers: statement.nullifiers.to_vec(),
            tags: Vec::new(),
            commitments: statement.outputs.iter().map(|output| output.commitment).collect(),
            claimed_until: Vec::new(),
        })
    }

    async fn prove_close(
        &self,
        row: &OperationRow,
        stream: Commitment,
        reopen: Option<(PaymentAddress, Rate, UnixTime)>,
        terms: SendTerms,
    ) -> Result<PreparedTransaction, WalletError> {
        let fee = terms.fee;
        let now = self.now()?;
        let stream = self.payer_stream(stream).await?;
        if let Some(stop) = stream.record.stop {
            return Err(WalletError::AlreadyStopped { stop: stop.get() });
        }
        let times = self.stop_times(now)?;
        let position = stream.position.ok_or(WalletError::UnknownStream { commitment: stream.commitment })?;
        let (root, mut inputs) = self.inputs_beside(&row.inputs, &[position]).await?;
        let input = inputs.pop().ok_or_else(|| WalletError::Corrupt { what: "an operation's inputs".to_owned() })?;
        let path = self.ledger().path_at(position, root.leaf_count)?;
        let money = stream.note.terms.refund(times.stop).checked_add(input.amount)?;
        let me = self.address();
        let outputs = match reopen {
            None => {
                let rest = money.checked_sub(fee).map_err(|_| WalletError::FeeTooHigh { fee, amount: money })?;
                [Output::Value { to: me, amount: rest }, Output::Value { to: me, amount: Amount::ZERO }]
            }
            Some((payee, rate, end)) => {
                let deposit = self.reopen_deposit(&payee, rate, times.stop, end)?;
                [
                    Output::Stream { payee, rate, start: times.stop, end },
                    Output::Value { to: me, amount: change(money, deposit.checked_add(fee)?)? },
                ]
            }
        };
        let deadline = match terms.deadline {
            Some(deadline) => within(deadline, now, times.deadline)?,
            None => times.deadline,
        };
        let request = CloseRequest {
            root: root.root,
            stream: StreamInput { note: stream.note, secret: stream.secret.clone(), index: position, path },
            stop: times.stop,
            input,
            amount_out: fee,
            outputs,
            external: self.external(Address::ZERO, terms, deadline, false),
        };
        let witness = request.build(&self.inner.keys, &mut OsRng)?;
        let data = witness.external.clone();
        let (statement, proof) = proving::prove(self.prover(), witness).await?;
        Ok(PreparedTransaction {
            attempt: AttemptId::random(),
            operation: row.id,
            kind: row.intent.kind(),
            pool: self.ledger().pool(),
            calldata: calldata::close(&statement, &data, &proof),
            external: data.terms,
            nullifiers: vec![statement.nullifier],
            tags: vec![statement.tag],
            commitments: statement.outputs.iter().map(|output| output.commitment).collect(),
            claimed_until: Vec::new(),
        })
    }

    async fn prove_claim(
        &self,
        row: &OperationRow,
        streams: &[Commitment],
        terms: SendTerms,
    ) -> Result<PreparedTransaction, WalletError> {
        let now = self.now()?;
        // The contract compares with its block's timestamp, which is not before the head's.
        let head = self.ledger().head_time()?;
        let mut rows = Vec::with_capacity(streams.len());
        for commitment in streams {
            let unknown = WalletError::UnknownStream { commitment: *commitment };
            let Some(stream) = self.inner.store.stream(Role::Payee, *commitment).await? else { return Err(unknown) };
            let Some(leaf) = self.ledger().leaf(*commitment).await? else { return Err(unknown) };
            let record = self.ledger().record(stream.note.record_tag()).await?;
            let t1 = record.stop.map_or(head, |stop| head.min(stop));
            // What another claim has taken meanwhile is left out.
            if t1 > record.claimed_until && !stream.note.terms.payout(record.claimed_until, t1).is_zero() {
                rows.push((stream.note, leaf.position, record.claimed_until, t1));
            }
        }
        if rows.is_empty() {
            return Err(WalletError::NothingToClaim { least: self.inner.config.least_claim });
        }
        let positions: Vec<u32> = rows.iter().map(|row| row.1).collect();
        let root = self.root_for(&positions)?;
        let lanes = rows
            .into_iter()
            .map(|(note, index, t0, t1)| {
                Ok(ClaimLane { note, index, path: self.ledger().path_at(index, root.leaf_count)?, t0, t1 })
            })
            .collect::<Result<Vec<_>, WalletError>>()?;
        let deadline = match terms.deadline {
            Some(deadline) => within(deadline, now, UnixTime::MAX)?,
            None => now.saturating_add(self.inner.config.validity),
        };
        let request = ClaimRequest {
            root: root.root,
            lanes,
            burn_bps: self.ledger().manifest().burn_bps,
            amount_out: terms.fee,
            external: self.external(Address::ZERO, terms, deadline, false),
        };
        let witness = request.build(&self.inner.keys, &mut OsRng);
        let net = Amount::try_from(witness.totals().sum.saturating_sub(witness.totals().burn))?;
        if terms.fee > net {
            return Err(WalletError::FeeTooHigh { fee: terms.fee, amount: net });
        }
        let data = witness.external.clone();
        let (statement, proof) = proving::prove(self.prover(), witness).await?;
        Ok(PreparedTransaction {
            attempt: AttemptId::random(),
            operation: row.id,
            kind: row.intent.kind(),
            pool: self.ledger().pool(),
            calldata: calldata::claim(&statement, &data, &proof),
            external: data.terms,
            nullifiers: Vec::new(),
            tags: statement.lanes.iter().map(|lane| lane.tag).collect(),
            commitments: vec![statement.output.commitment],
            claimed_until: statement.lanes.iter().map(|lane| lane.t1).collect(),
        })
    }

    /// The stream, if it can be closed and nothing else is doing so.
    async fn to_close(&self, commitment: Commitment) -> Result<PayerStream, WalletError> {
        if let Some(operation) = self.reserved().await?.get(&commitment) {
            return Err(WalletError::Busy { operation: *operation });
        }
        let stream = self.payer_stream(commitment).await?;
        if let Some(stop) = stream.record.stop {
            return Err(WalletError::AlreadyStopped { stop: stop.get() });
        }
        Ok(stream)
    }

    /// The stop that a close prepared at `now` takes.
    fn stop_times(&self, now: UnixTime) -> Result<tributary_protocol::slot::StopTimes, WalletError> {
        let clock = self.ledger().clock();
        let times = clock.stop_times(now)?;
        if times.deadline.since(now).get() >= LEAST_VALIDITY.min(clock.slot_length().get()) {
            return Ok(times);
        }
        Ok(clock.stop_times(now.saturating_add(clock.slot_length()))?)
    }

    /// Checks a new stream's terms and answers its deposit.
    fn open_terms(&self, stream: &OpenStream) -> Result<Amount, WalletError> {
        let clock = self.ledger().clock();
        clock.check_boundary(stream.start)?;
        clock.check_boundary(stream.end)?;
        self.check_offer(&stream.payee, stream.offer.as_ref())?;
        let terms = tributary_protocol::StreamTerms::new(stream.payee.owner(), stream.rate, stream.start, stream.end)?;
        Ok(terms.deposit())
    }

    fn reopen_deposit(
        &self,
        payee: &PaymentAddress,
        rate: Rate,
        start: UnixTime,
        end: UnixTime,
    ) -> Result<Amount, WalletError> {
        self.open_terms(&OpenStream { payee: *payee, rate, start, end, offer: None })
    }

    #[expect(clippy::unused_self, reason = "a rule of the wallet")]
    fn check_offer(&self, payee: &PaymentAddress, offer: Option<&OfferTerms>) -> Result<(), WalletError> {
        if offer.is_some_and(|offer| offer.payee != payee.owner()) { Err(WalletError::WrongPayee) } else { Ok(()) }
    }

    /// `count` inputs that hold `needed` together, with as few and as small notes as possible; dummies fill up.
    async fn choose(&self, count: usize, needed: Amount) -> Result<Vec<InputRef>, WalletError> {
        let notes = self.notes().await?;
        let chosen = choose(&notes, count, needed)?;
        let mut inputs: Vec<InputRef> = chosen.iter().map(|note| InputRef::Note(note.row.commitment)).collect();
        inputs.resize_with(count, dummy);
        Ok(inputs)
    }

    /// The one input beside a stream that gives back `refund`: a note when that is too little, otherwise a dummy.
    async fn choose_beside(&self, refund: Amount, needed: Amount) -> Result<Vec<InputRef>, WalletError> {
        match needed.checked_sub(refund) {
            Ok(missing) if !missing.is_zero() => self.choose(1, missing).await,
            _ => Ok(vec![dummy()]),
        }
    }

    async fn nullifier(&self, input: &InputRef) -> Result<Nullifier, WalletError> {
        Ok(match input {
            InputRef::Note(commitment) => {
                let row = self.inner.store.note(*commitment, self.inner.keys.owner()).await?;
                row.ok_or_else(|| WalletError::Corrupt { what: "a reserved note is missing".to_owned() })?.nullifier
            }
            InputRef::Dummy(secret) => ValueInput::dummy(&parse_dummy(secret)?).nullifier(),
        })
    }

    async fn inputs(&self, inputs: &[InputRef]) -> Result<(Root, Vec<ValueInput>), WalletError> {
        let (root, inputs) = self.inputs_beside(inputs, &[]).await?;
        Ok((root.root, inputs))
    }

    /// The inputs with their paths, under one root that has them and the leaves at `others`.
    async fn inputs_beside(
        &self,
        inputs: &[InputRef],
        others: &[u32],
    ) -> Result<(KnownRoot, Vec<ValueInput>), WalletError> {
        let mut positions = others.to_vec();
        let mut notes = Vec::new();
        for input in inputs {
            match input {
                InputRef::Note(commitment) => {
                    let missing = || WalletError::Corrupt { what: "a reserved note is missing".to_owned() };
                    let row = self.inner.store.note(*commitment, self.inner.keys.owner()).await?.ok_or_else(missing)?;
                    let leaf = self.ledger().leaf(*commitment).await?;
                    let inserted = self.ledger().inserted();
                    let leaf = leaf.ok_or(WalletError::NotInserted { inserted })?;
                    positions.push(leaf.position);
                    notes.push(Some((row.note, leaf.position)));
                }
                InputRef::Dummy(_) => notes.push(None),
            }
        }
        let root = self.root_for(&positions)?;
        let mut values = Vec::with_capacity(inputs.len());
        for (input, note) in inputs.iter().zip(notes) {
            values.push(match (input, note) {
                (InputRef::Dummy(secret), _) => ValueInput::dummy(&parse_dummy(secret)?),
                (InputRef::Note(_), Some((note, position))) => {
                    let path = self.ledger().path_at(position, root.leaf_count)?;
                    ValueInput::spend(&self.inner.keys, &note, position, path)?
                }
                (InputRef::Note(_), None) => {
                    return Err(WalletError::Corrupt { what: "an operation's inputs".to_owned() });
                }
            });
        }
        Ok((root, values))
    }

    /// A root that has all these leaves: one that is deep enough, or the newest.
    fn root_for(&self, positions: &[u32]) -> Result<KnownRoot, WalletError> {
        let ledger = self.ledger();
        let last = positions.iter().copied().max();
        let has_all = |root: &KnownRoot| last.is_none_or(|last| u64::from(last) < root.leaf_count);
        let deep = ledger.root_of_depth(self.inner.config.root_depth);
        if has_all(&deep) {
            return Ok(deep);
        }
        let newest = ledger.newest_root();
        if has_all(&newest) { Ok(newest) } else { Err(WalletError::NotInserted { inserted: newest.leaf_count }) }
    }

    /// Outputs are allowed to be dropped only when they hold nothing and the tree is about to be full: the flag is there for all to see.
    fn external(&self, recipient: Address, terms: SendTerms, deadline: UnixTime, droppable: bool) -> ExternalTerms {
        ExternalTerms {
            recipient,
            relayer: if terms.fee.is_zero() { Address::ZERO } else { terms.relayer },
            fee: terms.fee,
            deadline,
            may_drop_outputs: droppable && self.ledger().queued() + 2 > CAPACITY,
        }
    }
}

/// Marks an operation as being proved by this process.
struct Proving<'a> {
    wallet: &'a Wallet,
    id: OperationId,
}

impl<'a> Proving<'a> {
    fn begin(wallet: &'a Wallet, id: OperationId) -> Self {
        wallet.inner.proving.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Self { wallet, id }
    }
}

impl Drop for Proving<'_> {
    fn drop(&mut self) {
        self.wallet.inner.proving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

fn nonzero(amount: Amount) -> Result<(), WalletError> {
    if amount.is_zero() { Err(WalletError::NothingToDo) } else { Ok(()) }
}

fn within(deadline: UnixTime, now: UnixTime, latest: UnixTime) -> Result<UnixTime, WalletError> {
    if deadline < now || deadline > latest {
        return Err(WalletError::Deadline { deadline: deadline.get(), now: now.get(), latest: latest.get() });
    }
    Ok(deadline)
}

/// What is left; too little when a retry's fee is higher or a later stop gives back less.
fn change(money: Amount, needed: Amount) -> Result<Amount, WalletError> {
    money.checked_sub(needed).map_err(|_| WalletError::InsufficientFunds {
        needed,
        available: money,
        waiting: Amount::ZERO,
    })
}

fn dummy() -> InputRef {
    InputRef::Dummy(hex::encode(Dummy::random(&mut OsRng).to_secret_bytes().as_ref()))
}

fn parse_dummy(secret: &str) -> Result<Dummy, WalletError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    hex::decode_to_slice(secret, bytes.as_mut()).map_err(|_| WalletError::Corrupt { what: "a dummy".to_owned() })?;
    Ok(Dummy::from_secret_bytes(&bytes)?)
}

/// The smallest note that is enough, else the pair with the smallest sum that is enough.
fn choose(notes: &Notes, count: usize, needed: Amount) -> Result<Vec<SpendableNote>, WalletError> {
    let amount = |note: &SpendableNote| note.row.note.amount;
    let all = &notes.available; // largest first
    if let Some(one) = all.iter().rev().find(|note| amount(note) >= needed) {
        return Ok(vec![*one]);
    }
    let mut best: Option<(Amount, usize, usize)> = None;
    if count >= 2 {
        // Two fingers: as the larger note shrinks, its partner must grow.
        let (mut large, mut small) = (0, all.len());
        while large + 1 < small {
            let sum = amount(&all[large]).checked_add(amount(&all[small - 1]))?;
            if sum >= needed {
                if best.is_none_or(|(least, _, _)| sum < least) {
                    best = Some((sum, large, small - 1));
                }
                large += 1;
            } else {
                small -= 1;
            }
        }
    }
    if let Some((_, large, small)) = best {
        return Ok(vec![all[large], all[small]]);
    }
    let available = Amount::checked_sum(all.iter().map(amount))?;
    if available >= needed {
        let reachable = Amount::checked_sum(all.iter().take(count).map(amount))?;
        return Err(WalletError::TooManyNotes { needed, reachable, available, inputs: count });
    }
    Err(WalletError::InsufficientFunds { needed, available, waiting: notes.queued.checked_add(notes.reserved)? })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tributary_protocol::{Fr, Nullifier, Owner, Rho, ValueNote};

    use super::*;
    use crate::store::NoteRow;

    fn notes(amounts: &[u128]) -> Notes {
        let mut available: Vec<SpendableNote> = amounts
            .iter()
            .zip(0..)
            .map(|(&amount, position)| {
                let element = Fr::from(u64::from(position));
                let note = ValueNote {
                    amount: Amount::new(amount).unwrap(),
                    owner: Owner::new(element),
                    rho: Rho::new(element),
                };
                let row = NoteRow { note, commitment: note.commitment(), nullifier: Nullifier::new(element) };
                SpendableNote { row, position }
            })
            .collect();
        available.sort_by_key(|note| std::cmp::Reverse(note.row.note.amount));
        Notes { available, ..Notes::default() }
    }

    #[test]
    fn one_note_is_taken_before_two_and_the_smallest_sum_first() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..300 {
            let amounts: Vec<u128> = (0..rng.gen_range(0..8)).map(|_| rng.gen_range(1..50)).collect();
            let needed = rng.gen_range(1..120_u128);
            let single = amounts.iter().copied().filter(|a| *a >= needed).min();
            let pairs = (0..amounts.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
            let pair = pairs.map(|(i, j)| amounts[i] + amounts[j]).filter(|sum| *sum >= needed).min();
            let total: u128 = amounts.iter().sum();
            for count in [1, 2] {
                let chosen = choose(&notes(&amounts), count, Amount::new(needed).unwrap());
                let expected = single.or(pair.filter(|_| count == 2));
                match (chosen, expected) {
                    (Ok(chosen), Some(expected)) => {
                        let sum: u128 = chosen.iter().map(|note| note.row.note.amount.get()).sum();
                        assert_eq!(sum, expected, "{amounts:?} for {needed}");
                        assert_eq!(chosen.len() == 1, single.is_some());
                        assert!(chosen.len() == 1 || chosen[0].position != chosen[1].position);
                    }
                    (Err(WalletError::TooManyNotes { inputs, .. }), None) => {
                        assert!(total >= needed && inputs == count);
                    }
                    (Err(WalletError::InsufficientFunds { .. }), None) => assert!(total < needed),
                    (chosen, expected) => panic!("{amounts:?} for {needed}: {chosen:?}, expected {expected:?}"),
                }
            }
        }
    }
}
