//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Buy and sell services anonymously: discover, choose, negotiate, pay, prove, use, assess.
#[derive(Debug, Parser)]
#[command(
    name = "tributary",
    version,
    about,
    propagate_version = true,
    infer_subcommands = false,
    max_term_width = 100
)]
#[command(
    after_help = "A first purchase: init, wallet address, deposit, discover, choose, quote, open, query, assess.\n\
    `buy` does discover, choose, quote and open in one go; `publish --buy` and `listen --buy` do it before they begin.\n\
    Every command takes --json."
)]
pub(crate) struct Cli {
    /// Folder with configuration, keys and state.
    #[arg(long, global = true, env = "TRIBUTARY_HOME", value_name = "DIR", default_value = ".tributary")]
    pub(crate) home: PathBuf,
    /// File with the wallet's password. Without it the password is asked for.
    #[arg(long, global = true, env = "TRIBUTARY_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Print one JSON document instead of text; errors too.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log filter, e.g. `info` or `tributary_provider=debug`.
    #[arg(long, global = true, env = "TRIBUTARY_LOG", default_value = "warn", value_name = "FILTER")]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented configuration and make a wallet; refuses to overwrite.
    Init(Init),
    /// Address, balances, restore.
    #[command(subcommand)]
    Wallet(Wallet),
    /// Pay tokens into the pool. The deposit's amount and sender are public: deposit long before use.
    Deposit(Deposit),
    /// Step 1: listen for offers, and catch up from peers' archives.
    Discover(Discover),
    /// What is known about a provider: offer, reputation and its parts.
    #[command(subcommand)]
    Providers(Providers),
    /// Step 2: pick a provider by reputation and price.
    Choose(Choose),
    /// Step 3: agree on terms; the provider signs a quote.
    Quote(Quote),
    /// Step 4: open a payment stream through a relayer.
    Open(Open),
    /// Steps 1 to 4 in one go.
    Buy(Buy),
    /// Steps 5 and 6: query a provider's Waku Store, each page paid by a ticket.
    Query(Query),
    /// Publish Waku messages: by relay, or with --paid through a provider of lightpush.
    Publish(Publish),
    /// Receive Waku messages: by relay, remembering their hashes for a later assessment, or with --paid through a provider of Filter.
    Listen(Listen),
    /// Step 7: compare what a provider delivered with what was seen.
    Assess(Assess),
    /// Step 8: rate a provider, anonymously, with a proof that a stream paid it. Rating again by the same stream replaces the rating.
    Rate(Rate),
    /// Open streams: what is paid, at risk, refundable.
    Streams,
    /// Stop a stream and take back what has not accrued.
    Close(Close),
    /// Payee: claim what has accrued, up to sixteen streams in a proof.
    Claim(Claim),
    /// Take tokens out of the pool.
    Withdraw(Withdraw),
    /// Put queued leaves into the tree without a relayer.
    Insert,
    /// The pool's books, as the chain and this wallet see them.
    Books,
    /// Measure a purchase, for script/bench: chosen to first page, and what a ticket adds to a request.
    #[command(hide = true)]
    Bench(Bench),
    /// Give tickets for leases to other programs on this machine, such as a js-waku light node.
    #[command(subcommand)]
    Tickets(Daemon),
    /// Give bought services to ordinary programs on this machine, by a local HTTP port: an upstream that a provider sells as /http/ID/path, language models as /v1, which is OpenAI-compatible.
    Gateway(Gateway),
    /// Ask a language model: the prompt is paid by a ticket and goes over Waku relay, the answer is printed as it comes.
    Ask(Ask),
    /// Buy a TURN relay for WebRTC calls: prints it as an RTCIceServer, and keeps it paid until it is stopped.
    Turn(Turn),
    /// Ask a paid STUN server, and others beside it, under which address this host is seen.
    Stun(Stun),
    /// Simulate markets; needs no home and no wallet.
    #[command(subcommand)]
    Sim(Sim),
    /// Check configuration, keys, chain, artefacts and peers, and name what is wrong.
    Doctor,
    /// Run a Waku node.
    #[command(subcommand)]
    Node(Daemon),
    /// Sell services.
    #[command(subcommand)]
    Provider(Daemon),
    /// Send other people's transactions for a fee.
    #[command(subcommand)]
    Relayer(Daemon),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sim {
    /// Attack the reputation: how many purchases go wrong under each attack, and at which spending.
    Reputation(SimReputation),
}

#[derive(Debug, Args)]
pub(crate) struct SimReputation {
    /// Providers, of whom a fifth is dishonest.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub(crate) providers: u32,
    /// Honest buyers.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) buyers: u32,
    /// Identities that the attacker adds to its providers.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) sybils: u32,
    /// Seeds 1 to this one are run.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) seeds: u64,
    /// What the pool burns, of 10,000; may be repeated.
    #[arg(long, value_name = "BPS", default_values_t = [100, 300])]
    pub(crate) burn: Vec<u32>,
    /// What attackers spend, as a share of what honest buyers spend.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(crate) spending: f64,
    /// Leave out the curve of spending against cheated purchases.
    #[arg(long)]
    pub(crate) no_curve: bool,
    /// Write the plots (SVG) into this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// JSON-RPC endpoint of the pool's chain.
    #[arg(long, value_name = "URL")]
    pub(crate) rpc: Option<String>,
    /// Deployment manifest of the pool.
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Folder of the circuit artefacts.
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
    /// Waku peer to start from; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<String>,
    /// Address to listen on; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,
    /// Ethereum v3 keystore of the account that pays gas.
    #[arg(long, value_name = "FILE")]
    pub(crate) keystore: Option<PathBuf>,
    /// File with the keystore's password.
    #[arg(long, value_name = "FILE")]
    pub(crate) keystore_password_file: Option<PathBuf>,
    /// Restore from the recovery phrase in this file instead of making a new one.
    #[arg(long, value_name = "FILE")]
    pub(crate) restore_from: Option<PathBuf>,
    /// Write the new recovery phrase to this file (mode 0600) instead of the terminal.
    #[arg(long, value_name = "FILE")]
    pub(crate) phrase_file: Option<PathBuf>,
    /// Keep messages and answer Store queries.
    #[arg(long)]
    pub(crate) archive: bool,
    /// For a plain Waku node: no wallet, no password, no chain.
    #[arg(long, conflicts_with_all = ["rpc", "manifest", "keystore", "restore_from", "phrase_file"])]
    pub(crate) node: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Wallet {
    /// The address that others pay to.
    Address,
    /// Balances: available, reserved, in streams, at risk, refundable, claimable.
    Balance,
    /// Notes and streams, one a line.
    Notes,
}

#[derive(Debug, Args)]
pub(crate) struct Deposit {
    /// Amount in tokens, e.g. 25 or 0.5.
    pub(crate) amount: String,
}

#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// Seconds to listen.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) seconds: u64,
    /// Stop as soon as this many offers and a relayer are known.
    #[arg(long, value_name = "COUNT")]
    pub(crate) at_least: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Providers {
    /// All known providers.
    List,
    /// One provider: offer; of each service the score, what it is made of, what others' ratings say and how much paid money stands behind them.
    Show {
        /// Peer id.
        provider: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Choose {
    /// Service: store, lightpush or filter.
    #[arg(default_value = "store")]
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) need: Need,
    /// cheapest, fastest, trusted or private.
    #[arg(long)]
    pub(crate) preset: Option<String>,
    /// Highest ticket price, in token base units.
    #[arg(long, value_name = "BASE_UNITS")]
    pub(crate) max_price: Option<u128>,
    /// Show every candidate with its score's parts, or the filter that removed it.
    #[arg(long)]
    pub(crate) explain: bool,
}

/// What a service is needed for.
#[derive(Debug, Default, Args)]
pub(crate) struct Need {
    /// Content topic that it is wanted for; may be repeated. The provider learns their shard and, for a store, the topics.
    #[arg(long = "topic", value_name = "CONTENT_TOPIC")]
    pub(crate) topics: Vec<String>,
    /// How much of it in each slot: store pages or messages to publish (10), or content topics to filter at once (those named, or 1).
    #[arg(long, value_name = "COUNT")]
    pub(crate) load: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Quote {
    /// Peer id. Unset: the one that `choose` picked last.
    pub(crate) provider: Option<String>,
    /// Service: store, lightpush or filter. Unset: the one that `choose` was asked for last, or store with a peer id.
    #[arg(long)]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) need: Need,
    /// For how long the service is wanted, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub(crate) duration: u64,
    /// Highest ticket price, in token base units.
    #[arg(long, value_name = "BASE_UNITS")]
    pub(crate) max_price: Option<u128>,
}

#[derive(Debug, Args)]
pub(crate) struct Open {
    /// Send the transaction from the keystore's account instead of through a relayer. It links that account to the stream.
    #[arg(long)]
    pub(crate) direct: bool,
    /// Start now, in the running slot: its past part is paid too.
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Buy {
    #[command(flatten)]
    pub(crate) choose: Choose,
    /// For how long the service is wanted, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub(crate) duration: u64,
    /// Show what would be bought and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Query {
    /// Content topics.
    #[arg(required = true, value_name = "CONTENT_TOPIC")]
    pub(crate) content_topics: Vec<String>,
    /// Messages a page, at most 100.
    #[arg(long, default_value_t = 20)]
    pub(crate) page_size: u64,
    /// Pages at most.
    #[arg(long, default_value_t = 10)]
    pub(crate) max_pages: u32,
    /// Ask without a ticket, as an unpaid client would.
    #[arg(long, conflicts_with = "buy")]
    pub(crate) unpaid: bool,
    /// After the query send the last paid request again, with the same ticket, and show the refusal.
    #[arg(long)]
    pub(crate) replay: bool,
    #[command(flatten)]
    pub(crate) using: Using,
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Content topic.
    pub(crate) content_topic: String,
    /// Payloads, one message each.
    #[arg(required = true)]
    pub(crate) payloads: Vec<String>,
    /// Shard, for a network without autosharding. Otherwise the content topic decides.
    #[arg(long, value_name = "INDEX", conflicts_with_all = ["paid", "buy"])]
    pub(crate) shard: Option<u16>,
    #[command(flatten)]
    pub(crate) paid: Paid,
}

/// Using a provider instead of relaying.
#[derive(Debug, Args)]
pub(crate) struct Paid {
    /// Use a provider, paid by the newest open stream to one that sells this; a stream that starts later is waited for.
    #[arg(long)]
    pub(crate) paid: bool,
    /// As --paid, and without such a stream buy one first: discover, choose, quote, open.
    #[arg(long)]
    pub(crate) buy: bool,
    /// Peer id of a provider that a stream pays already.
    #[arg(long, value_name = "PEER_ID", requires = "paid", conflicts_with = "buy")]
    pub(crate) provider: Option<String>,
    /// With --buy: for how long the service is wanted, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub(crate) duration: u64,
    /// With --buy: cheapest, fastest, trusted or private.
    #[arg(long, requires = "buy")]
    pub(crate) preset: Option<String>,
    /// With --buy: highest ticket price, in token base units.
    #[arg(long, value_name = "BASE_UNITS", requires = "buy")]
    pub(crate) max_price: Option<u128>,
    /// With --buy: show every candidate with its score's parts, or the filter that removed it.
    #[arg(long, requires = "buy")]
    pub(crate) explain: bool,
    /// With --buy: show what would be bought and stop.
    #[arg(long, requires = "buy")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Content topics.
    #[arg(required = true, value_name = "CONTENT_TOPIC")]
    pub(crate) content_topics: Vec<String>,
    /// Seconds to listen at the most.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Stop after this many messages.
    #[arg(long, value_name = "COUNT")]
    pub(crate) count: Option<usize>,
    #[command(flatten)]
    pub(crate) paid: Paid,
}

#[derive(Debug, Args)]
pub(crate) struct Assess {
    /// Peer id. Unset: the provider of the newest delivery.
    pub(crate) provider: Option<String>,
    /// Service: store, lightpush or filter. Unset: the one that was used last.
    #[arg(long)]
    pub(crate) service: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rate {
    /// Peer id. Unset: the provider of the newest stream.
    pub(crate) provider: Option<String>,
    /// Service. Unset: the one that the stream was opened for.
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// 0 (worthless) to 1 (perfect), in steps of 0.05. Unset: what your assessments since the stream's start come to.
    #[arg(long, value_name = "SCORE")]
    pub(crate) score: Option<f64>,
    /// Publish at a random time within so many seconds. Unset: reputation.rating_delay. 0 publishes at once, which tells when you rated.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) delay: Option<u64>,
    /// Make none; publish those that are due.
    #[arg(long, conflicts_with_all = ["provider", "service", "score", "delay"])]
    pub(crate) due: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Close {
    /// The stream's number, as `streams` shows it.
    pub(crate) stream: u64,
    /// Send from the keystore's account instead of through a relayer.
    #[arg(long)]
    pub(crate) direct: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Claim {
    /// Wait until this much can be claimed, in tokens.
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) least: Option<String>,
    /// How long to wait for it, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub(crate) wait: u64,
    /// Send from the keystore's account instead of through a relayer.
    #[arg(long)]
    pub(crate) direct: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Withdraw {
    /// Amount in tokens, or `all`.
    pub(crate) amount: String,
    /// Ethereum address that receives it.
    pub(crate) recipient: String,
    /// Send from the keystore's account instead of through a relayer.
    #[arg(long)]
    pub(crate) direct: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Gateway {
    #[command(flatten)]
    pub(crate) buying: Buying,
}

/// Buying within caps, for what runs long.
#[derive(Debug, Args)]
pub(crate) struct Buying {
    /// Buy what no open stream pays for, within the caps. Without it only open streams are used: the gateway answers what none pays for with 402.
    #[arg(long)]
    pub(crate) buy: bool,
    /// With --buy: what one purchase may cost, in token base units. Unset: gateway.max_purchase.
    #[arg(long, value_name = "BASE_UNITS", requires = "buy")]
    pub(crate) max_purchase: Option<u128>,
    /// With --buy: what all purchases of 24 hours may cost, in token base units. Unset: gateway.max_per_day.
    #[arg(long, value_name = "BASE_UNITS", requires = "buy")]
    pub(crate) max_per_day: Option<u128>,
    /// With --buy: cheapest, fastest, trusted or private.
    #[arg(long, requires = "buy")]
    pub(crate) preset: Option<String>,
    /// With --buy: highest ticket price, in token base units.
    #[arg(long, value_name = "BASE_UNITS", requires = "buy")]
    pub(crate) max_price: Option<u128>,
}

/// Whom to use, and buying.
#[derive(Debug, Args)]
pub(crate) struct Using {
    /// Peer id of the provider to use. Unset: the best.
    #[arg(long, value_name = "PEER_ID")]
    pub(crate) provider: Option<String>,
    /// With --buy: for how long each purchase pays, in seconds. Unset: gateway.duration.
    #[arg(long, value_name = "SECONDS", requires = "buy")]
    pub(crate) duration: Option<u64>,
    #[command(flatten)]
    pub(crate) buying: Buying,
}

#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The question. "-" reads it from standard input.
    pub(crate) question: String,
    /// The model, as offers name it. Unset: the one that a stream pays for, or the only one on offer.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Instructions to the model.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Tokens of the answer at most. Unset: gateway.answer_tokens.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// 0 to 2; 0 takes the likeliest token each time. Unset: the model's own.
    #[arg(long, value_name = "VALUE")]
    pub(crate) temperature: Option<f64>,
    /// Makes an answer repeatable where the model can.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// A probe: the SHA-256, in hexadecimal digits, of what the declared model answers to this. Another answer counts as false.
    #[arg(long, value_name = "HEX")]
    pub(crate) expect: Option<String>,
    /// Over a direct stream instead of Waku relay. The provider sees this machine's address.
    #[arg(long)]
    pub(crate) direct: bool,
    #[command(flatten)]
    pub(crate) using: Using,
}

#[derive(Debug, Args)]
pub(crate) struct Turn {
    /// Calls at once.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) calls: u32,
    /// Stop after so many minutes. Unset: at Ctrl-C.
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=525_600))]
    pub(crate) minutes: Option<u64>,
    /// Also print until when the relay is paid, grace included, each time that changes (Unix seconds).
    #[arg(long)]
    pub(crate) until: bool,
    #[command(flatten)]
    pub(crate) using: Using,
}

#[derive(Debug, Args)]
pub(crate) struct Stun {
    #[command(flatten)]
    pub(crate) using: Using,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Daemon {
    /// Run until SIGINT or SIGTERM.
    Run,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Content topic to query.
    pub(crate) content_topic: String,
    /// Paid and free requests, alternating.
    #[arg(long, default_value_t = 300)]
    pub(crate) requests: u32,
}
