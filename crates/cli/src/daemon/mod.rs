//! What `node run`, `provider run` and `relayer run` have in common: their end, and the HTTP port for their operator.

mod families;
pub(crate) mod http;
mod stop;
mod watch;

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::task::JoinHandle;
use tributary_waku::{
    FILTER_SUBSCRIBE_PROTOCOL, LIGHTPUSH_PROTOCOL, LIGHTPUSH_V2_PROTOCOL, NodeHandle, STORE_PROTOCOL,
};

pub(crate) use self::{
    stop::Stop,
    watch::{Part, Watch},
};
use crate::{context::Context, error::CliError};

/// Listens for signals.
pub(crate) fn stop(context: &Context) -> Result<Stop, CliError> {
    Stop::install(Duration::from_secs(context.config.stop_limit))
}

/// The HTTP port of a running daemon. It answers until this goes.
#[derive(Debug)]
pub(crate) struct Port {
    address: Option<SocketAddr>,
    task: Option<JoinHandle<()>>,
}

impl Port {
    /// Of a command that has none.
    pub(crate) const fn none() -> Self {
        Self { address: None, task: None }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Opens the HTTP port, if one is configured.
pub(crate) async fn open(context: &Context, watch: Watch) -> Result<Port, CliError> {
    let listen = &context.config.metrics.listen;
    if listen.is_empty() {
        return Ok(Port::none());
    }
    let (address, serving) = http::serve(address(listen)?, watch).await?;
    Ok(Port { address: Some(address), task: Some(tokio::spawn(serving)) })
}

/// The address in `metrics.listen`.
pub(crate) fn address(listen: &str) -> Result<SocketAddr, CliError> {
    listen.parse().map_err(|_| CliError::Input {
        reason: format!("metrics.listen '{listen}' is no address: write it like 127.0.0.1:9100, or leave it empty"),
    })
}

/// Says where the daemon listens: one JSON line on standard output, so that scripts can wait for it.
pub(crate) fn announce(node: &NodeHandle, role: &str, port: &Port) {
    let addresses: Vec<String> = node.listen_addrs().iter().map(ToString::to_string).collect();
    let record = node.record().map(|record| record.to_string());
    let http = port.address.map(|address| format!("http://{address}"));
    println!(
        "{}",
        json!({ "role": role, "peer_id": node.peer_id().to_string(), "addresses": addresses, "record": record, "http": http })
    );
}

/// Takes no more requests; those at work go on.
pub(crate) async fn close_protocols(node: &NodeHandle) {
    for protocol in [STORE_PROTOCOL, LIGHTPUSH_PROTOCOL, LIGHTPUSH_V2_PROTOCOL, FILTER_SUBSCRIBE_PROTOCOL] {
        node.unserve(protocol).await;
    }
}
