//! An operator's coturn as the server: credentials of its REST scheme, and its admin port for what a lease used and for ending it.
//!
//! coturn needs `use-auth-secret`, `static-auth-secret`, `cli-password`, and its admin port on loopback; one provider to each coturn. A credential's user name
//! is the time at which the lease ends and the lease's own name, so coturn refuses it by itself afterwards; calls that are up then are ended through the admin
//! port. coturn tells what an allocation relayed after each 2048 packets and when it is refreshed: so fine are megabytes counted.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use hmac::{Hmac, Mac as _};
use parking_lot::Mutex;
use sha1::Sha1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tributary_protocol::UnixTime;
use zeroize::Zeroizing;

use crate::backend::{Allowance, Backend, BackendError, Session, Usage};
use crate::credential::{Credential, LeaseId, base64};

/// How long the admin port may take for one answer.
const PATIENCE: Duration = Duration::from_millis(700);
/// Longest answer of the admin port, bytes.
const MAX_ANSWER: usize = 8 << 20;
/// Sessions that the admin port is told to list.
const MAX_SESSIONS: u32 = 20_000;
/// Sessions that are ended in one look.
const MAX_CUTS: usize = 1_000;
/// What precedes a command.
const PROMPT: &[u8] = b"> ";

/// How a coturn is used.
#[derive(Clone)]
pub struct CoturnConfig {
    admin: SocketAddr,
    password: Zeroizing<String>,
    secret: Zeroizing<String>,
    realm: String,
}

impl CoturnConfig {
    /// By its admin port (`cli-ip`, `cli-port`) with `cli-password`, 1 to 128 printable ASCII characters, its `static-auth-secret` and its `realm`.
    #[must_use]
    pub fn new(admin: SocketAddr, password: String, secret: String, realm: String) -> Self {
        Self { admin, password: Zeroizing::new(password), secret: Zeroizing::new(secret), realm }
    }
}

impl fmt::Debug for CoturnConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoturnConfig").field("admin", &self.admin).field("realm", &self.realm).finish_non_exhaustive()
    }
}

/// A lease's account.
#[derive(Debug, Default)]
struct Account {
    allowance: Option<Allowance>,
    /// Bytes of allocations that are over.
    over: u64,
    /// Bytes of those that were live when coturn was last looked at, by coturn's number.
    live: HashMap<String, u64>,
}

impl Account {
    fn bytes(&self) -> u64 {
        self.live.values().fold(self.over, |sum, bytes| sum.saturating_add(*bytes))
    }
}

#[derive(Debug, Default)]
struct State {
    /// As many as there are leases.
    accounts: HashMap<LeaseId, Account>,
    sessions: Vec<Session>,
}

/// An operator's coturn.
pub struct Coturn {
    config: CoturnConfig,
    state: Mutex<State>,
    admin: tokio::sync::Mutex<Option<Admin>>,
}

impl fmt::Debug for Coturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coturn").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Coturn {
    /// Connects to the admin port, and ends what an earlier run of the provider left behind.
    ///
    /// # Errors
    /// [`BackendError::Admin`].
    pub async fn start(config: CoturnConfig) -> Result<Self, BackendError> {
        let printable = |text: &str| (1..=128).contains(&text.len()) && text.bytes().all(|b| (0x21..0x7f).contains(&b));
        if !printable(&config.password) || config.secret.is_empty() {
            let reason = "its password is not 1 to 128 printable characters, or its secret is empty";
            return Err(BackendError::Admin { address: config.admin, reason: reason.into() });
        }
        let coturn = Self { config, state: Mutex::default(), admin: tokio::sync::Mutex::default() };
        coturn.look().await?;
        Ok(coturn)
    }

    fn error(&self, reason: impl Into<String>) -> BackendError {
        BackendError::Admin { address: self.config.admin, reason: reason.into() }
    }

    /// Reads what is live, and ends what may not be.
    async fn look(&self) -> Result<(), BackendError> {
        let mut slot = self.admin.lock().await;
        // One that was idle may have been closed meanwhile: that is no failure yet.
        let mut admin = match slot.take() {
            Some(mut admin) => match admin.command("ps").await {
                Ok(text) => return self.settle(&mut slot, admin, &text).await,
                Err(_) => Admin::open(&self.config).await,
            },
            None => Admin::open(&self.config).await,
        }
        .map_err(|reason| self.error(reason))?;
        let text = admin.command("ps").await.map_err(|reason| self.error(reason))?;
        self.settle(&mut slot, admin, &text).await
    }

    async fn settle(&self, slot: &mut Option<Admin>, mut admin: Admin, text: &str) -> Result<(), BackendError> {
        let sessions = read_sessions(text).map_err(|reason| self.error(reason))?;
        let ended = self.state.lock().count(sessions);
        for id in &ended {
            admin.command(&format!("cs {id}")).await.map_err(|reason| self.error(reason))?;
        }
        if !ended.is_empty() {
            // coturn says nothing of what it ended.
            let text = admin.command("ps").await.map_err(|reason| self.error(reason))?;
            self.state.lock().count(read_sessions(&text).map_err(|reason| self.error(reason))?);
        }
        *slot = Some(admin);
        Ok(())
    }
}

impl State {
    /// Takes what is live; returns what must end.
    fn count(&mut self, seen: Vec<Listed>) -> Vec<String> {
        let mut ended = Vec::new();
        let mut live: HashMap<LeaseId, Vec<Listed>> = HashMap::new();
        for session in seen {
            live.entry(session.lease).or_default().push(session);
        }
        self.sessions.clear();
        for (lease, account) in &mut self.accounts {
            let sessions = live.get(lease).map_or(&[][..], Vec::as_slice);
            let gone = account.live.extract_if(|id, _| !sessions.iter().any(|session| session.id == *id));
            account.over = gone.fold(account.over, |sum, (_, bytes)| sum.saturating_add(bytes));
            account.live = sessions.iter().map(|session| (session.id.clone(), session.bytes)).collect();
        }
        for (lease, mut sessions) in live {
            let account = self.accounts.get(&lease);
            let allowed = account.and_then(|account| account.allowance).unwrap_or(Allowance::NONE);
            let spent = account.is_none_or(|account| account.bytes() >= allowed.bytes);
            let room = if spent { 0 } else { usize::try_from(allowed.allocations).unwrap_or(usize::MAX) };
            // The oldest ones stay.
            sessions.sort_by_key(|session| std::cmp::Reverse(session.age));
            for (place, session) in sessions.into_iter().enumerate() {
                if place >= room && ended.len() < MAX_CUTS {
                    ended.push(session.id);
                }
                self.sessions.push(Session {
                    lease,
                    client: session.client,
                    relay: session.relay,
                    bytes: session.bytes,
                });
            }
        }
        ended
    }
}

#[async_trait]
impl Backend for Coturn {
    fn realm(&self) -> &str {
        &self.config.realm
    }

    fn counts_bindings(&self) -> bool {
        false
    }

    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    fn issue(&self, lease: LeaseId, until: UnixTime) -> Credential {
        self.state.lock().accounts.entry(lease).or_default();
        let username = format!("{}:{lease}", until.get());
        let mut mac = Hmac::<Sha1>::new_from_slice(self.config.secret.as_bytes()).expect("any length");
        mac.update(username.as_bytes());
        Credential { password: base64(&mac.finalize().into_bytes()), username }
    }

    fn allow(&self, lease: LeaseId, allowance: Allowance) {
        if let Some(account) = self.state.lock().accounts.get_mut(&lease) {
            account.allowance = Some(allowance);
        }
    }

    fn usage(&self, lease: LeaseId) -> Usage {
        let state = self.state.lock();
        Usage { bytes: state.accounts.get(&lease).map_or(0, Account::bytes), bindings: 0 }
    }

    fn list(&self) -> Vec<Session> {
        self.state.lock().sessions.clone()
    }

    async fn cut(&self, lease: LeaseId) -> Result<(), BackendError> {
        self.allow(lease, Allowance::NONE);
        self.look().await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), BackendError> {
        // What is live of a lease that isn't known is ended by each look.
        self.state.lock().accounts.remove(&lease);
        self.look().await
    }

    async fn poll(&self) -> Result<(), BackendError> {
        self.look().await
    }

    async fn stop(&self) {
        self.state.lock().accounts.clear();
        if let Err(error) = self.look().await {
            tracing::warn!(code = error.code(), %error, "calls may go on until their allocations end");
        }
    }
}

/// A connection to the admin port.
struct Admin {
    stream: TcpStream,
}

impl Admin {
    async fn open(config: &CoturnConfig) -> Result<Self, String> {
        let connect = timeout(PATIENCE, TcpStream::connect(config.admin)).await;
        let stream = connect.map_err(|_| "no connection in time".to_owned())?.map_err(|error| error.to_string())?;
        let mut admin = Self { stream };
        let greeting = admin.until(|bytes| bytes.ends_with(b"password: \r\n") || is_prompt(bytes)).await?;
        if !is_prompt(&greeting) {
            let line = Zeroizing::new(format!("{}\r\n", *config.password));
            admin.write(line.as_bytes()).await?;
            // It asks again when the password is wrong, and closes in the end.
            let answer = admin.until(|bytes| bytes.ends_with(b"\r\n") || is_prompt(bytes)).await;
            if !answer.is_ok_and(|bytes| is_prompt(&bytes)) {
                return Err("the password is not taken".into());
            }
        }
        admin.command(&format!("cc cli-max-output-sessions {MAX_SESSIONS}")).await?;
        Ok(admin)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let written = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        written.map_err(|_| "it takes nothing".to_owned())?.map_err(|error| error.to_string())
    }

    async fn command(&mut self, command: &str) -> Result<String, String> {
        self.write(format!("{command}\r\n").as_bytes()).await?;
        let answer = self.until(is_prompt).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn until(&mut self, done: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, String> {
        let mut answer = Vec::new();
        let reading = async {
            let mut more = [0; 16 * 1024];
            while !done(&answer) {
                let length = self.stream.read(&mut more).await.map_err(|error| error.to_string())?;
                if length == 0 {
                    return Err("it closed the connection".to_owned());
                }
                if answer.len() + length > MAX_ANSWER {
                    return Err(format!("it says more than {MAX_ANSWER} bytes"));
                }
                answer.extend_from_slice(&more[..length]);
            }
            Ok(())
        };
        timeout(PATIENCE, reading).await.map_err(|_| "no answer in time".to_owned())??;
        Ok(answer)
    }
}

fn is_prompt(bytes: &[u8]) -> bool {
    bytes.strip_suffix(PROMPT).is_some_and(|before| before.last().is_none_or(|last| *last == b'\n'))
}

/// A session as the admin port lists it, of a lease.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    id: String,
    lease: LeaseId,
    age: u64,
    client: Option<SocketAddr>,
    relay: Option<SocketAddr>,
    bytes: u64,
}

/// Reads the answer to `ps`. Sessions of users that are no leases are the operator's own, and left alone.
fn read_sessions(text: &str) -> Result<Vec<Listed>, String> {
    let mut sessions = Vec::new();
    let (mut total, mut shown) = (None, 0);
    // Whether the lines belong to the last of `sessions`.
    let mut ours = false;
    for line in text.lines().map(str::trim) {
        if let Some(count) = line.strip_prefix("Total sessions: ") {
            total = count.parse::<usize>().ok();
        } else if let Some((id, user)) = line.split_once(") id=").and_then(|(_, rest)| rest.split_once(", user <")) {
            shown += 1;
            let lease = user.strip_suffix(">:").and_then(|user| user.split_once(':'));
            let lease = lease.filter(|(until, _)| until.bytes().all(|b| b.is_ascii_digit()));
            let lease: Option<LeaseId> = lease.and_then(|(_, lease)| lease.parse().ok());
            ours = lease.is_some() && id.bytes().all(|b| b.is_ascii_digit());
            if let Some(lease) = lease.filter(|_| ours) {
                sessions.push(Listed { id: id.to_owned(), lease, age: 0, client: None, relay: None, bytes: 0 });
            }
        } else if let Some(session) = sessions.last_mut().filter(|_| ours) {
            if let Some(age) = line.strip_prefix("started ").and_then(|rest| rest.split(' ').next()) {
                session.age = age.parse().unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("client addr ") {
                session.client = rest.split(',').next().and_then(|address| address.parse().ok());
            } else if let Some(address) = line.strip_prefix("relay addr ") {
                session.relay = address.parse().ok();
            } else if let Some(usage) = line.strip_prefix("usage: ") {
                let fields = usage.split(", ").filter_map(|field| field.split_once('='));
                let bytes = fields.filter(|(name, _)| matches!(*name, "rb" | "sb"));
                session.bytes = bytes.filter_map(|(_, value)| value.parse::<u64>().ok()).sum();
            }
        }
    }
    match total {
        Some(total) if total == shown => Ok(sessions),
        Some(total) => Err(format!("it lists {shown} of {total} sessions")),
        None => Err("its list of sessions can't be read".into()),
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::UnixTime;

    use super::{Account, Allowance, Listed, State, is_prompt, read_sessions};
    use crate::credential::LeaseId;

    /// As coturn 4.6.1 prints it.
    fn listing(user: &str) -> String {
        format!(
            "\r\n    1) id=000000000000000001, user <{user}>:\r\n      realm: tributary\r\n      started 4 secs ago\r\n      expiring in 773 secs\r\n      \
             client protocol UDP, relay protocol UDP\r\n      client addr 127.0.0.1:42571, server addr 127.0.0.1:34781\r\n      relay addr 127.0.0.1:50020\r\n      \
             fingerprints enforced: ON\r\n      mobile: OFF\r\n      usage: rp=3, rb=316, sp=2, sb=216\r\n       rate: r=0, s=0, total=0 (bytes per sec)\r\n\r\n    \
             2) id=001000000000000001, user <guest>:\r\n      started 9 secs ago\r\n      usage: rp=1, rb=5, sp=1, sb=5\r\n      peers:\r\n          127.0.0.1:7001\r\n\r\n  \
             Total sessions: 2\r\n\r\n> "
        )
    }

    fn session(id: &str, lease: LeaseId, age: u64, bytes: u64) -> Listed {
        Listed { id: id.into(), lease, age, client: None, relay: None, bytes }
    }

    #[test]
    fn sessions_of_leases_are_read_and_others_left_alone() {
        let lease = LeaseId::random();
        let text = listing(&format!("{}:{lease}", UnixTime::MAX.get()));
        assert!(is_prompt(text.as_bytes()) && !is_prompt(&text.as_bytes()[..text.len() - 1]));
        let expected = Listed {
            client: "127.0.0.1:42571".parse().ok(),
            relay: "127.0.0.1:50020".parse().ok(),
            ..session("000000000000000001", lease, 4, 532)
        };
        assert_eq!(read_sessions(&text).unwrap(), [expected]);
        assert!(read_sessions(&listing("1:x")).unwrap().is_empty(), "no lease's name");
        assert!(read_sessions(&text.replace("sessions: 2", "sessions: 3")).unwrap_err().contains("2 of 3"));
        assert!(read_sessions("nonsense").is_err());
    }

    #[test]
    fn what_is_too_many_spent_or_unknown_must_end() {
        let (lease, stranger) = (LeaseId::random(), LeaseId::random());
        let mut state = State::default();
        let allowance = Some(Allowance { bytes: 100, allocations: 2, bindings: 0 });
        state.accounts.insert(lease, Account { allowance, ..Account::default() });
        let seen = vec![session("1", lease, 1, 10), session("2", lease, 9, 10), session("3", lease, 5, 10)];
        assert_eq!(state.count(seen), ["1"], "the newest of three");
        assert_eq!(state.count(vec![session("9", stranger, 1, 0)]), ["9"]);
        assert_eq!(state.accounts[&lease].bytes(), 30, "of those that are over");
        assert!(state.count(vec![session("4", lease, 1, 69)]).is_empty());
        assert_eq!(state.count(vec![session("4", lease, 1, 70)]), ["4"], "all bytes are used");
        assert_eq!(state.sessions.len(), 1);
    }
}
