//! How many packets a second one call gets through the embedded server, and through coturn on the same machine in the same run.
//!
//! `cargo run --workspace --example turn-bench -- [--seconds 2] [--rounds 3] [--sizes 200,1200] [--indications] [--only tributary|coturn]`
//!
//! Each server is a process of its own. The client holds one allocation; at the same rate it sends to a peer through the relay, and the peer sends to it. Both
//! receiving sides are counted. The offered rate is raised until more than one packet in a thousand is lost in either direction; between the last rate that
//! got through and the first that didn't, the highest is searched. On a machine with other work run it under `chrt -r 10`, so that the client and both servers
//! are scheduled first. coturn is Debian's (`script/setup js-tests` installs it).

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::IoSlice;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use tributary_protocol::UnixTime;
use tributary_service_turn::{
    Allowance, Backend as _, Credential, Embedded, EmbeddedConfig, LeaseId, Limits, TurnClient,
};

type Failure = Box<dyn std::error::Error>;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The peer: not the relay's own address, which nobody may reach beside the relays.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const CHANNEL: u16 = 0x4001;
/// Loss that still counts as getting through.
const LOSS: f64 = 0.001;
/// Packets that are sent at once, at most: those that fell due while the sender slept.
const BATCH: usize = 16;
/// How long the sender sleeps.
const TICK: Duration = Duration::from_micros(100);
/// How long packets may be on their way.
const DRAIN: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_RATE: f64 = 20_000.0;
const STEP: f64 = 1.3;
/// Halvings of the last step.
const REFINE: u32 = 3;

struct Options {
    seconds: f64,
    rounds: usize,
    sizes: Vec<usize>,
    indications: bool,
    only: Option<String>,
}

impl Options {
    fn read() -> Result<Self, Failure> {
        let mut options = Self { seconds: 2.0, rounds: 3, sizes: vec![200, 1200], indications: false, only: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--indications" {
                options.indications = true;
                continue;
            }
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--seconds" => options.seconds = value.parse()?,
                "--rounds" => options.rounds = value.parse()?,
                "--sizes" => options.sizes = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--only" => options.only = Some(value),
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }
}

/// A server under test.
struct Server {
    process: Child,
    address: SocketAddr,
    credential: Credential,
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    fn start(name: &str) -> Result<Self, Failure> {
        if name == "coturn" { Self::coturn() } else { Self::tributary() }
    }

    fn tributary() -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let [address, username, password] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("the server said {line:?}").into());
        };
        let credential = Credential { username: username.into(), password: password.into() };
        Ok(Self { process, address: address.parse()?, credential, _folder: None })
    }

    fn coturn() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let address = SocketAddr::new(LOOPBACK, UdpSocket::bind((LOOPBACK, 0))?.local_addr()?.port());
        let (database, pid) = (folder.path().join("database"), folder.path().join("pid"));
        let settings = format!(
            "listening-ip={LOOPBACK}\nrelay-ip={LOOPBACK}\nlistening-port={}\nlt-cred-mech\nuser=bench:bench\nrealm=bench\nno-cli\nno-tls\nno-dtls\n\
             allow-loopback-peers\nuserdb={}\npidfile={}\nno-stdout-log\nlog-file=/dev/null\n",
            address.port(),
            database.display(),
            pid.display(),
        );
        let file = folder.path().join("turnserver.conf");
        std::fs::write(&file, settings)?;
        let process = Command::new("turnserver")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("turnserver: {error}; install it with script/setup js-tests"))?;
        let credential = Credential { username: "bench".into(), password: "bench".into() };
        Ok(Self { process, address, credential, _folder: Some(folder) })
    }

    /// Processor time that the process has used, seconds.
    fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let ticks: u64 = after.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The embedded server, until its input is closed.
fn serve() -> Result<(), Failure> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let config = EmbeddedConfig {
            tcp: vec![],
            allowed_peers: vec!["127.0.0.0/8".parse()?],
            limits: Limits { bytes_per_second: 100_000_000_000, ..Limits::default() },
            ..EmbeddedConfig::new(SocketAddr::new(LOOPBACK, 0))
        };
        let server = Embedded::start(config).await?;
        let lease = LeaseId::random();
        let credential = server.issue(lease, UnixTime::MAX);
        server.allow(lease, Allowance { bytes: u64::MAX, allocations: 8, bindings: 8 });
        println!("{} {} {}", server.udp_addresses()[0], credential.username, credential.password);
        std::io::stdout().flush()?;
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        Ok(())
    })
}

/// Counts packets of at least `least` bytes until it is told to stop.
fn count(socket: UdpSocket, least: usize, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 4096];
        let mut seen = 0;
        while !stop.load(Ordering::Relaxed) {
            if socket.recv(&mut buffer).is_ok_and(|length| length >= least) {
                seen += 1;
            }
        }
        seen
    })
}

/// Sends at a rate, and says how many it sent.
fn offer(socket: UdpSocket, packet: Vec<u8>, rate: f64, lasts: Duration) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let begun = Instant::now();
        let mut sent = 0_u64;
        let slice = [IoSlice::new(&packet)];
        while begun.elapsed() < lasts {
            let due = ((begun.elapsed().as_secs_f64() * rate) as u64).saturating_sub(sent).min(BATCH as u64);
            if due == 0 {
                std::thread::sleep(TICK);
                continue;
            }
            let mut controls: Vec<_> = (0..due).map(|_| SendAncillaryBuffer::default()).collect();
            let mut batch: Vec<_> = controls.iter_mut().map(|control| MMsgHdr::new(&slice, control)).collect();
            sent += sendmmsg(socket.as_fd(), &mut batch, SendFlags::empty()).unwrap_or(0) as u64;
        }
        sent
    })
}

/// What came of one rate.
#[derive(Clone, Copy)]
struct Seen {
    /// Packets a second in each direction that were really offered: the lesser of both.
    offered: f64,
    loss: f64,
    /// Processor time of the server for each packet, microseconds.
    cost: f64,
}

struct Call {
    client: UdpSocket,
    peer: UdpSocket,
    up: Vec<u8>,
    down: Vec<u8>,
    _relay: TurnClient,
}

impl Call {
    async fn set_up(server: &Server, size: usize, indications: bool) -> Result<Self, Failure> {
        let begun = Instant::now();
        let mut relay = loop {
            match TurnClient::allocate(server.address, server.credential.clone(), Duration::from_secs(1)).await {
                Ok(relay) => break relay,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => {}
            }
        };
        let peer = UdpSocket::bind((PEER, 0))?;
        let address = peer.local_addr()?;
        relay.permit(address).await?;
        if !indications {
            relay.bind_channel(CHANNEL, address).await?;
        }
        peer.connect(relay.relayed())?;
        let client = UdpSocket::from(relay.socket().as_fd().try_clone_to_owned()?);
        client.set_nonblocking(false)?;
        for socket in [&client, &peer] {
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket, 4 << 20);
        }
        let down = vec![7; size];
        let up = relay.packet(address, &down);
        Ok(Self { client, peer, up, down, _relay: relay })
    }

    fn run(&self, server: &Server, rate: f64, seconds: f64) -> Result<Seen, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let size = self.down.len();
        let counting = [
            count(self.peer.try_clone()?, size, Arc::clone(&stop)),
            count(self.client.try_clone()?, size, Arc::clone(&stop)),
        ];
        let before = server.processor();
        let begun = Instant::now();
        let lasts = Duration::from_secs_f64(seconds);
        let sending = [
            offer(self.client.try_clone()?, self.up.clone(), rate, lasts),
            offer(self.peer.try_clone()?, self.down.clone(), rate, lasts),
        ];
        let sent = sending.map(|thread| thread.join().unwrap_or(0));
        let took = begun.elapsed().as_secs_f64();
        std::thread::sleep(DRAIN);
        stop.store(true, Ordering::Relaxed);
        let seen = counting.map(|thread| thread.join().unwrap_or(0));
        let cost = (server.processor() - before) / (seen[0] + seen[1]) as f64 * 1e6;
        let loss = (0..2).map(|way| 1.0 - seen[way] as f64 / sent[way] as f64).fold(0.0, f64::max);
        Ok(Seen { offered: sent[0].min(sent[1]) as f64 / took, loss, cost })
    }

    /// The highest rate that gets through.
    fn highest(&self, server: &Server, seconds: f64) -> Result<Seen, Failure> {
        let mut best = Seen { offered: 0.0, loss: 0.0, cost: 0.0 };
        let (mut good, mut rate) = (0.0, FIRST_RATE);
        let mut bad = loop {
            let seen = self.twice(server, rate, seconds)?;
            // When the senders don't get up to the rate, that is all this machine can offer.
            if seen.loss > LOSS || seen.offered < 0.9 * rate {
                if seen.loss <= LOSS && seen.offered > best.offered {
                    best = seen;
                }
                break rate;
            }
            (good, best) = (rate, seen);
            rate *= STEP;
        };
        for _ in 0..REFINE {
            let rate = f64::midpoint(good, bad);
            let seen = self.twice(server, rate, seconds)?;
            if seen.loss > LOSS || seen.offered < 0.9 * rate {
                bad = rate;
            } else {
                good = rate;
                if seen.offered > best.offered {
                    best = seen;
                }
            }
        }
        Ok(best)
    }

    /// A loss may be another process's doing: it counts when it is seen twice.
    fn twice(&self, server: &Server, rate: f64, seconds: f64) -> Result<Seen, Failure> {
        let seen = self.run(server, rate, seconds)?;
        if seen.loss <= LOSS { Ok(seen) } else { self.run(server, rate, seconds) }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn main() -> Result<(), Failure> {
    if std::env::args().nth(1).is_some_and(|argument| argument == "--serve") {
        return serve();
    }
    let options = Options::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for size in &options.sizes {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 1..=options.rounds {
            for (name, rates) in ["tributary", "coturn"].into_iter().zip(&mut rates) {
                if options.only.as_ref().is_some_and(|only| only != name) {
                    continue;
                }
                let server = Server::start(name)?;
                let call = runtime.block_on(Call::set_up(&server, *size, options.indications))?;
                let seen = call.highest(&server, options.seconds)?;
                println!(
                    "{size} bytes, round {round}, {name}: {:.0} packets a second each way, {:.4}% lost, {:.2} us of processor a packet",
                    seen.offered,
                    seen.loss * 100.0,
                    seen.cost
                );
                rates.push(seen.offered);
            }
        }
        let [ours, theirs] = rates.map(median);
        println!("{size} bytes: {ours:.0} against {theirs:.0} packets a second each way: {:.2}", ours / theirs);
    }
    Ok(())
}
