//! The `tributary` command: buy and sell services anonymously.

mod args;
mod commands;
mod config;
mod context;
mod daemon;
mod error;
mod output;

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command, Daemon, Sim},
    context::Context,
    error::CliError,
};

/// Time for work on other threads, a proof say, when everything else is over.
const LAST_WORK_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    output::started();
    let cli = Cli::parse();
    let filter = EnvFilter::try_new(&cli.log).unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(&cli));
    runtime.shutdown_timeout(LAST_WORK_LIMIT);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if cli.json {
                eprintln!("{}", error.json());
            } else {
                eprintln!("error: {error} [{}]", error.code());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(cli: &Cli) -> Result<(), CliError> {
    if let Command::Init(args) = &cli.command {
        return commands::init::run(cli, args);
    }
    if let Command::Sim(Sim::Reputation(args)) = &cli.command {
        return commands::sim::reputation(cli, args);
    }
    let context = Context::load(cli)?;
    match &cli.command {
        Command::Init(_) | Command::Sim(_) => Ok(()),
        Command::Wallet(command) => commands::wallet::run(&context, command).await,
        Command::Deposit(args) => commands::wallet::deposit(&context, args).await,
        Command::Discover(args) => commands::buyer::discover(&context, args).await,
        Command::Providers(command) => commands::rate::providers(&context, command).await,
        Command::Choose(args) => commands::buyer::choose(&context, args).await,
        Command::Quote(args) => commands::buyer::quote(&context, args).await,
        Command::Open(args) => commands::buyer::open(&context, args).await,
        Command::Buy(args) => commands::buyer::buy(&context, args).await,
        Command::Query(args) => commands::buyer::query(&context, args).await,
        Command::Publish(args) => commands::node::publish(&context, args).await,
        Command::Listen(args) => commands::node::listen(&context, args).await,
        Command::Assess(args) => commands::buyer::assess(&context, args).await,
        Command::Rate(args) => commands::rate::rate(&context, args).await,
        Command::Streams => commands::wallet::streams(&context).await,
        Command::Close(args) => commands::wallet::close(&context, args).await,
        Command::Claim(args) => commands::wallet::claim(&context, args).await,
        Command::Withdraw(args) => commands::wallet::withdraw(&context, args).await,
        Command::Insert => commands::wallet::insert(&context).await,
        Command::Books => commands::wallet::books(&context).await,
        Command::Bench(args) => commands::bench::run(&context, args).await,
        Command::Gateway(args) => commands::gateway::run(&context, args).await,
        Command::Ask(args) => commands::inference::ask(&context, args).await,
        Command::Turn(args) => commands::turn::run(&context, args).await,
        Command::Stun(args) => commands::turn::ask(&context, args).await,
        Command::Doctor => commands::doctor::run(&context).await,
        Command::Node(Daemon::Run) => commands::node::run(&context).await,
        Command::Provider(Daemon::Run) => commands::provider::run(&context).await,
        Command::Tickets(Daemon::Run) => commands::tickets::run(&context).await,
        Command::Relayer(Daemon::Run) => commands::relayer::run(&context).await,
    }
}
